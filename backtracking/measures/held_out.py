"""Scores of rows by a fit that never saw their problem: what a probe or a direction says about new problems."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from backtracking.core.errors import InputError

Scorer = Callable[[Float[np.ndarray, "row d"]], Float[np.ndarray, " row"]]
"""Scores rows; more means more like an event."""
Fit = Callable[[Float[np.ndarray, "row d"], Bool[np.ndarray, " row"]], Scorer]


def grouped_folds(
    labels: Bool[np.ndarray, " row"], groups: Sequence[Hashable], *, folds: int, seed: int
) -> Iterator[tuple[Int[np.ndarray, " train"], Int[np.ndarray, " test"]]]:
    """Rows to fit on and rows to score, such that no problem is on both sides; each row is scored once.

    Raises:
        InputError: Fewer than two folds, or fewer problems of either kind than folds.
    """
    if folds < 2:
        raise InputError(f"folds is {folds}; a fit needs other problems than those it is scored on: give at least 2")
    for kind, name in ((True, "events"), (False, "controls")):
        problems = {group for group, label in zip(groups, labels, strict=True) if label == kind}
        if len(problems) < folds:
            raise InputError(
                f"{name} come from {len(problems)} problems, too few for {folds} folds; sample more problems"
            )
    codes = {group: code for code, group in enumerate(dict.fromkeys(groups))}
    index = np.array([codes[group] for group in groups])
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    yield from splitter.split(np.zeros((len(labels), 1)), labels, index)


@dataclass(frozen=True)
class HeldOut:
    """Scores by fits that did not see the row's problem."""

    scores: Float[np.ndarray, " row"]
    fold: Int[np.ndarray, " row"]
    """Which fit scored the row; scores of different folds are not to be compared."""


def held_out_scores(
    values: Float[np.ndarray, "row d"],
    labels: Bool[np.ndarray, " row"],
    groups: Sequence[Hashable],
    *,
    fit: Fit,
    folds: int = 5,
    seed: int = 0,
) -> HeldOut:
    """The score of every row by the fit on the folds that do not hold its problem.

    Raises:
        InputError: See `grouped_folds`.
    """
    scores, fold = np.full(len(labels), np.nan), np.full(len(labels), folds)
    for number, (train, test) in enumerate(grouped_folds(labels, groups, folds=folds, seed=seed)):
        scores[test] = fit(values[train], labels[train])(values[test])
        fold[test] = number
    return HeldOut(scores, fold)


def logistic(strength: float = 0.1) -> Fit:
    """A ridge logistic regression on standardised columns, both kinds weighing the same.

    `strength` is scikit-learn's C: smaller is smoother.
    """

    def fit(values: np.ndarray, labels: np.ndarray) -> Scorer:
        return make_pipeline(StandardScaler(), _regression(strength)).fit(values, labels).decision_function

    return fit


def raw_weights(
    values: Float[np.ndarray, "row d"], labels: Bool[np.ndarray, " row"], strength: float
) -> Float[np.ndarray, " d"]:
    """The weights of `logistic` in the units of the columns, not of the standardised ones."""
    scaler = StandardScaler().fit(values)
    return _regression(strength).fit(scaler.transform(values), labels).coef_[0] / np.asarray(scaler.scale_)


def _regression(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, class_weight="balanced", max_iter=1000)


def mean_difference() -> Fit:
    """Projection on the difference of the means, 0 at the midpoint of the two and 1 apart between them."""

    def fit(values: np.ndarray, labels: np.ndarray) -> Scorer:
        event, control = values[labels].mean(0), values[~labels].mean(0)
        difference, middle = event - control, (event + control) / 2
        return lambda rows: (rows - middle) @ difference / max(float(difference @ difference), 1e-30)

    return fit
