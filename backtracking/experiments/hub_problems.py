"""Problem sets of the Hub: fetched, pinned to a commit and read; kept as a file with its source beside it."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backtracking.core.atomic import write_text
from backtracking.core.errors import InputError
from backtracking.core.problems import Problem, check_problems
from backtracking.experiments.problem_rows import problem_of
from backtracking.experiments.provenance import now
from backtracking.workspace.hub import HubSnapshot, fetch_snapshot

SHORT_NAMES = {"gsm8k": ("openai/gsm8k", "main")}
"""Names of ours: repository and configuration."""
DATA_FILES = ("*.parquet", "*.jsonl", "*.json", "*.csv", "README.md")
"""Plain data and the card, which says which files are which split; never a script."""
SPLIT = "test"


@dataclass(frozen=True)
class HubProblems:
    """The problems of one split, and the commit they come from."""

    problems: tuple[Problem, ...]
    snapshot: HubSnapshot
    config: str | None
    split: str


@dataclass(frozen=True)
class FetchedDataset:
    """A problem set kept as a file, with where it comes from beside it."""

    path: Path
    """JSON Lines: id, question, gold."""
    sidecar: Path
    """Source, commit, split, number of problems and SHA-256 of the file."""
    revision: str
    problems: int
    sha256: str


def hub_problems(
    name: str, *, config: str | None = None, split: str = SPLIT, revision: str | None = None, offline: bool = False
) -> HubProblems:
    """Fetch a data set of questions with gold answers and read one split.

    Args:
        name: `gsm8k`, or a Hub id whose rows have `question` and one of `answer_value`, `gold`, `answer`.
        config: Configuration of the data set, where it has several.
        split: Such as test.
        revision: Branch, tag or commit; the default branch if None.
        offline: Touch no network.

    Raises:
        InputError: It cannot be fetched, has no such configuration or split, or a row is not a problem.
    """
    repository, default = SHORT_NAMES.get(name, (name, None))
    snapshot = fetch_snapshot(repository, "dataset", allow=DATA_FILES, revision=revision, offline=offline)
    chosen = config or default
    rows = _rows(snapshot, chosen, split)
    problems = [problem_of(row, default_id=i, where=f"{name}, {split}, row {i}") for i, row in enumerate(rows)]
    return HubProblems(check_problems(problems), snapshot, chosen, split)


def fetch_dataset(
    name: str,
    *,
    config: str | None = None,
    split: str = SPLIT,
    revision: str | None = None,
    offline: bool = False,
    to: Path | None = None,
) -> FetchedDataset:
    """Fetch a problem set and keep it as a file that `load_problems` and a config's `save_path` read.

    Args:
        name: As `hub_problems`.
        config: As `hub_problems`.
        split: As `hub_problems`.
        revision: As `hub_problems`.
        offline: As `hub_problems`.
        to: The file; `data/processed/<name>.jsonl` if not given, with the split in the name if it is not test.

    Raises:
        InputError: As `hub_problems`, or the file is there and is not what was fetched before.
    """
    stem = name.replace("/", "_") + ("" if split == SPLIT else f"_{split}")
    path = to or Path("data/processed") / f"{stem}.jsonl"
    sidecar = path.with_name(f"{path.name}.source.json")
    _require_ours(path, sidecar)
    found = hub_problems(name, config=config, split=split, revision=revision, offline=offline)
    text = "".join(
        json.dumps({"id": each.id, "question": each.question, "gold": each.gold}, ensure_ascii=False) + "\n"
        for each in found.problems
    )
    write_text(path, text)
    digest = _sha256(path)
    source = {
        "source": found.snapshot.name, "config": found.config, "split": split, "revision": found.snapshot.revision,
        "problems": len(found.problems), "sha256": digest, "checked": found.snapshot.checked, "fetched": now(),
    }  # fmt: skip
    write_text(sidecar, json.dumps(source, indent=2) + "\n")
    return FetchedDataset(path, sidecar, found.snapshot.revision, len(found.problems), digest)


def _rows(snapshot: HubSnapshot, config: str | None, split: str) -> Iterable[Any]:
    import datasets  # a second to import, and most callers read a file
    from datasets.exceptions import DatasetsError

    before = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(str(snapshot.folder), config, split=split)
    except (ValueError, OSError, RuntimeError, DatasetsError) as error:
        place = f"configuration {config!r} and split {split!r}"
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"cannot read {place} of the data set {snapshot.name}: {first}") from error
    finally:
        if before:
            datasets.enable_progress_bars()


def _require_ours(path: Path, sidecar: Path) -> None:
    """Refuse to write over a file that was made or changed by someone else."""
    if not path.exists():
        return
    try:
        ours = json.loads(sidecar.read_text(encoding="utf-8"))["sha256"] == _sha256(path)
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise InputError(f"{path} is there and is not as fetch left it; move it away, or give another file with --to")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
