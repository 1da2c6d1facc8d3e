"""Where a targeted effect stands among random draws of the same shape, such as random layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from backtracking.core.errors import InputError

MINIMUM_DRAWS = 20
Side = Literal["both", "less", "greater"]


@dataclass(frozen=True)
class NullRank:
    """A targeted effect beside its null distribution; all but the effect, draws and side are missing if it has none."""

    effect: float
    p_value: float
    low: float
    """2.5 % of the draws lie below."""
    high: float
    """2.5 % of the draws lie above."""
    median: float
    draws: int
    """Those that were measured."""
    as_extreme: int | None
    """Draws at least as extreme as the effect."""
    same_direction: int | None
    """Draws at least as extreme that go where the effect goes, up or down; all draws beside an effect of 0."""
    side: Side


def as_far_along(values: Float[np.ndarray, " draw"], effect: float) -> Bool[np.ndarray, " draw"]:
    """Which effects are at least as large as another and go where it goes, up or down; all beside an effect of 0."""
    return values * np.sign(effect) >= abs(effect)


def null_rank(effect: float, draws: Sequence[float], *, side: Side = "both", minimum: int = MINIMUM_DRAWS) -> NullRank:
    """Rank a targeted effect among the effects of random draws, all measured the same way.

    `p = (1 + draws at least as extreme) / (1 + draws)`: never 0, and at least 1/21 with 20 draws (Phipson and
    Smyth 2010). Effects are differences from the baseline; "both" compares their sizes, whatever their
    sign; "less" counts the draws at or below the effect, "greater" those at or above.

    Args:
        effect: Of the targeted intervention.
        draws: Of the random ones.
        side: Decided before looking.
        minimum: Fewer draws are refused.

    Raises:
        InputError: Fewer than `minimum` draws, or an effect that is not finite.
    """
    values = np.asarray(draws, dtype=float)
    if len(values) < minimum or not len(values):
        raise InputError(
            f"{len(values)} random draws cannot place an effect; draw at least {max(minimum, 1)}, "
            "or lower minimum= and say so where the result is shown"
        )
    if not np.isfinite(effect) or not np.isfinite(values).all():
        raise InputError(f"effect {effect} or one of its {len(values)} draws is not finite; measure it again")
    if side == "both":
        extreme = np.abs(values) >= abs(effect)
    else:
        extreme = values <= effect if side == "less" else values >= effect
    count, along = int(extreme.sum()), int(as_far_along(values, effect).sum())
    low, median, high = np.quantile(values, [0.025, 0.5, 0.975]).tolist()
    return NullRank(effect, (1 + count) / (1 + len(values)), low, high, median, len(values), count, along, side)


def measured_rank(effect: float, draws: Sequence[float], *, side: Side = "both") -> NullRank:
    """The rank of an effect where it or some of the draws may be missing (NaN): it is missing then, not left out.

    Without the draws that could not be measured the others would be a chosen part of the null distribution, so nothing
    is said of them but how many there are.

    Args:
        effect: Of the targeted intervention.
        draws: Of the random ones.
        side: See `null_rank`.

    Raises:
        InputError: All is measured, but the draws are fewer than `MINIMUM_DRAWS`.
    """
    measured = np.isfinite(np.asarray(draws, dtype=float))
    if np.isfinite(effect) and measured.all():
        return null_rank(effect, draws, side=side)
    nan = float("nan")
    return NullRank(effect, nan, nan, nan, nan, int(measured.sum()), None, None, side)
