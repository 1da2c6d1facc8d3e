"""Area under the ROC curve with intervals clustered by problem: how well a score tells two kinds of places apart."""

from collections.abc import Hashable, Sequence

import numpy as np
from scipy.stats import rankdata

from backtracking.core.errors import InputError
from backtracking.core.statistics import Estimate, expanded_percentiles, times_drawn


def auc(scores: Sequence[float] | np.ndarray, labels: Sequence[bool] | np.ndarray) -> float:
    """Chance that a true row's score is above a false row's, ties counting half; NaN if one kind is missing."""
    values, kinds = np.asarray(scores, dtype=float), np.asarray(labels, dtype=bool)
    positive = int(kinds.sum())
    negative = len(kinds) - positive
    if not positive or not negative:
        return float("nan")
    above = rankdata(values)[kinds].sum() - positive * (positive + 1) / 2
    return float(above / (positive * negative))


def clustered_auc(
    scores: Sequence[float] | np.ndarray,
    labels: Sequence[bool] | np.ndarray,
    clusters: Sequence[Hashable],
    *,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Area under the ROC curve, with the interval of `clustered_rate`: whole clusters are resampled.

    0.5 is chance. A resample without one of the kinds is left out.

    Raises:
        InputError: The three differ in length, a score is not finite, or one kind is missing.
    """
    values, clusters_found = _resampled(scores, labels, clusters, seed=seed)
    low, high = _ends(values, clusters_found, level)
    return Estimate(auc(scores, labels), low, high, len(clusters), clusters_found, level)


def clustered_auc_difference(
    scores: Sequence[float] | np.ndarray,
    others: Sequence[float] | np.ndarray,
    labels: Sequence[bool] | np.ndarray,
    clusters: Sequence[Hashable],
    *,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Area of `scores` minus that of `others` over the same rows, in the same resamples; positive favours `scores`.

    Raises:
        InputError: As in `clustered_auc`.
    """
    first, clusters_found = _resampled(scores, labels, clusters, seed=seed)
    second, _ = _resampled(others, labels, clusters, seed=seed)
    low, high = _ends(first - second, clusters_found, level)
    difference = auc(scores, labels) - auc(others, labels)
    return Estimate(difference, low, high, len(clusters), clusters_found, level)


def _resampled(
    scores: Sequence[float] | np.ndarray,
    labels: Sequence[bool] | np.ndarray,
    clusters: Sequence[Hashable],
    *,
    seed: int,
) -> tuple[np.ndarray, int]:
    """The area in each resample of the clusters, and how many clusters there are."""
    values, kinds = np.asarray(scores, dtype=float), np.asarray(labels, dtype=bool)
    if not len(values) == len(kinds) == len(clusters):
        raise InputError(f"{len(values)} scores, {len(kinds)} labels and {len(clusters)} cluster labels")
    if not np.isfinite(values).all():
        raise InputError(f"{int((~np.isfinite(values)).sum())} scores are not finite; leave them out by name")
    if kinds.all() or not kinds.any():
        raise InputError(f"all {len(kinds)} rows are of one kind; an area under the curve needs both")
    order: dict[Hashable, int] = {}
    index = np.array([order.setdefault(cluster, len(order)) for cluster in clusters])
    count = len(order)
    # Wins of the true rows of one cluster over the false rows of another: a resample weighs these sums.
    above = np.sign(values[kinds][:, None] - values[~kinds][None]) / 2 + 0.5
    by_row = np.zeros((count, above.shape[1]))
    np.add.at(by_row, index[kinds], above)
    wins = np.zeros((count, count))
    np.add.at(wins.T, index[~kinds], by_row.T)
    positive = np.bincount(index[kinds], minlength=count).astype(float)
    negative = np.bincount(index[~kinds], minlength=count).astype(float)
    times = times_drawn(count, seed)
    pairs = (times @ positive) * (times @ negative)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, ((times @ wins) * times).sum(1) / pairs, np.nan), count


def _ends(resampled: np.ndarray, clusters: int, level: float) -> tuple[float, float]:
    present = resampled[~np.isnan(resampled)]
    if clusters < 2 or not len(present):
        return float("nan"), float("nan")
    return expanded_percentiles(present, clusters, level=level)
