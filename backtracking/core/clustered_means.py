"""Means of quantities without bounds, such as changes of a logit or tokens of a completion: of one, or of many over
the same observations at once (the cells of a scan, the layers of a lens).

The problem is the cluster, as everywhere. For shares take `statistics.clustered_rate`.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from backtracking.core.cluster_intervals import (
    MOST_RESAMPLED,
    expanded_percentiles,
    linear_ends,
    ratio_ends,
    times_drawn,
)
from backtracking.core.errors import InputError
from backtracking.core.statistics import Estimate

FEWEST_FLIPS = 9999
FLIPS_PER_CELL = 100
"""Random flips per cell, so that one finding among that many cells can survive Benjamini and Hochberg."""
_AT_ONCE = 4096


@dataclass(frozen=True)
class ClusteredMeans:
    """Mean of each cell with its interval, and the p-value of its being zero."""

    value: Float[np.ndarray, " cell"]
    low: Float[np.ndarray, " cell"]
    high: Float[np.ndarray, " cell"]
    p_value: Float[np.ndarray, " cell"]
    """Two-sided; NaN where there is no observation."""
    n: int
    """Observations."""
    clusters: int
    """Problems they come from."""
    smallest_p: float
    """The smallest p-value that so many problems and flips can give."""


def clustered_means(
    values: Float[np.ndarray, "obs cell"],
    clusters: Sequence[Hashable],
    *,
    seed: int = 0,
    level: float = 0.95,
    draws: int | None = None,
) -> ClusteredMeans:
    """Mean over observations of each cell, its interval, and a sign-flip test that it is zero.

    The interval is that of `statistics.clustered_rate`: whole clusters resampled, percentiles expanded. It is
    NaN for fewer than two clusters. The test is that of `statistics.paired_p_value`, flipping the sign of
    whole clusters: all `2 ** clusters` flips if they are at most `draws`, else that many random ones with
    `p = (1 + count) / (1 + draws)`. All cells share resamples and flips. Values are what is tested, so give
    differences. Without observations everything is NaN.

    Args:
        values: One row per observation, one column per cell.
        clusters: Of each observation.
        seed: Of resamples and flips.
        level: Of the interval.
        draws: Random flips; at least `FEWEST_FLIPS` and `FLIPS_PER_CELL` per cell if not given.

    Raises:
        InputError: A value is not finite, or there are not as many cluster labels as rows.
    """
    if len(values) != len(clusters):
        raise InputError(f"{len(values)} rows of values, but {len(clusters)} cluster labels")
    if not np.isfinite(values).all():
        raise InputError(f"{int((~np.isfinite(values)).sum())} values are not finite; leave them out by name")
    cells = values.shape[1]
    if not len(values):
        missing = np.full(cells, np.nan)
        return ClusteredMeans(missing, missing, missing, missing, 0, 0, float("nan"))
    order: dict[Hashable, int] = {}
    index = np.array([order.setdefault(cluster, len(order)) for cluster in clusters])
    sums, counts = np.zeros((len(order), cells)), np.bincount(index).astype(float)
    np.add.at(sums, index, values.astype(float))
    low, high = _intervals(sums, counts, seed=seed, level=level)
    draws = max(FEWEST_FLIPS, FLIPS_PER_CELL * cells) if draws is None else draws
    exact = 2 ** len(order) <= draws
    return ClusteredMeans(
        value=sums.sum(0) / len(values),
        low=low,
        high=high,
        p_value=_flip_p_values(sums, exact=exact, draws=draws, seed=seed),
        n=len(values),
        clusters=len(order),
        smallest_p=2.0 ** (1 - len(order)) if exact else 1 / (1 + draws),
    )


def _intervals(
    sums: Float[np.ndarray, "cluster cell"], counts: Float[np.ndarray, " cluster"], *, seed: int, level: float
) -> tuple[Float[np.ndarray, " cell"], Float[np.ndarray, " cell"]]:
    if len(sums) < 2:
        return np.full(sums.shape[1], np.nan), np.full(sums.shape[1], np.nan)
    if len(sums) > MOST_RESAMPLED:
        means = sums.sum(0) / counts.sum()
        influence = (sums - means * counts[:, None]) / counts.sum()
        ends = [linear_ends(mean, column, level=level) for mean, column in zip(means, influence.T, strict=True)]
        return np.array([low for low, _ in ends]), np.array([high for _, high in ends])
    times = times_drawn(len(sums), seed)
    resampled = (times @ sums) / (times @ counts)[:, None]
    ends = [expanded_percentiles(column, len(sums), level=level) for column in resampled.T]
    return np.array([low for low, _ in ends]), np.array([high for _, high in ends])


def _flip_p_values(
    sums: Float[np.ndarray, "cluster cell"], *, exact: bool, draws: int, seed: int
) -> Float[np.ndarray, " cell"]:
    reached = np.abs(sums.sum(0)) - 1e-12 * np.abs(sums).sum(0)  # a flip that ties must count, whatever its rounding
    total = 2 ** len(sums) if exact else draws
    rng = np.random.default_rng(seed)
    count = np.zeros(sums.shape[1])
    for start in range(0, total, _AT_ONCE):
        rows = min(_AT_ONCE, total - start)
        if exact:
            bits = (start + np.arange(rows))[:, None] >> np.arange(len(sums)) & 1
        else:
            bits = rng.integers(0, 2, size=(rows, len(sums)))
        count += (np.abs((2.0 * bits - 1) @ sums) >= reached).sum(0)
    return count / total if exact else (1 + count) / (1 + total)


def smallest_adjusted(smallest_p: float, cells: int) -> float:
    """The smallest q-value that a single finding among so many cells could reach (at most 1)."""
    return min(1.0, smallest_p * cells) if math.isfinite(smallest_p) else float("nan")


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
        low, high = ratio_ends(sums, counts, seed=seed, level=level)
    return Estimate(float(array.mean()), low, high, len(array), len(sums), level)
