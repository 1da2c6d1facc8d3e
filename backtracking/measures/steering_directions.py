"""Steering directions: what the residual stream holds before onsets and not before matched controls.

Magnitude 1 of a direction is its vector. Made from one set of events and controls (mean difference, logistic,
gradient) it is as long as the difference of the two means at that site and window, whatever the method. A combined
direction is made from several such sets and has a length of its own, that of the weighted mean of its parts. Controls
are as long as the direction they stand beside. `Direction.relative_norm` says how long that is beside the activations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from backtracking.core.clustered_auc import clustered_auc
from backtracking.core.errors import InputError
from backtracking.core.interventions import Add, Project
from backtracking.core.scopes import Scope
from backtracking.core.sites import Site
from backtracking.core.statistics import Estimate
from backtracking.core.vectors import FixedVector
from backtracking.measures.held_out import held_out_scores, logistic, mean_difference, raw_weights
from backtracking.measures.point_activations import PointActivations, Rows, Window, window_text

Method = Literal["mean_difference", "logistic"]
Kind = Literal["mean_difference", "logistic", "gradient", "combined", "random", "self", "other"]
STRENGTH = 0.1
"""C of the logistic direction, after standardising."""


@dataclass(frozen=True)
class Direction:
    """A direction at a site; magnitude 1 is `vector` itself, positive towards backtracking."""

    vector: FixedVector
    site: Site
    window: Window
    method: Kind
    model: str
    events: int
    controls: int
    fitted_on: tuple[int | str, ...]
    """Problems of the events and controls it was made from: those it must not be tried on."""
    auc: Estimate | None
    """Of the projection at held-out problems, events against controls; None where nothing was fitted to tell them."""
    activation_norm: float
    """Mean length of the activations at the controls, in the unit of the vector."""

    @property
    def values(self) -> Float[np.ndarray, " d"]:
        """The numbers of the vector."""
        return np.array(self.vector.values)

    @property
    def norm(self) -> float:
        """Length of magnitude 1."""
        return float(np.linalg.norm(self.values))

    @property
    def relative_norm(self) -> float:
        """Length of magnitude 1 as a share of the mean length of the activations there."""
        return self.norm / self.activation_norm

    def intervention(self, magnitude: float, *, scope: Scope = "decode") -> Add:
        """Steering: add `magnitude` times the vector. Negative steers away from backtracking."""
        return Add(self.site, self.vector, magnitude, scope)

    def ablation(self, *, scope: Scope = "decode") -> Project:
        """Directional ablation: remove the component along the direction, whatever its sign."""
        return Project(self.site, self.vector, scope)

    def __str__(self) -> str:
        """Return `mean_difference at resid_post.3, onset-1:onset-1`."""
        return f"{self.method} at {self.site}, {window_text(self.window)}"


def steering_direction(
    read: PointActivations,
    site: str | Site,
    *,
    window: Window | None = None,
    method: Method = "mean_difference",
    folds: int = 5,
    seed: int = 0,
) -> Direction:
    """The direction from matched controls to onsets at one site, in one window.

    Each event and control counts once, with the mean of its positions. The held-out area under the curve refits
    the direction without the problems it is scored on.

    Args:
        read: Activations before events and controls, as `read_points` gives them.
        site: Where.
        window: Part of what was read; all of it if not given.
        method: `mean_difference` of the two kinds, or the weights of a `logistic` regression on standardised
            activations, taken back to the units of the site and given the length of the mean difference.
        folds: Of the held-out score, grouped by problem.
        seed: Of the folds and the interval.

    Raises:
        InputError: No such method, site or window; no controls; or too few problems for the folds.
    """
    if method not in get_args(Method):
        raise InputError(f"unknown method {method!r}; use {' or '.join(get_args(Method))}")
    found = Site.parse(site)
    rows = read.rows(found, window).mean_by_point()
    _refuse_one_kind(rows)
    fit = mean_difference() if method == "mean_difference" else logistic(STRENGTH)
    held = held_out_scores(rows.values, rows.is_event, rows.problems, fit=fit, folds=folds, seed=seed)
    return made(
        read,
        found,
        window,
        values=_fitted(rows, method),
        kind=method,
        name=f"{method} {found} {window_text(window or read.window)}",
        auc=clustered_auc(held.scores, rows.is_event, rows.problems, strata=held.fold.tolist(), seed=seed),
    )


def combined_direction(directions: Sequence[Direction], *, weights: Sequence[float] | None = None) -> Direction:
    """The mean of several directions at one site, such as towards onsets and towards checks, each against moving on.

    Magnitude 1 of it is the weighted mean of the parts' vectors, each at its own magnitude 1: never longer than the
    longest part, and the shorter the less they agree. It is not the length of any difference of means.

    Args:
        directions: Two or more.
        weights: What each vector is multiplied by before the mean, above 0; the same if not given. Only their ratios
            matter. The vectors are not brought to one length first, so a longer part counts for more than its weight;
            for parts to count by their weights alone, divide each weight by the `norm` of its direction.

    Raises:
        InputError: Fewer than two, of different sites, windows or models, or weights that do not fit them.
    """
    if len(directions) < 2 or len({(each.site, each.window, each.model) for each in directions}) > 1:
        raise InputError(f"cannot combine {len(directions)} directions; give two or more of one site, window and model")
    given = [1.0] * len(directions) if weights is None else list(weights)
    if len(given) != len(directions) or not all(0 < weight < float("inf") for weight in given):
        raise InputError(f"the weights {given} do not fit {len(directions)} directions; give one above 0 for each")
    first = directions[0]
    values = np.average([each.values for each in directions], axis=0, weights=given)
    return replace(
        first,
        vector=FixedVector(tuple(values.tolist()), " and ".join(each.vector.name for each in directions)),
        method="combined",
        events=sum(each.events for each in directions),
        controls=sum(each.controls for each in directions),
        fitted_on=tuple(dict.fromkeys(problem for each in directions for problem in each.fitted_on)),
        auc=None,
        activation_norm=float(np.mean([each.activation_norm for each in directions])),
    )


def made(
    read: PointActivations,
    site: Site,
    window: Window | None,
    *,
    values: Float[np.ndarray, " d"],
    kind: Kind,
    name: str,
    auc: Estimate | None = None,
) -> Direction:
    """A direction with the counts and norms of what it was made from."""
    rows = read.rows(site, window).mean_by_point()
    norm = float(np.linalg.norm(rows.values[~rows.is_event], axis=1).mean())
    return Direction(
        vector=FixedVector(tuple(values.tolist()), name),
        site=site,
        window=window or read.window,
        method=kind,
        model=read.model,
        events=int(rows.is_event.sum()),
        controls=int((~rows.is_event).sum()),
        fitted_on=tuple(dict.fromkeys(rows.problems)),
        auc=auc,
        activation_norm=norm,
    )


def magnitude_one(read: PointActivations, site: str | Site, window: Window | None = None) -> float:
    """Length of the difference of the two means at a site and window: that of every direction made from these points.

    Raises:
        InputError: No such site or window, or no controls.
    """
    rows = read.rows(site, window).mean_by_point()
    _refuse_one_kind(rows)
    return float(np.linalg.norm(_fitted(rows, "mean_difference")))


def _fitted(rows: Rows, method: Method) -> Float[np.ndarray, " d"]:
    difference = rows.values[rows.is_event].mean(0) - rows.values[~rows.is_event].mean(0)
    if method == "mean_difference":
        return difference
    weights = raw_weights(rows.values, rows.is_event, STRENGTH)
    return weights / np.linalg.norm(weights) * np.linalg.norm(difference)


def _refuse_one_kind(rows: Rows) -> None:
    events = int(rows.is_event.sum())
    if not events or events == len(rows.is_event):
        raise InputError(
            f"{events} events and {len(rows.is_event) - events} controls make no direction; give events with controls"
        )
