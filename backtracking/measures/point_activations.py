"""What the model holds in a window before decision points, read through the activation store."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from backtracking.core.completions import Completion
from backtracking.core.errors import InputError
from backtracking.core.sites import Site
from backtracking.measures.decision_points import DecisionPoint, DecisionPoints
from backtracking.model.activations import ActivationStore, cache_activations
from backtracking.model.reasoner import HookedReasoner

Window = tuple[int, int]
"""First and last offset, both included: -1 is the position that predicts the onset, -2 the one before."""


@dataclass(frozen=True)
class Rows:
    """Activations at one site in one window, one row per position."""

    values: Float[np.ndarray, "row d"]
    point: Int[np.ndarray, " row"]
    """Which point each row belongs to: events first, as in `DecisionPoints.all`."""
    is_event: Bool[np.ndarray, " row"]
    problems: tuple[int | str, ...]
    """Of each row: of the completion it stands in, so a control may be of another problem than its event."""

    def mean_by_point(self) -> "Rows":
        """One row per point: the mean over the positions it has, so that every point weighs the same."""
        points, first, index = np.unique(self.point, return_index=True, return_inverse=True)
        sums = np.zeros((len(points), self.values.shape[1]))
        np.add.at(sums, index, self.values)
        means = sums / np.bincount(index)[:, None]
        return Rows(means, points, self.is_event[first], tuple(self.problems[at] for at in first))

    def of(self, keep: Bool[np.ndarray, " row"]) -> "Rows":
        """Those rows alone."""
        problems = tuple(problem for problem, kept in zip(self.problems, keep, strict=True) if kept)
        return Rows(self.values[keep], self.point[keep], self.is_event[keep], problems)


@dataclass(frozen=True)
class PointActivations:
    """Activations at sites in a window before every event and every control.

    A control has the same offsets before its own position. Positions of the prompt before its last token are not
    read: nothing was decided there; `missing` counts them.
    """

    model: str
    points: DecisionPoints
    sites: tuple[Site, ...]
    window: Window
    point: Int[np.ndarray, " row"]
    """Which point each row belongs to."""
    offset: Int[np.ndarray, " row"]
    values: dict[Site, Float[np.ndarray, "row d"]]
    missing: int
    """Positions of the window that do not exist."""

    def rows(self, site: str | Site, window: Window | None = None) -> Rows:
        """What was read at a site, in the whole window or in a part of it.

        Raises:
            InputError: The site or a part of the window was not read.
        """
        found, first_last = Site.parse(site), self.window if window is None else window
        if found not in self.values:
            raise InputError(f"{found} was not read, only {', '.join(map(str, self.sites))}")
        check_window(first_last)
        if first_last[0] < self.window[0] or first_last[1] > self.window[1]:
            raise InputError(f"the window {first_last} is not inside {self.window}, which was read; read more")
        inside = (self.offset >= first_last[0]) & (self.offset <= first_last[1])
        every, events = self.points.all, len(self.points.events)
        points = self.point[inside]
        problems = tuple(every[index].problem_id for index in points)
        return Rows(self.values[found][inside].astype(float), points, points < events, problems)


def window_text(window: Window) -> str:
    """`onset-13:onset-8`, as the activation store writes it."""
    return f"onset{window[0]:+d}:onset{window[1]:+d}"


def check_window(window: Window) -> None:
    """Refuse a window that is empty or reaches the onset itself.

    Raises:
        InputError: It does.
    """
    first, last = window
    if not first <= last <= -1:
        raise InputError(
            f"the window {window} cannot be read before an onset; give first and last offset, such as (-13, -8), "
            "the last at most -1 (the position that predicts the onset)"
        )


def read_points(
    model: HookedReasoner,
    points: DecisionPoints,
    *,
    sites: Sequence[str | Site],
    window: Window = (-13, -1),
    to: str | Path | None = None,
) -> PointActivations:
    """Run the contexts of decision points and keep the model's activations in a window before each.

    Contexts that begin one another, as those of one completion do, are run once.

    Args:
        model: The reasoner that wrote the completions.
        points: Events and controls.
        sites: Where to read.
        window: Offsets from the onset's first token (for a control from the token predicted there).
        to: Folder of the activation store; if not given it is deleted after reading.

    Raises:
        InputError: There are no points, the window is not before the onset, or a site is not the model's.
    """
    check_window(window)
    if not points.events:
        raise InputError("there are no events to read before; sample more completions")
    every = points.all
    runs = _runs(every)
    completions = [_as_completion(run) for run in runs]
    wanted = [sorted({at for index in run.points for at in _positions(every[index], window)}) for run in runs]
    if to is None:
        with tempfile.TemporaryDirectory() as folder:
            store = cache_activations(model, completions, sites=sites, positions=wanted, to=Path(folder) / "store")
            return _gathered(model, points, runs, store, window)
    store = cache_activations(model, completions, sites=sites, positions=wanted, to=to)
    return _gathered(model, points, runs, store, window)


@dataclass
class _Run:
    """A context that is run, and the points whose contexts begin it."""

    longest: DecisionPoint
    points: list[int]


def _runs(every: Sequence[DecisionPoint]) -> list[_Run]:
    by_key: dict[tuple[int | str, int, str], list[_Run]] = {}
    for index in sorted(range(len(every)), key=lambda index: -len(every[index].context)):
        point = every[index]
        runs = by_key.setdefault((point.problem_id, point.sample_id, point.variant), [])
        for run in runs:
            if run.longest.context[: len(point.context)] == point.context:
                run.points.append(index)
                break
        else:
            runs.append(_Run(point, [index]))
    return [run for runs in by_key.values() for run in runs]


def _as_completion(run: _Run) -> Completion:
    point = run.longest
    prompt, ids = point.context[: point.prompt_tokens], point.context[point.prompt_tokens :]
    return Completion(point.problem_id, point.sample_id, point.variant, "baseline", prompt, ids, "", "length")


def _positions(point: DecisionPoint, window: Window) -> range:
    """Positions in the full sequence, those before the prompt's last token left out."""
    length = len(point.context)
    return range(max(length + window[0], point.prompt_tokens - 1), length + window[1] + 1)


def _gathered(
    model: HookedReasoner, points: DecisionPoints, runs: Sequence[_Run], store: ActivationStore, window: Window
) -> PointActivations:
    table, every = store.rows, points.all
    row_of = {key: row for row, key in enumerate(zip(table["completion"], table["position"], strict=True))}
    rows, owners, offsets = [], [], []
    for number, run in enumerate(runs):
        for index in run.points:
            point = every[index]
            for position in _positions(point, window):
                rows.append(row_of[number, position])
                owners.append(index)
                offsets.append(position - len(point.context))
    order = np.argsort(owners, kind="stable")
    chosen = np.array(rows)[order]
    size = window[1] - window[0] + 1
    return PointActivations(
        model=model.name,
        points=points,
        sites=store.sites,
        window=window,
        point=np.array(owners)[order],
        offset=np.array(offsets)[order],
        values={site: store[site][chosen].float().numpy() for site in store.sites},
        missing=size * len(every) - len(rows),
    )
