"""Area under the ROC curve with intervals clustered by problem: how well a score tells two kinds of places apart."""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float
from scipy import sparse
from scipy.stats import rankdata

from backtracking.core.cluster_intervals import resampled_ends, times_drawn
from backtracking.core.errors import InputError
from backtracking.core.statistics import Estimate

AT_ONCE = 2**21
"""Numbers held at once while wins are counted (16 MiB)."""


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
    low, high = resampled_ends(value, resampled, count, level=level, least=0.0)
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
    low, high = resampled_ends(value - other, first - second, count, level=level, alike=True)
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
    true, false = (_by_stratum(index, layers, kind, count) for kind in (kinds, ~kinds))
    compared = float((true.sum(0) * false.sum(0)).sum())
    if not compared:
        raise InputError(f"all {len(kinds)} rows are of one kind; an area under the curve needs both")
    wins = _Wins(values, kinds, index, layers, count)
    times = times_drawn(count, seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        resampled = wins.resampled(times) / ((times @ true) * (times @ false)).sum(1)
    return float(wins.over(np.ones((count, 1))).sum() / compared), resampled, count


class _Wins:
    """Wins of true rows over false rows of their stratum, a tie being half of one, without a table of all pairs.

    Sorted by stratum and score, the false rows that a true row beats stand side by side, so weights added up along
    them say how much it beats. All numbers are halves of whole ones, so no order of adding rounds.
    """

    def __init__(
        self, values: np.ndarray, kinds: np.ndarray, index: np.ndarray, layers: np.ndarray, count: int
    ) -> None:
        order = np.lexsort((values, layers))
        rises = (np.diff(values[order]) != 0) | (np.diff(layers[order]) != 0)
        place = np.empty(len(order), dtype=int)
        place[order] = np.concatenate([[0], np.cumsum(rises)])
        sorted_false = order[~kinds[order]]
        self._false = index[sorted_false]
        below = np.searchsorted(place[sorted_false], place[kinds], "left")
        up_to = np.searchsorted(place[sorted_false], place[kinds], "right")
        begin = np.searchsorted(layers[sorted_false], layers[kinds], "left")
        total = len(below)
        self._beaten = sparse.csr_array(
            (
                np.repeat([0.5, 0.5, -1.0], total),
                (np.tile(index[kinds], 3), np.concatenate([below, up_to, begin])),
            ),
            shape=(count, len(sorted_false) + 1),
        )
        """Times this, the added-up weights of the false rows give the wins of each cluster's true rows."""

    def over(self, weights: Float[np.ndarray, "cluster way"]) -> Float[np.ndarray, "cluster way"]:
        """Of each cluster's true rows over all false rows, every one counted as its cluster is weighted."""
        added = np.zeros((len(self._false) + 1, weights.shape[1]))
        np.cumsum(weights[self._false], axis=0, out=added[1:])
        return self._beaten @ added

    def resampled(self, times: Float[np.ndarray, "draw cluster"]) -> Float[np.ndarray, " draw"]:
        """All wins in each resample of the clusters."""
        draws, count = times.shape
        at_once = max(1, AT_ONCE // (len(self._false) + 1))
        if count <= draws // 4:  # then the wins between clusters are quicker had once than the wins in each resample
            each = [self.over(np.eye(count)[:, at : at + at_once]) for at in range(0, count, at_once)]
            return np.einsum("dc,dc->d", times @ np.concatenate(each, axis=1), times)
        parts = (np.ascontiguousarray(times[at : at + at_once].T) for at in range(0, draws, at_once))
        return np.concatenate([(self.over(part) * part).sum(0) for part in parts])


def _by_stratum(
    index: np.ndarray, layers: np.ndarray, kind: np.ndarray, count: int
) -> Float[np.ndarray, "cluster stratum"]:
    """Rows of one kind in each cluster and stratum."""
    strata = int(layers.max(initial=-1)) + 1
    found = np.bincount(index[kind] * strata + layers[kind], minlength=count * strata)
    return found.reshape(count, strata).astype(float)


def _codes(names: Sequence[Hashable]) -> np.ndarray:
    order: dict[Hashable, int] = {}
    return np.array([order.setdefault(name, len(order)) for name in names], dtype=int)
