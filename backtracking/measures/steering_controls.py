"""Controls of a steering direction, all of its length: random, self, and towards another behaviour.

What each rules out: random directions, that any push of that length does it; self, that the noise of a
difference of means within the data does it; another behaviour, that any direction between two kinds of places
does it. Noise that is drawn anew at every position cannot be written as an `Add`; `noise_arm` gives each
completion a random direction of its own instead, which is constant within the completion.
"""

import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import regex as re

from backtracking.core.completions import Completion
from backtracking.core.errors import InputError
from backtracking.core.interventions import BASELINE
from backtracking.core.onsets import DEFAULT_LEXICON, Lexicon
from backtracking.core.sites import Site
from backtracking.core.vectors import FixedVector
from backtracking.measures.control_matching import Match, Matcher, check_match
from backtracking.measures.control_pools import Marks, Place
from backtracking.measures.decision_points import (
    CLEARANCE,
    TOLERANCE,
    DecisionPoints,
    Skipped,
    point_at,
    with_controls,
)
from backtracking.measures.point_activations import PointActivations, Window, window_text
from backtracking.measures.steering_directions import Direction, made

NOISE = "noise"


def random_directions(direction: Direction, draws: int, *, seed: int = 0) -> tuple[Direction, ...]:
    """So many directions of the same length at the same site, uniform over all directions.

    Raises:
        InputError: Fewer than one draw.
    """
    if draws < 1:
        raise InputError(f"draws is {draws}; give at least 1, and 20 for a null distribution")
    found = []
    for number in range(draws):
        values = np.random.default_rng([seed, number]).standard_normal(len(direction.vector.values))
        values *= direction.norm / np.linalg.norm(values)
        found.append(_like(direction, values, "random", f"random {seed}.{number} {direction.site}"))
    return tuple(found)


def self_direction(
    read: PointActivations, site: str | Site, *, like: Direction, window: Window | None = None, seed: int = 0
) -> Direction:
    """The difference between two random halves of the controls, given the length of `like`.

    The halves hold different problems. It lies where the data lie, and means nothing.

    Raises:
        InputError: The controls come from fewer than two problems.
    """
    found = Site.parse(site)
    rows = read.rows(found, window).mean_by_point()
    controls = rows.of(~rows.is_event)
    problems = sorted(set(map(str, controls.problems)))
    if len(problems) < 2:
        raise InputError(f"the controls come from {len(problems)} problem; two halves need at least 2")
    chosen = set(np.random.default_rng(seed).permutation(problems)[: len(problems) // 2].tolist())
    first = np.array([str(problem) in chosen for problem in controls.problems])
    difference = controls.values[first].mean(0) - controls.values[~first].mean(0)
    name = f"self {seed} {found} {window_text(window or read.window)}"
    return made(read, found, window, values=_of_length(difference, like), kind="self", name=name)


def other_direction(
    read: PointActivations, site: str | Site, *, like: Direction, window: Window | None = None, name: str
) -> Direction:
    """The mean difference towards another behaviour, read at `behaviour_points`, given the length of `like`."""
    found = Site.parse(site)
    rows = read.rows(found, window).mean_by_point()
    difference = rows.values[rows.is_event].mean(0) - rows.values[~rows.is_event].mean(0)
    label = f"{name} {found} {window_text(window or read.window)}"
    return made(read, found, window, values=_of_length(difference, like), kind="other", name=label)


def behaviour_points(
    completions: Sequence[Completion],
    pattern: str,
    *,
    match: Sequence[Match] = ("position",),
    per_event: int = 1,
    tolerance: int = TOLERANCE,
    clearance: int = CLEARANCE,
    lexicon: Lexicon = DEFAULT_LEXICON,
    seed: int = 0,
) -> DecisionPoints:
    """Places where another behaviour begins, each with a matched control where neither it nor a trigger does.

    Args:
        completions: Those of the baseline are searched.
        pattern: Regular expression; its first match in a completion is the event, as the first onset is.
        match: `position`, and `sentence` if wanted, as for `decision_points`.
        per_event: Controls per event.
        tolerance: In tokens, of a control's position.
        clearance: Tokens that a control keeps from every trigger, and in its event's own completion from the event.
            Other matches may be as near as the next token: a behaviour may stand in most sentences.
        lexicon: Triggers, which are neither events nor controls.
        seed: Of ties between controls.

    Raises:
        InputError: The pattern matches nowhere.
    """
    check_match(match, None)
    own = [row for row in completions if row.condition == BASELINE.name]
    every = [Place(row, row.token_at(match.start())) for row in own for match in re.finditer(pattern, row.text)]
    first: dict[int, Place] = {}
    for place in every:
        first.setdefault(id(place.completion), place)
    if not first:
        raise InputError(f"the pattern {pattern!r} matches in none of {len(own)} baseline completions")
    places, marks = list(first.values()), Marks(every, clearance=clearance, lexicon=lexicon, around=False)
    events = [
        point_at(place, "event", index, place.completion.ids[place.position], marks)
        for index, place in enumerate(places)
    ]
    skipped = Skipped(len(completions) - len(own), len(own) - len(places), 0)
    if not per_event:
        return DecisionPoints(tuple(events), (), (), skipped)
    matcher = Matcher(own, marks, match=tuple(match), tolerance=tolerance, model=None, rng=np.random.default_rng(seed))
    return with_controls(events, matcher.controls(places, per_event), per_event, marks, skipped)


def without_controls(points: DecisionPoints, completions: Sequence[Completion], pattern: str) -> DecisionPoints:
    """The points less the controls at which the pattern begins, so that a direction away from them keeps it."""
    held = {(row.problem_id, row.sample_id, row.variant): row for row in completions if row.condition == BASELINE.name}
    kept = []
    for control in points.controls:
        row = held[control.problem_id, control.sample_id, control.variant]
        if control.position not in {row.token_at(match.start()) for match in re.finditer(pattern, row.text)}:
            kept.append(control)
    return replace(points, controls=tuple(kept))


def noise_arm(completions: Sequence[Completion], draws: Sequence[str], *, name: str = NOISE) -> tuple[Completion, ...]:
    """An arm in which every completion has a random direction of its own, taken from the arms of random draws.

    Which draw a sample takes follows from its problem and number alone. With more samples than draws a direction
    serves several of them.

    Raises:
        InputError: A draw is missing, or the draws do not hold the same samples.
    """
    found: dict[str, dict[tuple[int | str, int], Completion]] = {each: {} for each in draws}
    for row in completions:
        if row.condition in found:
            found[row.condition][row.problem_id, row.sample_id] = row
    empty = [each for each, arm in found.items() if not arm]
    if empty or not draws:
        raise InputError(f"no completions of the draw {empty[0]!r}" if empty else "no draws to take noise from")
    keys = list(found[draws[0]])
    if any(set(arm) != set(keys) for arm in found.values()):
        raise InputError("the draws do not hold the same samples; sample each in full")
    taken = (found[draws[zlib.crc32(repr(key).encode()) % len(draws)]][key] for key in keys)
    return tuple(replace(row, condition=name) for row in taken)


def _like(direction: Direction, values: np.ndarray, kind, name: str) -> Direction:
    vector = FixedVector(tuple(values.tolist()), name)
    return replace(direction, vector=vector, method=kind, auc=None)


def _of_length(values: np.ndarray, like: Direction) -> np.ndarray:
    return values * (like.norm / np.linalg.norm(values))
