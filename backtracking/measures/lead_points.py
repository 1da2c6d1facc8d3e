"""Which onsets and controls lead time is read at, and which of them a null probe calls events."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool

from backtracking.core.completions import Completion
from backtracking.core.errors import InputError
from backtracking.core.onsets import Lexicon, find_onsets
from backtracking.measures.decision_points import DecisionPoint, DecisionPoints


def usable_points(
    points: DecisionPoints, completions: Sequence[Completion], longest: int, lexicon: Lexicon
) -> DecisionPoints:
    """Points that have every lead and stand before any other trigger; events keep a control, controls their event."""
    first = _first_triggers(points.all, completions, lexicon)
    controls = tuple(
        control
        for control in points.controls
        if control.position >= longest and control.position + longest < first[_key(control)]
    )
    paired = {control.event for control in controls}
    events = tuple(
        event for event in points.events if longest <= event.position <= first[_key(event)] and event.event in paired
    )
    if not events:
        raise InputError(
            f"none of {len(points.events)} events has {longest} tokens and no trigger before it, and a control "
            "as far from any; sample more completions, draw more controls per event, or shorten the longest lead"
        )
    own = {event.event for event in events}
    return replace(points, events=events, controls=tuple(each for each in controls if each.event in own))


def _key(point: DecisionPoint | Completion) -> tuple[int | str, int, str]:
    return point.problem_id, point.sample_id, point.variant


def _first_triggers(
    points: Sequence[DecisionPoint], completions: Sequence[Completion], lexicon: Lexicon
) -> dict[tuple[int | str, int, str], float]:
    """Where the first trigger of each point's completion begins, counted or not; infinite if there is none."""
    baseline = {_key(row): row for row in completions if row.condition == "baseline"}
    found: dict[tuple[int | str, int, str], float] = {}
    for point in points:
        key = _key(point)
        if key not in baseline:
            raise InputError(f"one {point.kind} stands in {key}, which is none of the completions; give all of them")
        row = baseline[key]
        if point.context != row.prompt_ids + row.ids[: point.position]:
            raise InputError(f"one {point.kind} of {key} does not agree with its completion; give those of the points")
        if key not in found:
            starts = [row.token_at(onset.char) for onset in find_onsets(row.text, lexicon=lexicon)]
            found[key] = min(starts, default=float("inf"))
    return found


def null_labels(points: DecisionPoints, draws: int, seed: int) -> list[Bool[np.ndarray, " point"]]:
    """In each draw one of every event and its own controls, at random, is called the event."""
    members: dict[int, list[int]] = {point.event: [row] for row, point in enumerate(points.events)}
    for row, control in enumerate(points.controls, start=len(points.events)):
        members[control.event].append(row)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        labels = np.zeros(len(points.all), dtype=bool)
        labels[[rows[int(rng.integers(len(rows)))] for rows in members.values()]] = True
        found.append(labels)
    return found
