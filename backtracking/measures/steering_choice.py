"""Which cell of a steering sweep is reported: the best one on the selection half."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from backtracking.measures.steering_outcomes import BROKEN, OutcomeRow

Aim = Literal["both", "raise", "lower"]


@dataclass(frozen=True)
class Chosen:
    """The direction chosen on the selection half, and how far it is pushed either way."""

    label: str
    raising: float | None
    """Positive magnitude with the largest increase; None if only lowering was aimed at."""
    lowering: float | None
    """Negative magnitude with the largest decrease."""


def choose(rows: Sequence[OutcomeRow], *, target: str, aim: Aim, most_broken: float) -> Chosen | None:
    """The direction with the largest effect in the direction pushed; None if no whole cell moves the target."""
    broken = {row.condition: row.change.value for row in rows if row.outcome == BROKEN}
    best: dict[str, dict[int, tuple[float, float]]] = {}
    for row in rows:
        if row.outcome != target or row.role != "direction" or not np.isfinite(row.change.value):
            continue
        if broken[row.condition] > most_broken:
            continue
        sign = 1 if row.magnitude > 0 else -1
        sides = best.setdefault(row.label, {})
        # The larger effect in the direction pushed; of equal effects the smaller push.
        sides[sign] = max(sides.get(sign, (-np.inf, 0.0)), (sign * row.change.value, -abs(row.magnitude)))
    wanted = {"both": (1, -1), "raise": (1,), "lower": (-1,)}[aim]
    scores = {
        label: min(sides[sign][0] for sign in wanted)
        for label, sides in best.items()
        if all(sign in sides for sign in wanted)
    }
    label = max(scores, key=lambda each: scores[each], default=None)
    if label is None or scores[label] <= 0:
        return None
    at = {sign: -sign * best[label][sign][1] for sign in wanted}
    return Chosen(label, at.get(1), at.get(-1))
