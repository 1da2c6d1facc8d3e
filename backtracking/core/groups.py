"""Two groups of completions of the same problems, such as those with and without backtracking.

They are not paired and not assigned: problems differ in how many of each kind they have. The crude
difference mixes what the groups do with which problems they come from; the difference within problems
does not, since every problem is compared with itself.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from backtracking.core.cluster_intervals import FEW, MOST_RESAMPLED, linear_ends, resampled_ends, times_drawn
from backtracking.core.errors import InputError
from backtracking.core.statistics import Estimate, clustered_mean


@dataclass(frozen=True)
class GroupCounts:
    """Counts per problem, arrays of one length."""

    hits: np.ndarray
    """Outcomes in the group."""
    n: np.ndarray
    other_hits: np.ndarray
    """Outcomes outside it."""
    other_n: np.ndarray

    @property
    def informative(self) -> np.ndarray:
        """Which problems have completions of both kinds."""
        return (self.n > 0) & (self.other_n > 0)


def count_groups(outcomes: Sequence[bool], in_group: Sequence[bool], clusters: Sequence[Hashable]) -> GroupCounts:
    """Count per problem.

    Raises:
        InputError: The three differ in length, or there is nothing to count.
    """
    if not len(outcomes) == len(in_group) == len(clusters):
        raise InputError(f"{len(outcomes)} outcomes, {len(in_group)} group labels and {len(clusters)} cluster labels")
    if not len(outcomes):
        raise InputError("no observations: a difference of nothing is not a number")
    order: dict[Hashable, int] = {}
    index = np.array([order.setdefault(cluster, len(order)) for cluster in clusters])
    hit, inside = np.asarray(outcomes, dtype=float), np.asarray(in_group, dtype=float)
    hits, n, other_hits, other_n = (
        np.bincount(index, weights=weights) for weights in (hit * inside, inside, hit * (1 - inside), 1 - inside)
    )
    return GroupCounts(hits, n, other_hits, other_n)


def crude_difference(counts: GroupCounts, *, seed: int = 0, level: float = 0.95) -> Estimate | None:
    """Rate in the group minus rate outside it, whatever problems they come from; None if a group is empty.

    The interval resamples problems, as in `clustered_rate`; resamples without one of the groups are left out.
    """
    c = counts
    total, other = float(c.n.sum()), float(c.other_n.sum())
    if not total or not other:
        return None
    value = float(c.hits.sum() / total - c.other_hits.sum() / other)
    low = high = float("nan")
    if len(c.n) > 1:
        low, high = _crude_ends(c, value, seed=seed, level=level)
    return Estimate(value, low, high, int(total + other), len(c.n), level)


def _crude_ends(c: GroupCounts, value: float, *, seed: int, level: float) -> tuple[float, float]:
    total, other, problems = c.n.sum(), c.other_n.sum(), len(c.n)
    moved = (c.hits - c.hits.sum() / total * c.n) / total
    moved = moved - (c.other_hits - c.other_hits.sum() / other * c.other_n) / other
    linear = linear_ends(value, moved, level=level, least=-1.0)
    if problems > MOST_RESAMPLED:
        return linear
    times = times_drawn(problems, seed)
    inside, outside = times @ c.n, times @ c.other_n
    both = (inside > 0) & (outside > 0)
    resampled = (times[both] @ c.hits) / inside[both] - (times[both] @ c.other_hits) / outside[both]
    low, high = resampled_ends(value, resampled, problems, level=level)
    return (min(low, linear[0]), max(high, linear[1])) if problems < FEW else (low, high)


def within_difference(counts: GroupCounts, *, seed: int = 0, level: float = 0.95) -> Estimate | None:
    """Mean over problems of rate in the group minus rate outside it, weighted `n1 n0 / (n1 + n0)`.

    The weights are those of Mantel and Haenszel's risk difference (Greenland and Robins 1985). Only problems
    with completions of both kinds count; None if there are none. The interval resamples those problems.
    """
    keep = counts.informative
    if not keep.any():
        return None
    n, other = counts.n[keep], counts.other_n[keep]
    weights = n * other / (n + other)
    differences = counts.hits[keep] / n - counts.other_hits[keep] / other
    observed = int((n + other).sum())
    return clustered_mean((weights * differences).tolist(), weights.tolist(), n=observed, seed=seed, level=level)


def within_p_value(counts: GroupCounts) -> float:
    """Two-sided p-value of `within_difference`, exact: all ways to relabel completions within their problems.

    The number of outcomes in the group is then a sum of independent hypergeometric numbers, one a problem
    (the exact form of Mantel and Haenszel 1959). 1 where no relabelling changes anything.
    """
    keep = counts.informative
    chance, shift, expected = np.ones(1), 0, 0.0
    for hits, n, other_hits, other_n in zip(
        *(part[keep].astype(int) for part in (counts.hits, counts.n, counts.other_hits, counts.other_n)), strict=True
    ):
        least, most = max(0, hits + other_hits - other_n), min(n, hits + other_hits)
        chance = np.convolve(chance, stats.hypergeom.pmf(np.arange(least, most + 1), n + other_n, hits + other_hits, n))
        shift += least
        expected += n * (hits + other_hits) / (n + other_n)
    observed = abs(counts.hits[keep].sum() - expected)
    distance = np.abs(np.arange(len(chance)) + shift - expected)
    return min(1.0, float(chance[distance >= observed - 1e-9].sum()))
