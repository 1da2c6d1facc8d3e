"""Difference of two shares whose denominators differ, such as wrong steps that were followed by a trigger.

A steered completion has other steps than its unsteered twin, so nothing but the problem pairs them.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from backtracking.core.cluster_intervals import FEW, MOST_RESAMPLED, linear_ends, resampled_ends, times_drawn
from backtracking.core.errors import InputError
from backtracking.core.statistics import Estimate

FLIPS = 9999


@dataclass(frozen=True)
class Counted:
    """What one completion adds to a share: `hits` out of `of`."""

    hits: int
    of: int


@dataclass(frozen=True)
class ShareDifference:
    """Share of the arm minus share of the reference; positive means the arm has more."""

    change: Estimate
    p: float
    """Two-sided, by exchanging the arms of whole problems at random; NaN where a share is of nothing."""


def paired_share_difference(
    arm: Sequence[Counted],
    reference: Sequence[Counted],
    clusters: Sequence[Hashable],
    *,
    seed: int = 0,
    level: float = 0.95,
) -> ShareDifference:
    """Compare `sum(hits) / sum(of)` of two arms of the same completions in the same order.

    The interval resamples problems, expanded as in `clustered_rate`; resamples in which a share is of nothing are
    left out. If the arm does nothing, a problem's two arms may as well be exchanged: the test exchanges each with
    chance one half, `p = (1 + as large) / (1 + 9999)`.

    Raises:
        InputError: The three differ in length, or there is nothing.
    """
    if not len(arm) == len(reference) == len(clusters) or not clusters:
        raise InputError(f"cannot pair {len(arm)} rows with {len(reference)} over {len(clusters)} cluster labels")
    own, other = _by_cluster(arm, clusters), _by_cluster(reference, clusters)
    count = len(own)
    once = np.ones((1, count))
    value = float(_difference(once @ own, once @ other)[0])
    low = high = float("nan")
    if count > 1 and np.isfinite(value):
        low, high = _ends(value, own, other, seed=seed, level=level)
    return ShareDifference(Estimate(value, low, high, len(arm), count, level), _p_value(own, other, value, seed))


def _by_cluster(rows: Sequence[Counted], clusters: Sequence[Hashable]) -> np.ndarray:
    """Hits and counts of each cluster, clusters x 2."""
    order: dict[Hashable, int] = {}
    index = np.array([order.setdefault(cluster, len(order)) for cluster in clusters])
    found = np.zeros((len(order), 2))
    np.add.at(found, index, np.array([[row.hits, row.of] for row in rows], dtype=float))
    return found


def _ends(value: float, own: np.ndarray, other: np.ndarray, *, seed: int, level: float) -> tuple[float, float]:
    shares = [part[:, 0].sum() / part[:, 1].sum() for part in (own, other)]
    influence = [
        (part[:, 0] - share * part[:, 1]) / part[:, 1].sum() for part, share in zip((own, other), shares, strict=True)
    ]
    moved, count = influence[0] - influence[1], len(own)
    linear = linear_ends(value, moved, level=level, least=-1.0)
    if count > MOST_RESAMPLED:
        return linear
    times = times_drawn(count, seed)
    low, high = resampled_ends(value, _difference(times @ own, times @ other), count, level=level)
    return (min(low, linear[0]), max(high, linear[1])) if count < FEW else (low, high)


def _difference(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return own[:, 0] / own[:, 1] - other[:, 0] / other[:, 1]


def _p_value(own: np.ndarray, other: np.ndarray, value: float, seed: int) -> float:
    if not np.isfinite(value):
        return float("nan")
    middle, half = (own + other) / 2, (own - other) / 2
    if not half.any():
        return 1.0
    moved = _signs(len(own), seed) @ half
    total = middle.sum(0)
    drawn = np.abs(_difference(total + moved, total - moved))
    # An exchange that leaves a share of nothing is no evidence against the hypothesis.
    as_large = np.isnan(drawn) | (drawn >= abs(value) - 1e-12)
    return float((1 + as_large.sum()) / (1 + FLIPS))


@lru_cache(maxsize=2)
def _signs(n: int, seed: int) -> np.ndarray:
    return 2.0 * np.random.default_rng(seed).integers(0, 2, size=(FLIPS, n)) - 1
