"""`load_problems`: the organism's own problems, GSM8K from the Hub, or a JSON Lines file."""

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from backtracking.core.errors import InputError, MissingFileError
from backtracking.core.grading import read_gold
from backtracking.core.problems import Problem, check_problems
from backtracking.model.organism import Difficulty, organism_problems
from backtracking.workspace.paths import DATA_FOLDERS, find_data_file

GSM8K = ("openai/gsm8k", "main")
ORGANISM_SET = 200
"""Problems of the organism when no number is given."""
_GOLD_KEYS = ("answer_value", "gold", "answer")


def load_problems(
    source: str | Path = "gsm8k",
    *,
    n: int | None = None,
    split: str = "test",
    difficulty: Difficulty | None = None,
    shuffle: bool = False,
    seed: int = 0,
) -> tuple[Problem, ...]:
    """Load a problem set.

    Args:
        source: `"organism"` (problems the embedded model was not trained on), `"gsm8k"` (from the Hub,
            through `datasets`), or a `.jsonl` file with `question` and one of `answer_value`, `gold`, `answer`
            on each line; `id` is the line number if absent. A file that is not at the path given is looked for
            by name in the data folders.
        n: How many problems to take; all of them if None (of the organism's, 200).
        split: Split of GSM8K.
        difficulty: Of the organism's problems: easy, medium or hard; the three in turn if None.
        shuffle: Whether to shuffle before taking `n`.
        seed: Of the shuffle.

    Raises:
        InputError: No such source, an unreadable line, an empty set, or fewer than `n` problems.
    """
    if n is not None and n < 1:
        raise InputError(f"n is {n}; at least 1 problem is needed")
    if difficulty is not None and str(source) != "organism":
        raise InputError(f"only the organism's problems have a difficulty, not {source}")
    path = Path(source)
    if path.suffix == ".jsonl":
        rows: Sequence[Problem] = _from_file(path)
    elif str(source) == "organism":
        rows = organism_problems(n or ORGANISM_SET, difficulty=difficulty)
    elif str(source) == "gsm8k":
        rows = _from_hub(split)
    else:
        raise InputError(f"unknown problem set {str(source)!r}; use organism, gsm8k or a .jsonl file")
    chosen = list(rows)
    if shuffle:
        random.Random(seed).shuffle(chosen)
    if n is not None and n > len(chosen):
        raise InputError(f"{n} problems were asked for, but {source} has {len(chosen)}")
    return check_problems(chosen[:n])


def _from_file(path: Path) -> list[Problem]:
    found = find_data_file(path)
    if found is None:
        folders = ", ".join(map(str, DATA_FOLDERS))
        raise MissingFileError(f"no problem file at {path}, nor of that name in {folders}")
    try:
        text = found.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{found} is not UTF-8 text: {error}") from error
    problems = []
    for number, line in enumerate(text.splitlines()):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{found}, line {number + 1}: not JSON ({error})") from error
        problems.append(_problem(row, default_id=number, where=f"{found}, line {number + 1}"))
    if not problems:
        raise InputError(f"{found} holds no problems; the problem set is empty")
    return problems


def _from_hub(split: str) -> list[Problem]:
    import datasets  # a second to import, and most callers read a file

    try:
        rows: Iterable[Any] = datasets.load_dataset(*GSM8K, split=split)
    except ValueError as error:
        raise InputError(f"GSM8K has no split {split!r}: {_first_line(error)}") from error
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"cannot fetch GSM8K from the Hub ({type(error).__name__}: {_first_line(error)}); "
            "check the network, or give a .jsonl file with question and answer"
        ) from error
    return [_problem(row, default_id=i, where=f"GSM8K row {i}") for i, row in enumerate(rows)]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def _problem(row: Any, *, default_id: int, where: str) -> Problem:
    if not isinstance(row, dict) or not isinstance(row.get("question"), str):
        raise InputError(f"{where}: no text under 'question'")
    key = next((key for key in _GOLD_KEYS if row.get(key) is not None), None)
    if key is None:
        raise InputError(f"{where}: no gold answer under any of {', '.join(_GOLD_KEYS)}")
    identity = row.get("id", default_id)
    if isinstance(identity, bool) or not isinstance(identity, int | str):
        raise InputError(f"{where}: the id {identity!r} is neither a number nor a string")
    try:
        gold = read_gold(row[key])
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    return Problem(identity, row["question"], gold.text)
