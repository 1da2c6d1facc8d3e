"""Intervals that know samples of one problem are not independent: the problem is the cluster."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from backtracking.core.cluster_intervals import difference_ends, share_ends
from backtracking.core.errors import InputError

LARGEST_EXACT = 20_000
"""Sum of the problems' differences up to which a sign-flip test counts every flip (a second's work)."""
MANY_FLIPS = 2000
"""Differing problems from which on the sum of their flipped differences is normal for all purposes."""
NonInferiority = Literal["non-inferior", "inferior", "undecided"]


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval."""

    value: float
    low: float
    high: float
    n: int
    """Observations."""
    clusters: int
    """Problems they come from."""
    level: float = 0.95

    def __str__(self) -> str:
        """Return `0.342 [0.280, 0.401] (n = 120)`."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n = {self.n})"

    def percent(self) -> str:
        """Return `34.2 % [28.0, 40.1]`, for values that are shares."""
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"

    def points(self) -> str:
        """Return `-3.1 points [-7.0, +0.8]`, for differences of shares."""
        return f"{100 * self.value:+.1f} points [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


def clustered_rate(
    outcomes: Sequence[bool], clusters: Sequence[Hashable], *, seed: int = 0, level: float = 0.95
) -> Estimate:
    """Share of true outcomes, with an interval from resampling whole clusters.

    The interval is the expanded percentile interval (Hesterberg 2015, section 5.2), and at least as wide as
    Wilson's at the number of independent observations that would be as sure, since resampling sees too little
    of few clusters and of rare outcomes (`core/cluster_intervals.py`). Where all outcomes agree it is
    Clopper-Pearson's with one observation per cluster.

    Raises:
        InputError: There are no outcomes, or their number is not that of the clusters.
    """
    hits, counts = _per_cluster(np.asarray(outcomes, dtype=float), clusters)
    return clustered_share(hits.tolist(), counts.tolist(), seed=seed, level=level)


def clustered_share(hits: Sequence[float], counts: Sequence[float], *, seed: int = 0, level: float = 0.95) -> Estimate:
    """`sum(hits) / sum(counts)` with the interval of `clustered_rate`; one entry per cluster.

    A cluster in which nothing was counted says nothing and is left out.

    Raises:
        InputError: Nothing was counted at all, or hits and counts differ in length.
    """
    if len(hits) != len(counts):
        raise InputError(f"{len(hits)} hits, but {len(counts)} counts")
    bottom = np.asarray(counts, dtype=float)
    top, bottom = np.asarray(hits, dtype=float)[bottom > 0], bottom[bottom > 0]
    if not len(bottom):
        raise InputError("no observations: a rate of nothing is not a number")
    value = float(top.sum() / bottom.sum())
    low, high = share_ends(top, bottom, seed=seed, level=level)
    return Estimate(value, low, high, int(bottom.sum()), len(bottom), level)


def paired_difference(
    arm: Sequence[bool],
    reference: Sequence[bool],
    clusters: Sequence[Hashable],
    *,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Mean of `arm - reference` over rows paired by sample key, with a clustered interval.

    Positive means the arm has more. Rows must be in the same order in both arms: the same problem
    and sample, which share their noise. Where all problems agree the bootstrap has no spread; the
    interval then reaches as far as the share of problems that could differ unseen, by the rule of
    Clopper and Pearson.

    Raises:
        InputError: There are no pairs, or the arms and clusters differ in length.
    """
    if len(arm) != len(reference):
        raise InputError(f"cannot pair {len(arm)} rows with {len(reference)}")
    differences = np.asarray(arm, dtype=float) - np.asarray(reference, dtype=float)
    sums, counts = _per_cluster(differences, clusters)
    return clustered_mean(sums.tolist(), counts.tolist(), n=len(differences), seed=seed, level=level)


def clustered_mean(
    sums: Sequence[float], weights: Sequence[float], *, n: int, seed: int = 0, level: float = 0.95
) -> Estimate:
    """`sum(sums) / sum(weights)` of differences between -1 and 1, with the interval of `paired_difference`.

    One entry per cluster, of which at least one; every weight positive. `n` observations went into it.
    """
    top, bottom = np.asarray(sums, dtype=float), np.asarray(weights, dtype=float)
    value = float(top.sum() / bottom.sum())
    low, high = difference_ends(top, bottom, seed=seed, level=level)
    return Estimate(value, low, high, n, len(top), level)


def paired_p_value(
    arm: Sequence[float],
    reference: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    draws: int = 9999,
    seed: int = 0,
) -> float:
    """Two-sided p-value of `paired_difference`, by flipping the sign of whole problems.

    If the arm does nothing, `arm - reference` of a problem is as likely as its negative, whatever the
    correlation inside the problem, so the test is exact for that hypothesis (Fisher 1935; clusters
    flipped as wholes as in Gail et al. 1996). Where the sums of the problems are whole numbers, as they
    are for yes-or-no outcomes, all `2 ** problems` flips are counted exactly. Otherwise scipy
    enumerates them if there are at most `draws`, or draws that many: `p = (1 + count) / (1 + draws)`.
    Where `MANY_FLIPS` problems differ or more, the flipped sum is taken as normal.

    Problems in which the arms agree carry no information: with k that differ, p is at least 2 ** (1 - k).

    Raises:
        InputError: There are no pairs, the arms and clusters differ in length, or a value is not finite.
    """
    if len(arm) != len(reference):
        raise InputError(f"cannot pair {len(arm)} rows with {len(reference)}")
    differences = np.asarray(arm, dtype=float) - np.asarray(reference, dtype=float)
    if not np.isfinite(differences).all():
        raise InputError(f"{int((~np.isfinite(differences)).sum())} pairs are not finite; leave them out by name")
    sums, _ = _per_cluster(differences, clusters)
    return flip_p_value(sums.tolist(), draws=draws, seed=seed)


def flip_p_value(sums: Sequence[float], *, draws: int = 9999, seed: int = 0) -> float:
    """The p-value of `paired_p_value` from each problem's sum of differences."""
    given = np.asarray(sums, dtype=float)
    differing = given[given != 0]
    if not len(differing):
        return 1.0
    whole = np.array_equal(differing, np.round(differing))
    if whole and np.abs(differing).sum() <= LARGEST_EXACT:
        return _exact_flip_p(np.abs(differing).astype(int), int(abs(differing.sum())))
    if len(differing) >= MANY_FLIPS:
        return float(min(1.0, 2 * stats.norm.sf(abs(differing.sum()) / np.sqrt((differing**2).sum()))))
    test = stats.permutation_test(
        (differing,), lambda values, axis: np.sum(values, axis=axis), vectorized=True, permutation_type="samples",
        n_resamples=draws, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(test.pvalue)


def non_inferiority(difference: Estimate, margin: float) -> NonInferiority:
    """Whether an arm's accuracy is worse than the baseline's by less than `margin`.

    `difference` is arm - baseline, as `paired_difference` gives it; `margin` is a share (0.05 is five
    points). Non-inferior if the whole interval lies above -margin, inferior if all of it lies below,
    else undecided (Piaggio et al. 2012, CONSORT for non-inferiority trials). An interval that is
    missing decides nothing.

    Raises:
        InputError: The margin is not between 0 and 1.
    """
    if not 0 < margin < 1:
        raise InputError(f"the margin is {margin}; give a share between 0 and 1, such as 0.05 for five points")
    if difference.low > -margin:
        return "non-inferior"
    return "inferior" if difference.high < -margin else "undecided"


def _exact_flip_p(sizes: np.ndarray, total: int) -> float:
    """P(|sum of +-sizes| >= total), by adding the problems of each size to the distribution."""
    chance = np.ones(1)  # of the sum being -reach, ..., reach
    for size, problems in zip(*np.unique(sizes, return_counts=True), strict=True):
        spread = np.zeros(2 * size * problems + 1)
        spread[:: 2 * size] = stats.binom.pmf(np.arange(problems + 1), problems, 0.5)
        chance = np.convolve(chance, spread)
    distance = np.abs(np.arange(len(chance)) - len(chance) // 2)
    return min(1.0, float(chance[distance >= total].sum()))


def _per_cluster(values: np.ndarray, clusters: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    if len(values) != len(clusters):
        raise InputError(f"{len(values)} values, but {len(clusters)} cluster labels")
    if not len(values):
        raise InputError("no observations: a rate of nothing is not a number")
    order: dict[Hashable, int] = {}
    index = np.array([order.setdefault(cluster, len(order)) for cluster in clusters])
    return np.bincount(index, weights=values), np.bincount(index).astype(float)
