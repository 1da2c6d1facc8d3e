"""A targeted intervention beside random ones of the same shape: is it these sites, or any sites?

Every effect is condition minus baseline over pairs that share problem, sample and noise. The draws
themselves come from `core/shape_draws.py`; their rank from `core/null_draws.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from backtracking.core.errors import InputError
from backtracking.core.events import Event
from backtracking.core.interventions import BASELINE
from backtracking.core.null_draws import MINIMUM_DRAWS, NullRank, null_rank
from backtracking.core.statistics import Estimate
from backtracking.measures.arm_counts import count_arms
from backtracking.measures.arms import frame, pair


@dataclass(frozen=True)
class DrawRow:
    """The effect of the targeted condition or of one random draw; positive means more than the baseline."""

    condition: str
    role: Literal["targeted", "random"]
    pairs: int
    backtracking: Estimate
    accuracy: Estimate
    accuracy_flag: str
    """Why this accuracy effect cannot be taken at face value; empty if nothing speaks."""


@dataclass(frozen=True)
class TargetedAgainstRandom:
    """Where the targeted effects stand among those of the random draws."""

    targeted: DrawRow
    random: tuple[DrawRow, ...]
    backtracking: NullRank
    """Its p-value is two-sided and counts draws with an effect of at least this size."""
    accuracy: NullRank

    @property
    def draws(self) -> int:
        """How many random draws there are."""
        return len(self.random)

    def to_pandas(self) -> pd.DataFrame:
        """One row per condition, the targeted one first."""
        return frame((self.targeted, *self.random), DrawRow)

    def ranks_to_pandas(self) -> pd.DataFrame:
        """One row per outcome: the effect, and 2.5 %, median and 97.5 % of the draws (low, median, high)."""
        ranks = {"backtracking": self.backtracking, "accuracy": self.accuracy}
        return pd.DataFrame([{"outcome": name, "condition": self.targeted.condition, **vars(rank)}
                             for name, rank in ranks.items()])  # fmt: skip


def targeted_against_random(
    events: Sequence[Event], *, targeted: str, draws: Sequence[str], seed: int = 0
) -> TargetedAgainstRandom:
    """Compare the effect of a targeted condition with those of random draws.

    Args:
        events: Of one run and variant: the baseline, the targeted condition and the draws; others are left alone.
        targeted: Name of the targeted condition.
        draws: Names of the conditions of the random draws, of the shape of the targeted one.
        seed: Of the intervals.

    Raises:
        InputError: There are fewer than 20 draws, a name is missing, repeated or the baseline's, the conditions do
            not hold the same samples, or events are pooled (variants mixed, one sample twice in a condition).
    """
    arms = count_arms(events)
    if BASELINE.name not in arms:
        raise InputError(f"no condition is called {BASELINE.name!r}, only {list(arms)}; sample the baseline too")
    reference = arms[BASELINE.name]
    _check(targeted, draws, list(arms))

    def effect(name: str, role: Literal["targeted", "random"]) -> DrawRow:
        found = pair(arms[name], reference, names=(f"condition {name!r}", "the baseline"), seed=seed)
        return DrawRow(name, role, found.pairs, found.backtracking, found.accuracy, found.accuracy_flag)

    row, rows = effect(targeted, "targeted"), tuple(effect(name, "random") for name in draws)
    return TargetedAgainstRandom(
        targeted=row,
        random=rows,
        backtracking=null_rank(row.backtracking.value, [each.backtracking.value for each in rows]),
        accuracy=null_rank(row.accuracy.value, [each.accuracy.value for each in rows]),
    )


def _check(targeted: str, draws: Sequence[str], names: Sequence[str]) -> None:
    missing = [name for name in (targeted, *draws) if name not in names]
    if missing:
        raise InputError(f"no condition is called {missing[0]!r}; the events have {list(names)}")
    if BASELINE.name in (targeted, *draws):
        raise InputError(f"{BASELINE.name!r} is what the others are compared with; name an intervention instead")
    if len({targeted, *draws}) < 1 + len(draws):
        raise InputError("a condition is named twice among the targeted one and the draws; each draw counts once")
    if len(draws) < MINIMUM_DRAWS:
        raise InputError(f"{len(draws)} random draws cannot place an effect; draw at least {MINIMUM_DRAWS}")
