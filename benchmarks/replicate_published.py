"""Regrade the published study from its own files and write the replication note.

Run: python benchmarks/replicate_published.py [--data ../shared/data] [--out data/replications]
"""

import argparse
from pathlib import Path

from backtracking.experiments.published import PHASE1, PHASE2
from backtracking.experiments.replication import replicate_published
from backtracking.experiments.replication_note import write_note


def main() -> str:
    """Write the note and its table; return where they are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--out", type=Path, default=Path("data/replications"))
    options = parser.parse_args()
    runs = options.data / "published_runs"
    found = replicate_published(runs / PHASE1, runs / PHASE2, options.data / "gsm8k_200.jsonl")
    note, table = write_note(found, options.out)
    return f"wrote {note} and {table}"


if __name__ == "__main__":
    print(main())  # noqa: T201
