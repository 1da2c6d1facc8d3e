"""A check before each sweep that grading works and that golds belong to their problems.

The gold answers, written as answers, must all be graded right; against another problem's gold they
must be right only as often as two problems share an answer. A grader that calls everything right,
or one that compares with the wrong row, fails here before any model runs.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from backtracking.core.errors import AlignmentError, InputError
from backtracking.core.grading import Gold, grade, read_gold

TOLERANCE = 0.02
"""How far the share of right answers on shuffled golds may lie above `Canary.chance`."""


@dataclass(frozen=True)
class Canary:
    """What the check found. Shares are of the `n` golds."""

    n: int
    gold_right: float
    """Share of golds graded right against themselves; must be 1."""
    shuffled_right: float
    """Share graded right against another problem's gold; NaN for a single problem."""
    chance: float
    """Share of problems whose shuffled gold has the same text or value; NaN for a single
    problem."""

    @property
    def ok(self) -> bool:
        """Whether own golds are all right, and others' no more often than by chance."""
        return self.gold_right == 1.0 and not self.shuffled_right > self.chance + TOLERANCE


def gold_canary(golds: Sequence[str | int | float], *, seed: int) -> Canary:
    """Grade "Final: {gold}" against each gold itself and against a derangement of the golds.

    Raises:
        AlignmentError: A gold is not graded right against itself, or shuffled golds are right above
        chance. ValueError: There are no golds, or one cannot be read.
    """
    if not golds:
        raise InputError("no gold answers to check; the problem set is empty")
    read = [read_gold(gold) for gold in golds]
    said = [f"Final: {gold.text}" for gold in read]
    missed = [i for i, gold in enumerate(golds) if grade(said[i], gold).verdict != "right"]
    if missed:
        raise AlignmentError(
            f"{len(missed)} of {len(golds)} gold answers are not graded right against themselves, "
            f"first {golds[missed[0]]!r} at position {missed[0]}; "
            "grading or the problem set is broken"
        )
    canary = Canary(len(golds), 1.0, float("nan"), float("nan"))
    if len(golds) > 1:
        other = _derangement(len(golds), seed)
        right = sum(grade(said[i], golds[other[i]]).verdict == "right" for i in range(len(golds)))
        same = sum(_identity(read[i]) == _identity(read[j]) for i, j in enumerate(other))
        canary = Canary(len(golds), 1.0, right / len(golds), same / len(golds))
    if not canary.ok:
        raise AlignmentError(
            f"shuffled golds are graded right in {canary.shuffled_right:.1%}, "
            f"by chance {canary.chance:.1%}; the grader does not tell answers apart"
        )
    return canary


def _identity(gold: Gold) -> Fraction | str:
    return gold.text if gold.value is None else gold.value


def _derangement(n: int, seed: int) -> list[int]:
    """A random cyclic permutation (Sattolo), so that no position keeps its own gold."""
    order = list(range(n))
    rng = random.Random(seed)
    for i in range(n - 1, 0, -1):
        j = rng.randrange(i)
        order[i], order[j] = order[j], order[i]
    return order
