"""A targeted intervention beside random ones of the same shape: is it these sites, or any sites?

Every effect is condition minus baseline over pairs that share problem, sample and noise. The draws
themselves come from `core/shape_draws.py`; their rank from `core/null_draws.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from backtracking.core.errors import InputError
from backtracking.core.events import Event
from backtracking.core.interventions import BASELINE
from backtracking.core.null_draws import MINIMUM_DRAWS, NullRank, as_far_along, null_rank
from backtracking.core.statistics import Estimate
from backtracking.measures.arm_counts import count_arms
from backtracking.measures.arms import frame, pair, verdict_shares


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
    as_far_same_direction: bool
    """Whether it moves backtracking at least as far as the targeted condition, up or down as that does."""
    right: Estimate
    """Shares of its own completions, this and the next three: an effect of broken text is no effect."""
    unparsed: Estimate
    truncated: Estimate
    degenerate: Estimate


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
        """One row per condition, the targeted one first, which goes as far as itself.

        The mean of `as_far_same_direction` is thus the rank p-value of one side.
        """
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

    paired = {
        name: pair(arms[name], reference, names=(f"condition {name!r}", "the baseline"), seed=seed)
        for name in (targeted, *draws)
    }
    moved = np.array([each.backtracking.value for each in paired.values()])
    as_far = dict(zip(paired, as_far_along(moved, paired[targeted].backtracking.value).tolist(), strict=True))

    def effect(name: str, role: Literal["targeted", "random"]) -> DrawRow:
        found, shares = paired[name], verdict_shares(arms[name], seed=seed)
        return DrawRow(
            name,
            role,
            found.pairs,
            found.backtracking,
            found.accuracy,
            found.accuracy_flag,
            as_far[name],
            **{share: shares[share] for share in ("right", "unparsed", "truncated", "degenerate")},
        )

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
