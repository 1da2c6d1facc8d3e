"""One row of a problem set, from a file or from the Hub, as a problem."""

from typing import Any

from backtracking.core.errors import InputError
from backtracking.core.grading import read_gold
from backtracking.core.problems import Problem

GOLD_KEYS = ("answer_value", "gold", "answer")


def problem_of(row: Any, *, default_id: int, where: str) -> Problem:
    """The row's question, gold answer and id.

    Args:
        row: A mapping with `question` and one of `answer_value`, `gold`, `answer`.
        default_id: Of a row without `id`.
        where: File and line, for the message.

    Raises:
        InputError: It lacks one of them, or its gold answer cannot be read.
    """
    if not isinstance(row, dict) or not isinstance(row.get("question"), str):
        raise InputError(f"{where}: no text under 'question'")
    key = next((key for key in GOLD_KEYS if row.get(key) is not None), None)
    if key is None:
        raise InputError(f"{where}: no gold answer under any of {', '.join(GOLD_KEYS)}")
    identity = row.get("id", default_id)
    if isinstance(identity, bool) or not isinstance(identity, int | str):
        raise InputError(f"{where}: the id {identity!r} is neither a number nor a string")
    try:
        gold = read_gold(row[key])
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    return Problem(identity, row["question"], gold.text)
