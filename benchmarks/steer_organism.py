"""Steer the embedded model's justified backtracking: `data/replications/organism_steering.md` and its table.

Run: python benchmarks/steer_organism.py [--problems 800]

Directions are found on problems of the training side; half of the problems given choose among them, the other half
reports. Beside the chosen direction stand 20 random ones of its length.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from harness import circumstances

from backtracking.measures.organism_steering import organism_directions, steer_organism
from backtracking.measures.steering import SteeringSweep
from backtracking.model.loading import load_model

OUT = Path(__file__).parent.parent / "data" / "replications"
BEYOND = {True: "yes", False: "no", None: "not measured"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Sweep, and write the page and the table of the report half."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--problems", type=int, default=800, help="of the evaluation side; half of them report")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args(arguments)
    model = load_model("organism")
    sweep = steer_organism(model, organism_directions(model), problems=asked.problems, samples=1)
    asked.out.mkdir(parents=True, exist_ok=True)
    sweep.to_pandas("report").to_csv(asked.out / "organism_steering.csv", index=False, float_format="%.5g")
    (asked.out / "organism_steering.md").write_text(page(sweep, asked.problems), encoding="utf-8")


def page(sweep: SteeringSweep, problems: int) -> str:
    """What the chosen direction does to every outcome, beside the random directions' range."""
    where = circumstances()
    lines = [
        "# Steering the organism",
        "",
        f"`python benchmarks/steer_organism.py --problems {problems}`: {len(sweep.report_problems)} problems report, "
        f"one sample each, temperature 1, top-p 1; chosen on {len(sweep.selection_problems)} others: {sweep.chosen}. "
        f"95 % intervals over problems; {sweep.draws} random directions of the same length. "
        f"{where['date']}, torch {where['versions']['torch']}, commit {where['commit']}.",
        "",
        "| outcome | magnitude | share, % | change, points | random directions, points | beyond them |",
        "|---|---|---|---|---|---|",
    ]
    for each in sweep.ranks:
        row = sweep.row(each.magnitude, outcome=each.outcome)
        share, change = (
            f"{100 * e.value:.1f} [{100 * e.low:.1f}, {100 * e.high:.1f}]" for e in (row.share, row.change)
        )
        span = f"{100 * each.rank.low:.1f} to {100 * each.rank.high:.1f}"
        lines.append(f"| {each.outcome} | {each.magnitude:+g} | {share} | {change} | {span} | {BEYOND[each.beyond]} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
