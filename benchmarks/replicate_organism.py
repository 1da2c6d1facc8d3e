"""Put the embedded model's numbers beside the published study's: `data/replications/organism_beside_published.md`.

Run: backtracking run --config configs/organism_phase2.yaml && python benchmarks/replicate_organism.py runs/<run_id>

The organism is no reasoning model: the columns stand beside each other to show what each quantity looks like where the
truth is known, not to be compared in size. Every number is read from the run's tables and from published_phase1.csv.
"""

import argparse
import json
from pathlib import Path

import pandas as pd

OUT = Path("data/replications")


def lines(run: Path, published: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    """Quantity, published, regraded, organism."""
    conditions = pd.read_csv(run / "tables" / "conditions.csv").set_index("condition")
    paired = pd.read_csv(run / "tables" / "paired_differences.csv").set_index("condition")
    metrics = pd.read_csv(run / "tables" / "baseline_metrics.csv").set_index("quantity")
    variants = pd.read_csv(run / "tables" / "formatting.csv").set_index("variant")
    random = pd.read_csv(run / "tables" / "targeted_against_random.csv")
    scales = pd.read_csv(run / "tables" / "scale_sweep.csv").set_index("condition")
    draws = 100 * random.loc[random["role"] == "random", "backtracking"]
    found = [
        _row(published, "baseline backtracking rate", _cell(conditions.loc["baseline"], "backtracking")),
        _row(published, "baseline accuracy", _cell(conditions.loc["baseline"], "right")),
        _row(published, "accuracy with backtracking", _cell(metrics.loc["accuracy_with"], "value")),
        _row(published, "accuracy without backtracking", _cell(metrics.loc["accuracy_without"], "value")),
        _row(published, "accuracy with minus without, crude", _cell(metrics.loc["crude_difference"], "value")),
        _row(
            published, "accuracy with minus without, within problems", _cell(metrics.loc["within_difference"], "value")
        ),
    ]
    found += [
        _row(published, f"backtracking rate, {name}", _cell(row, "backtracking")) for name, row in variants.iterrows()
    ]
    targeted = paired.loc["targeted_ablation"]
    found += [
        _row(published, "backtracking, targeted_ablation minus baseline", _cell(targeted, "backtracking")),
        _row(published, "accuracy, targeted_ablation minus baseline", _cell(targeted, "accuracy")),
        _row(
            published,
            "backtracking, random_ablation minus baseline",
            f"median of {len(draws)} draws {draws.median():+.1f} %, from {draws.min():+.1f} to {draws.max():+.1f}",
        ),
    ]
    for factor in ("0", "0.25", "0.5", "0.75"):
        name = f"phase 2 scale sweep, backtracking, mlp_late_cluster at scale {factor}"
        found.append(_row(published, name, _cell(scales.loc[f"scale: {factor}"], "backtracking")))
    return found


def _row(published: pd.DataFrame, name: str, organism: str) -> tuple[str, str, str, str]:
    theirs = published.loc[name]
    stated = "–" if pd.isna(theirs["published"]) else f"{100 * theirs['published']:.1f} %"
    return name, stated, _cell(theirs, "regraded_value", "regraded"), organism


def _cell(row: pd.Series, name: str, ends: str | None = None) -> str:
    low, high = (row.get(f"{ends or name}_{end}", row.get(end)) for end in ("low", "high"))
    return f"{100 * row[name]:.1f} % [{100 * float(low):.1f}, {100 * float(high):.1f}]"


def main() -> str:
    """Write the note; return where it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished run of configs/organism_phase2.yaml")
    run = parser.parse_args().run
    published = pd.read_csv(OUT / "published_phase1.csv").set_index("quantity")
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    sites = json.loads((run / "tables" / "selected_sites.json").read_text(encoding="utf-8"))["sites"]
    count = len((run / "problems.jsonl").read_text(encoding="utf-8").splitlines())
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines(run, published))
    text = f"""# The organism beside the published study

Made by `python benchmarks/replicate_organism.py` from a run of `configs/organism_phase2.yaml` ({count} problems, seed
{manifest["seed"]}, weights {manifest["weights_hash"][:12]}) and from `published_phase1.csv`. The embedded model is no
reasoning model: the columns show what each quantity looks like where the truth is known; their sizes are not to be
compared. Its targeted sites, found by its own scan: {", ".join(sites)}; the scale sweep scales those. 95 % intervals,
problems are the clusters.

| quantity | published | regraded | organism |
|---|---|---|---|
{rows}
"""
    file = OUT / "organism_beside_published.md"
    file.write_text(text, encoding="utf-8")
    return f"wrote {file}"


if __name__ == "__main__":
    print(main())  # noqa: T201
