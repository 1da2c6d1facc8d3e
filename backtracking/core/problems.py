"""A problem: what the model is asked and what the right answer is."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from backtracking.core.errors import InputError


@dataclass(frozen=True)
class Problem:
    """One question with its gold answer.

    Problems are the clusters of every statistic: samples of one problem are never independent.
    """

    id: int | str
    """Name of the problem; unique in a problem set, and part of the key of its randomness."""
    question: str
    """The text put to the model, without any instruction."""
    gold: str
    """The right answer as text, such as "621" or "47/3"."""

    def __post_init__(self) -> None:
        """Refuse a problem nobody could answer or grade."""
        if not self.question.strip():
            raise InputError(f"problem {self.id!r} has an empty question")
        if not str(self.gold).strip():
            raise InputError(f"problem {self.id!r} has an empty gold answer")


def check_problems(problems: Any) -> tuple[Problem, ...]:
    """Return the problems of a sequence as a tuple.

    Raises:
        InputError: The set is empty, holds something else, or two problems share an id.
    """
    if not isinstance(problems, Iterable) or isinstance(problems, str):
        raise InputError(f"problems are a list of Problem, as load_problems makes one, not {problems!r:.80}")
    problems = tuple(problems)
    wrong = [each for each in problems if not isinstance(each, Problem)]
    if wrong:
        raise InputError(f"problems are a list of Problem, as load_problems makes one; {wrong[0]!r:.80} is none")
    if not problems:
        raise InputError("the problem set is empty; give at least one problem")
    seen: set[str] = set()
    for problem in problems:
        if str(problem.id) in seen:
            raise InputError(f"two problems have the id {problem.id!r}; ids must be unique")
        seen.add(str(problem.id))
    return problems
