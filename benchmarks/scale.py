"""Does analysis stay in memory and linear? Synthetic completions of the organism's grammar, analysed from end to end.

Run: python benchmarks/scale.py [--sizes 10000 100000 1000000] [--keep FOLDER]

The grammar's own record says of every completion whether it backtracks and answers right, so the rates found are
checked against the truth. Each size is analysed in a fresh process, whose peak memory is what the system reports.
"""

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SIZES = (10_000, 100_000, 1_000_000)
SAMPLES, PART = 10, 4000
CUT = 0.03
"""Share of completions that are cut at the limit of tokens."""
RATES = {"baseline": {}, "quiet": {"notice": 0.2, "notice_unchecked": 0.0}, "careful": {"slip": 0.1, "carry": 0.2}}
LIMIT = 2 * 2**30


def generate(folder: Path, size: int) -> dict[str, dict[str, float]]:
    """Write so many completions (of whole problems) as parts, and the problems; returns each arm's true rates."""
    from backtracking.core.completions import Completions
    from backtracking.model.organism.tokenizer import build_tokenizer

    rng, tokenizer = random.Random(size), build_tokenizer()
    tokens: Any = tokenizer.backend_tokenizer
    totals = {arm: [0, 0, 0] for arm in RATES}
    folder.mkdir(parents=True)
    with (folder / "problems.jsonl").open("w") as problems:
        rows = _drawn(rng, size, problems, totals)
        for number, held in enumerate(iter(lambda: list(islice(rows, PART)), [])):
            encoded = tokens.encode_batch([text for *_, text, _ in held], add_special_tokens=False)
            part = (_completion(row, each) for row, each in zip(held, encoded, strict=True))
            Completions(part).save(folder / f"part-{number:05d}.parquet")
    return {arm: {"backtracking": b / n, "right": r / n} for arm, (n, b, r) in totals.items()}


def _drawn(rng: random.Random, size: int, problems: Any, totals: dict[str, list[int]]) -> Iterator[tuple]:
    """Problem, sample, arm, text and whether it was cut; the truth is counted on the way."""
    from backtracking.model.organism.grammar import Rates, draw_attempt, draw_document

    arms = {arm: Rates(**changed) for arm, changed in RATES.items()}
    drawn = problem = 0
    while drawn < size:
        first = draw_document(rng, difficulty=rng.choice(("easy", "medium", "hard")))
        gold = first.story.start + sum(first.story.moves)
        line = {"id": f"p{problem}", "question": first.question, "gold": str(gold)}
        problems.write(json.dumps(line) + "\n")
        for sample in range(SAMPLES):
            for arm, rates in arms.items():
                made = draw_attempt(rng, first.story, rates=rates)
                cut = rng.random() < CUT
                text = made.reasoning[: made.reasoning.index(".") + 1] if cut else made.reasoning
                count = totals[arm]
                count[0] += 1
                count[1] += any(trigger.end <= len(text) for trigger in made.truth.triggers)
                count[2] += not cut and made.truth.answer == gold
                drawn += 1
                yield line["id"], sample, arm, text, cut
        problem += 1


def _completion(row: tuple, encoded: Any) -> Any:
    from backtracking.core.completions import Completion

    problem, sample, arm, text, cut = row
    offsets = tuple(start for start, _ in encoded.offsets)
    reason = "length" if cut else "stop"
    return Completion(problem, sample, "baseline_think_newline", arm, (0, 1), tuple(encoded.ids), text, reason, offsets)


def analyse_folder(folder: Path, workers: int) -> dict[str, Any]:
    """Analyse the parts of a folder in this process; returns seconds, peak bytes and each arm's rates."""
    started = time.perf_counter()
    from backtracking.core.problems import Problem
    from backtracking.experiments.streaming import analyse

    lines = (json.loads(line) for line in (folder / "problems.jsonl").open())
    problems = [Problem(line["id"], line["question"], line["gold"]) for line in lines]
    found = analyse(sorted(folder.glob("part-*.parquet")), problems, out=folder / "out", workers=workers)
    (comparison,) = found.comparisons.values()
    peak = sum(
        resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, *[resource.RUSAGE_CHILDREN] * workers)
    )
    return {
        "completions": found.completions,
        "problems": len(problems),
        "triggers": found.onsets,
        "seconds": time.perf_counter() - started,
        "peak_bytes": 1024 * peak if workers > 1 else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "rates": {
            row.condition: {"backtracking": row.backtracking.value, "right": row.right.value} for row in comparison.rows
        },
    }


def measure(size: int, folder: Path, workers: int) -> dict[str, Any]:
    """Generate and analyse one size, and compare the rates with the truth."""
    truth = generate(folder, size)
    command = [sys.executable, str(Path(__file__)), "--analyse", str(folder), "--workers", str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    bytes_on_disk = sum(part.stat().st_size for part in folder.glob("part-*.parquet"))
    differences = [abs(found["rates"][arm][name] - truth[arm][name]) for arm in truth for name in truth[arm]]
    return found | {"bytes": bytes_on_disk, "truth": truth, "largest_difference": max(differences)}


def table(sizes: list[dict[str, Any]]) -> str:
    """The sizes as a Markdown table."""
    lines = [
        "| completions | problems | on disk | seconds | ms per completion | peak memory | rates off the truth by |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {each['completions']:,} | {each['problems']:,} | {each['bytes'] / 2**20:.0f} MiB | {each['seconds']:.0f} "
        f"| {1000 * each['seconds'] / each['completions']:.2f} | {each['peak_bytes'] / 2**20:.0f} MiB "
        f"| {100 * each['largest_difference']:.3f} points |"
        for each in sizes
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure every size, print the table and write it beside the JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    options.add_argument("--workers", type=int, default=1)
    options.add_argument(
        "--analyse", type=Path, help="Analyse this folder and print JSON; used by the benchmark itself."
    )
    given = options.parse_args()
    if given.analyse:
        print(json.dumps(analyse_folder(given.analyse, given.workers)))  # noqa: T201
        return
    from harness import circumstances, write_json

    found = []
    for size in given.sizes:
        folder = Path(tempfile.mkdtemp(prefix="scale-")) / str(size)
        try:
            found.append(measure(size, folder, given.workers))
        finally:
            shutil.rmtree(folder.parent)
        print(table(found), flush=True)  # noqa: T201
        held = all(each["peak_bytes"] < LIMIT for each in found)
        result = {
            "benchmark": "scale",
            "workers": given.workers,
            "sizes": found,
            "under_2_gib": held,
            **circumstances(),
        }
        write_json(result, ROOT / "data" / "benchmarks" / "scale.json")
        (ROOT / "data" / "benchmarks" / "scale.md").write_text(table(found) + "\n")


if __name__ == "__main__":
    main()
