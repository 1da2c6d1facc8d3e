"""`load_problems`: the organism's own problems, GSM8K from the Hub, or a JSON Lines file."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

from backtracking.core.errors import InputError, MissingFileError
from backtracking.core.given import whole
from backtracking.core.problems import Problem, check_problems
from backtracking.experiments.hub_problems import hub_problems
from backtracking.experiments.problem_rows import problem_of
from backtracking.model.organism import Difficulty, organism_problems
from backtracking.workspace.paths import DATA_FOLDERS, find_data_file

ORGANISM_SET = 200
"""Problems of the organism when no number is given."""


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
        source: `"organism"` (problems the embedded model was not trained on), `"gsm8k"` (from the Hub, or offline
            from the local cache), or a `.jsonl` file with `question` and one of `answer_value`, `gold`, `answer` on
            each line; `id` is the line number if absent. A file that is not at the path given is looked for by
            name in the data folders.
        n: How many problems to take; all of them if None (of the organism's, 200).
        split: Split of GSM8K.
        difficulty: Of the organism's problems: easy, medium or hard; the three in turn if None.
        shuffle: Whether to shuffle before taking `n`.
        seed: Of the shuffle.

    Raises:
        InputError: No such source, an unreadable line, an empty set, or fewer than `n` problems.
    """
    if n is not None:
        whole("n", n)
    if difficulty is not None and str(source) != "organism":
        raise InputError(f"only the organism's problems have a difficulty, not {source}")
    path = Path(source)
    if path.suffix == ".jsonl":
        rows: Sequence[Problem] = _from_file(path)
    elif str(source) == "organism":
        rows = organism_problems(n or ORGANISM_SET, difficulty=difficulty)
    elif str(source) == "gsm8k":
        rows = hub_problems("gsm8k", split=split).problems
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
        problems.append(problem_of(row, default_id=number, where=f"{found}, line {number + 1}"))
    if not problems:
        raise InputError(f"{found} holds no problems; the problem set is empty")
    return problems
