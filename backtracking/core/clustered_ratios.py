"""One sum over another, over the same observations: what share of a difference something explains."""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float

from backtracking.core.cluster_intervals import MOST_RESAMPLED, expanded_percentiles, linear_ends, times_drawn
from backtracking.core.errors import InputError
from backtracking.core.statistics import Estimate


def clustered_ratio(
    tops: Float[np.ndarray, " obs"],
    bottoms: Float[np.ndarray, " obs"],
    clusters: Sequence[Hashable],
    *,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """`sum(tops) / sum(bottoms)`, with the interval of `clustered_rate`: whole clusters resampled.

    Observations may be of either sign. Where a resample turns the sign of the denominator, or makes it 0, the ratio
    has no finite interval and both ends are NaN; so they are with fewer than two clusters.

    Raises:
        InputError: There is nothing to sum, lengths differ, or the bottoms sum to 0.
    """
    if not len(tops) == len(bottoms) == len(clusters) or not len(tops):
        raise InputError(f"cannot take a ratio of {len(tops)} by {len(bottoms)} values of {len(clusters)} clusters")
    whole = float(bottoms.sum())
    if whole == 0:
        raise InputError("the denominators sum to 0: a share of nothing is not a number")
    order: dict[Hashable, int] = {}
    index = np.array([order.setdefault(cluster, len(order)) for cluster in clusters])
    top, bottom = (np.bincount(index, weights=values.astype(float)) for values in (tops, bottoms))
    low = high = float("nan")
    if len(order) > MOST_RESAMPLED:
        value = top.sum() / whole
        low, high = linear_ends(value, (top - value * bottom) / whole, level=level)
    elif len(order) > 1:
        times = times_drawn(len(order), seed)
        below = times @ bottom
        if (np.sign(below) == np.sign(whole)).all():
            low, high = expanded_percentiles((times @ top) / below, len(order), level=level)
    return Estimate(float(tops.sum()) / whole, low, high, len(tops), len(order), level)
