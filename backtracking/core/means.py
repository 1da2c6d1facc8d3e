"""Means of quantities without bounds, such as tokens or triggers of a completion, clustered by problem."""

from collections.abc import Hashable, Sequence

import numpy as np

from backtracking.core.errors import InputError
from backtracking.core.statistics import Estimate, expanded_percentiles, times_drawn


def clustered_average(
    values: Sequence[float], clusters: Sequence[Hashable], *, seed: int = 0, level: float = 0.95
) -> Estimate:
    """Mean of the values, in their unit, with an interval from resampling whole clusters.

    For shares take `clustered_rate`: nothing bounds these values, so where all clusters have the same
    mean, or there is one cluster, the interval's ends are NaN.

    Raises:
        InputError: There are no values, one is not finite, or their number is not that of the clusters.
    """
    if len(values) != len(clusters):
        raise InputError(f"{len(values)} values, but {len(clusters)} cluster labels")
    if not len(values):
        raise InputError("no observations: a mean of nothing is not a number")
    array = np.asarray(values, dtype=float)
    if not np.isfinite(array).all():
        raise InputError(f"{int((~np.isfinite(array)).sum())} values are not finite; leave them out by name")
    order: dict[Hashable, int] = {}
    index = np.array([order.setdefault(cluster, len(order)) for cluster in clusters])
    sums, counts = np.bincount(index, weights=array), np.bincount(index).astype(float)
    low = high = float("nan")
    if np.ptp(sums / counts) > 0:
        times = times_drawn(len(sums), seed)
        low, high = expanded_percentiles((times @ sums) / (times @ counts), len(sums), level=level)
    return Estimate(float(array.mean()), low, high, len(array), len(sums), level)
