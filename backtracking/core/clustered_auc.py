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
    strata: Sequence[Hashable] | None = None,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Area under the ROC curve, with the interval of `clustered_rate`: whole clusters are resampled.

    0.5 is chance. A resample without one of the kinds is left out.

    Args:
        scores: Of the rows.
        labels: Whether each row is of the kind that should score higher.
        clusters: Problem of each row.
        strata: Only rows of one stratum are compared with each other. Give the folds of held-out scores: scores of
            different fits have no common zero, and comparing them draws the area of a useless score below 0.5.
        seed: Of the resamples.
        level: Of the interval.

    Raises:
        InputError: The lists differ in length, a score is not finite, or no two rows can be compared.
    """
    value, resampled, count = _areas(scores, labels, clusters, strata, seed)
    low, high = _ends(resampled, count, level)
    return Estimate(value, low, high, len(clusters), count, level)


def clustered_auc_difference(
    scores: Sequence[float] | np.ndarray,
    others: Sequence[float] | np.ndarray,
    labels: Sequence[bool] | np.ndarray,
    clusters: Sequence[Hashable],
    *,
    strata: Sequence[Hashable] | None = None,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Area of `scores` minus that of `others` over the same rows, in the same resamples; positive favours `scores`.

    Raises:
        InputError: As in `clustered_auc`.
    """
    value, first, count = _areas(scores, labels, clusters, strata, seed)
    other, second, _ = _areas(others, labels, clusters, strata, seed)
    low, high = _ends(first - second, count, level)
    return Estimate(value - other, low, high, len(clusters), count, level)


def _areas(
    scores: Sequence[float] | np.ndarray,
    labels: Sequence[bool] | np.ndarray,
    clusters: Sequence[Hashable],
    strata: Sequence[Hashable] | None,
    seed: int,
) -> tuple[float, np.ndarray, int]:
    """The area, the area in each resample of the clusters, and how many clusters there are."""
    values, kinds = np.asarray(scores, dtype=float), np.asarray(labels, dtype=bool)
    layers = np.zeros(len(values), dtype=int) if strata is None else _codes(strata)
    if not len(values) == len(kinds) == len(clusters) == len(layers):
        raise InputError(f"{len(values)} scores, {len(kinds)} labels, {len(clusters)} clusters, {len(layers)} strata")
    if not np.isfinite(values).all():
        raise InputError(f"{int((~np.isfinite(values)).sum())} scores are not finite; leave them out by name")
    index = _codes(clusters)
    count = int(index.max(initial=-1)) + 1
    comparable = (layers[kinds][:, None] == layers[~kinds][None]).astype(float)
    # Wins of the true rows of one cluster over the false rows of another, and how often they were compared.
    above = np.sign(values[kinds][:, None] - values[~kinds][None]) / 2 + 0.5
    wins = _by_cluster(above * comparable, index[kinds], index[~kinds], count)
    pairs = _by_cluster(comparable, index[kinds], index[~kinds], count)
    if not pairs.any():
        raise InputError(f"all {len(kinds)} rows are of one kind; an area under the curve needs both")
    times = times_drawn(count, seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        resampled = ((times @ wins) * times).sum(1) / ((times @ pairs) * times).sum(1)
    return float(wins.sum() / pairs.sum()), resampled, count


def _codes(names: Sequence[Hashable]) -> np.ndarray:
    order: dict[Hashable, int] = {}
    return np.array([order.setdefault(name, len(order)) for name in names], dtype=int)


def _by_cluster(values: np.ndarray, rows: np.ndarray, columns: np.ndarray, count: int) -> np.ndarray:
    half = np.zeros((count, values.shape[1]))
    np.add.at(half, rows, values)
    found = np.zeros((count, count))
    np.add.at(found.T, columns, half.T)
    return found


def _ends(resampled: np.ndarray, clusters: int, level: float) -> tuple[float, float]:
    present = resampled[~np.isnan(resampled)]
    if clusters < 2 or not len(present):
        return float("nan"), float("nan")
    return expanded_percentiles(present, clusters, level=level)
