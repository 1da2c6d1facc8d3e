"""Ends of intervals over problems: whole clusters are resampled, and what resampling cannot see is added.

A bootstrap never leaves the range of what was observed: with few problems, or few hits, its interval is too narrow, and
where all problems agree it has no width at all. So the interval of a share reaches at least as far as Wilson's, taken
at the number of independent observations that would be as sure (Korn and Graubard 1998), with Student's factor for
twice the problems in which anything was seen, and never fewer than the problems themselves amount to (Kish 1965): even
samples that are all alike say that much. That of a difference puts gains and losses together in the same way
(Zou and Donner 2008), with that factor for the larger of the two alone. `benchmarks/intervals.py` shows how often they
hold.
"""

from functools import lru_cache

import numpy as np
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

RESAMPLES = 4000
MOST_RESAMPLED = 5000
"""Clusters up to which intervals resample them; with more, the bootstrap's own limit is used, a normal interval."""
FEW = 10
"""Clusters below which an interval reaches at least as far as Student's."""

Ends = tuple[float, float]


def share_ends(hits: np.ndarray, counts: np.ndarray, *, seed: int, level: float) -> Ends:
    """Ends for `sum(hits) / sum(counts)`, one entry per cluster, every count positive; within 0 and 1.

    Where all clusters have no hit, or nothing else, the interval is Clopper-Pearson's with one observation per cluster.
    """
    value = float(hits.sum() / counts.sum())
    if value in (0.0, 1.0):
        found = proportion_confint(len(counts) * int(value), len(counts), alpha=1 - level, method="beta")
        low, high = np.asarray(found, dtype=float)
        return float(low), float(high)
    if len(hits) < 2:
        return float("nan"), float("nan")  # one problem says nothing about others
    if np.ptp(hits / counts) == 0:
        return around(value, len(hits), level=level, least=0.0)
    (low, high), (least, most) = ratio_ends(hits, counts, seed=seed, level=level), _wilson(hits, counts, level)
    return min(low, least), max(high, most)


def difference_ends(sums: np.ndarray, weights: np.ndarray, *, seed: int, level: float) -> Ends:
    """Ends for `sum(sums) / sum(weights)` of differences between -1 and 1, one entry per cluster.

    Where all clusters agree it reaches as far as the share of problems that could differ unseen.
    """
    value = float(sums.sum() / weights.sum())
    if np.ptp(sums / weights) == 0:
        return around(value, len(sums), level=level)
    low, high = ratio_ends(sums, weights, seed=seed, level=level)
    below, above = 0.0, 0.0
    parts = {sign: np.maximum(sign * sums, 0.0) for sign in (1, -1)}
    larger = max(parts, key=lambda sign: parts[sign].sum())
    for sign, part in parts.items():
        if not part.any():
            continue
        share, (least, most) = part.sum() / weights.sum(), _wilson(part, weights, level, few_seen=sign == larger)
        near, far = (share - least) ** 2, (most - share) ** 2
        below, above = (below + near, above + far) if sign > 0 else (below + far, above + near)
    return float(max(min(low, value - below**0.5), -1.0)), float(min(max(high, value + above**0.5), 1.0))


def ratio_ends(sums: np.ndarray, counts: np.ndarray, *, seed: int, level: float) -> Ends:
    """Expanded percentiles of a sum over a sum (Hesterberg 2015, section 5.2); NaN for one cluster."""
    n = len(sums)
    if n < 2:
        return float("nan"), float("nan")
    if n > MOST_RESAMPLED:
        value = float(sums.sum() / counts.sum())
        return linear_ends(value, (sums - value * counts) / counts.sum(), level=level)
    times = times_drawn(n, seed)
    return expanded_percentiles((times @ sums) / (times @ counts), n, level=level)


def resampled_ends(
    value: float, resampled: np.ndarray, n: int, *, level: float, least: float = -1.0, alike: bool = False
) -> Ends:
    """Expanded percentiles of a statistic between `least` and 1 over n clusters; NaN is left out.

    Where no resample differs the interval reaches as far as in `difference_ends`; unless that is so because the
    statistic compares a thing with itself (`alike`).
    """
    present = resampled[~np.isnan(resampled)]
    if n < 2 or not len(present):
        return float("nan"), float("nan")
    if np.ptp(present) < 1e-12 and not alike:
        return around(value, n, level=level, least=least)
    return expanded_percentiles(present, n, level=level)


def linear_ends(value: float, influence: np.ndarray, *, level: float, least: float = -np.inf) -> Ends:
    """Student's interval by linearisation, from the influence of each cluster on the statistic."""
    n = len(influence)
    reach = stats.t.ppf((1 + level) / 2, df=n - 1) * np.sqrt(n / (n - 1) * (influence**2).sum())
    return float(max(value - reach, least)), float(min(value + reach, -least))


def around(value: float, n: int, *, level: float, least: float = -1.0) -> Ends:
    """As far around a value on which n clusters agree as the share of clusters that could differ unseen."""
    unseen = 1 - ((1 - level) / 2) ** (1 / n)
    return max(value - unseen, least), min(value + unseen, 1.0)


def expanded_percentiles(resampled: np.ndarray, n: int, *, level: float) -> Ends:
    """Percentiles of a statistic resampled over n clusters, widened for the narrowness of the bootstrap with few."""
    tail = float(stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf((1 - level) / 2, df=n - 1)))
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)


def _wilson(hits: np.ndarray, counts: np.ndarray, level: float, *, few_seen: bool = True) -> Ends:
    """Wilson's interval of a share above 0 and below 1, at the number of observations that would be as sure.

    With `few_seen` Student's factor is that of twice the clusters in which there was anything to see. The number is at
    least that of clusters, if they are of one size: nothing within 0 and 1 varies more than clusters that are all or
    nothing.
    """
    n, total = len(hits), float(counts.sum())
    share = float(hits.sum()) / total
    variance = n / (n - 1) * ((hits - share * counts) ** 2).sum() / total**2
    alone = share * (1 - share) / total
    z, informative = stats.norm.ppf((1 + level) / 2), min((hits > 0).sum(), (hits < counts).sum())
    freedom = min(n - 1, 2 * informative) if few_seen else n - 1
    student = stats.t.ppf((1 + level) / 2, df=max(1, freedom))
    sure = max(total / max(1.0, variance / alone) * (z / student) ** 2, total**2 / (counts**2).sum())
    middle, reach = share + z**2 / (2 * sure), z * np.sqrt(share * (1 - share) / sure + z**2 / (4 * sure**2))
    return float((middle - reach) / (1 + z**2 / sure)), float((middle + reach) / (1 + z**2 / sure))


@lru_cache(maxsize=2)
def times_drawn(n: int, seed: int) -> np.ndarray:
    """How often each resample draws each cluster, resamples x clusters; the many intervals of one study share it."""
    draws = np.random.default_rng(seed).integers(0, n, size=(RESAMPLES, n))
    flat = (draws + n * np.arange(RESAMPLES)[:, None]).ravel()
    return np.bincount(flat, minlength=RESAMPLES * n).reshape(RESAMPLES, n).astype(float)
