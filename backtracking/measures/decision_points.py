"""Decision points: where a model chose to backtrack, and matched places where it did not.

An event is the prediction position of a completion's first onset that counts. Its control is a position of
comparable depth at which ordinary text followed, with no trigger near. A control is read for ITS EVENT'S token, so
that event minus control compares one token's logit at two places, not two tokens.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
import pandas as pd

from backtracking.core.completions import Completion
from backtracking.core.errors import InputError
from backtracking.core.events import Event
from backtracking.core.interventions import BASELINE
from backtracking.core.onsets import DEFAULT_LEXICON, Lexicon
from backtracking.measures.control_matching import Found, Match, Matcher, check_match
from backtracking.measures.control_pools import Marks, Place
from backtracking.model.reasoner import HookedReasoner

TOLERANCE = 25
"""Tokens by which a control's position may differ from its event's, if not told."""
CLEARANCE = 16
"""Tokens that a control keeps from every trigger of its completion, on both sides, if not told.

What brings a trigger about is at work some tokens before it: published directions are read 13 to 8 tokens before, and
the scan switches sites off at the last 4 positions. Behind a trigger the model reacts to it.
"""


@dataclass(frozen=True)
class DecisionPoint:
    """One position whose logits are read, and the token they are read for."""

    problem_id: int | str
    sample_id: int
    variant: str
    kind: Literal["event", "control"]
    event: int
    """Index of the event among the events: its own, or for a control that of the event it is matched to."""
    context: tuple[int, ...]
    """Ids of prompt and completion up to and including the prediction position."""
    prompt_tokens: int
    position: int
    """Index in the completion of the token that is predicted."""
    token_id: int
    """The onset token: for a control its own event's, not the token that followed."""
    after_trigger: bool = False
    """Whether a trigger, counted or not, begins before the position in the same completion."""


@dataclass(frozen=True)
class Unmatched:
    """An event with fewer controls than were asked for."""

    event: int
    problem_id: int | str
    sample_id: int
    found: int
    """Controls it has."""
    reason: str


@dataclass(frozen=True)
class Skipped:
    """Completions' events that are not decision points, counted by why."""

    other_condition: int
    """Not of the baseline."""
    without_onset: int
    """No strict onset that counts."""
    subsampled: int
    """Left out at random because of `max_events`."""


@dataclass(frozen=True)
class DecisionPoints:
    """Events, their controls, and what is missing."""

    events: tuple[DecisionPoint, ...]
    controls: tuple[DecisionPoint, ...]
    unmatched: tuple[Unmatched, ...]
    """Every event without all its controls."""
    skipped: Skipped

    @property
    def all(self) -> tuple[DecisionPoint, ...]:
        """Events, then controls."""
        return self.events + self.controls

    @property
    def reused(self) -> int:
        """Controls whose context serves an earlier control too."""
        return len(self.controls) - len({control.context for control in self.controls})

    @property
    def in_own_completion(self) -> int:
        """Controls that stand in their event's own completion, some way before it."""
        own = {event.event: _key(event) for event in self.events}
        return sum(_key(control) == own[control.event] for control in self.controls)

    @property
    def behind_trigger(self) -> int:
        """Controls whose completion has a trigger before them, counted or not: their contexts are not comparable."""
        return sum(control.after_trigger for control in self.controls)

    def to_pandas(self) -> pd.DataFrame:
        """One row per point, events first; `context_tokens` stands for the context."""
        names = [field.name for field in fields(DecisionPoint) if field.name != "context"]
        rows = [[getattr(p, name) for name in names] + [len(p.context)] for p in self.all]
        return pd.DataFrame(rows, columns=[*names, "context_tokens"])

    def unmatched_to_pandas(self) -> pd.DataFrame:
        """One row per event without all its controls, with the reason."""
        return pd.DataFrame([asdict(row) for row in self.unmatched], columns=[f.name for f in fields(Unmatched)])


def check_points(points: Any) -> tuple[DecisionPoint, ...]:
    """Events, then controls.

    Raises:
        InputError: There are none, or what is given was not made by `decision_points`.
    """
    if not isinstance(points, DecisionPoints):
        raise InputError(f"points is a {type(points).__name__}; give what decision_points returns")
    if not points.all:
        raise InputError("there are no decision points to read; sample more completions")
    return points.all


def decision_points(
    completions: Sequence[Completion],
    events: Sequence[Event],
    *,
    match: Sequence[Match] = ("position",),
    per_event: int = 1,
    tolerance: int = TOLERANCE,
    clearance: int = CLEARANCE,
    max_events: int | None = None,
    model: HookedReasoner | None = None,
    lexicon: Lexicon = DEFAULT_LEXICON,
    seed: int = 0,
) -> DecisionPoints:
    """Make decision points of the baseline's onsets, each with its matched controls.

    An onset at the first sampled token is predicted at the prompt's last token; that is a point as any other.
    A control is a position of a baseline completion of the same variant that keeps clear of every trigger of the
    lexicon, whether or not it counts, and whose context leads to no event within as many tokens in any completion.
    It comes from another completion of the same problem if one fits, else from another problem, else from well
    before the event in its own completion; never from behind the event. A context serves twice only where no
    unused one fits, and a place behind a trigger of its completion only where no other does: the result counts
    both, and the controls in their event's own completion.

    Args:
        completions: Those of the events; of other conditions too if you like.
        events: As `detect_events` gives them.
        match: `position`: nearest in position, within the tolerance. `sentence`: also, a sentence begins
            there exactly if one does at the event. `entropy`: of the positions that fit in a few completions,
            the one at which the model is about as uncertain as at the event, rather than the nearest.
        per_event: Controls per event; 0 makes events only.
        tolerance: In tokens.
        clearance: Tokens between a control and any trigger of its completion, before and behind it, at the least.
        max_events: Take so many events at random.
        model: Needed to match entropy, and for nothing else; one forward pass per completion looked at.
        lexicon: The triggers.
        seed: Of the subsample, and of ties between controls.

    Raises:
        InputError: An event has no completion or does not agree with it, two completions share a key, or an
            option cannot be used.
    """
    check_match(match, model)
    least_values = (("per_event", per_event, 0), ("tolerance", tolerance, 0), ("clearance", clearance, 0))
    for name, value, least in (*least_values, ("max_events", max_events, 1)):
        if value is not None and value < least:
            raise InputError(f"{name} is {value}; give at least {least}")
    rng = np.random.default_rng(seed)
    baseline = _by_key([row for row in completions if row.condition == BASELINE.name])
    own = [event for event in events if event.condition == BASELINE.name]
    found = [event for event in own if event.onset_token_in_completion is not None]
    kept = found
    if max_events is not None and len(found) > max_events:
        kept = [found[index] for index in sorted(rng.choice(len(found), max_events, replace=False).tolist())]
    # Places of every event, also of those left out at random: there the model did backtrack.
    places = {id(event): _event_place(event, baseline) for event in found}
    marks = Marks(tuple(places.values()), clearance=clearance, lexicon=lexicon)
    wanted = [places[id(event)] for event in kept]
    points = tuple(
        point_at(place, "event", index, place.completion.ids[place.position], marks)
        for index, place in enumerate(wanted)
    )
    skipped = Skipped(len(events) - len(own), len(own) - len(found), len(found) - len(kept))
    if not per_event:
        return DecisionPoints(points, (), (), skipped)
    matcher = Matcher(tuple(baseline.values()), marks, match=tuple(match), tolerance=tolerance, model=model, rng=rng)
    return with_controls(points, matcher.controls(wanted, per_event), per_event, marks, skipped)


def with_controls(
    events: Sequence[DecisionPoint], found: Sequence[Found], per_event: int, marks: Marks, skipped: Skipped
) -> DecisionPoints:
    """Events with the places found for each of them, and those that have fewer than so many."""
    controls: list[DecisionPoint] = []
    unmatched: list[Unmatched] = []
    for event, one in zip(events, found, strict=True):
        controls += [point_at(place, "control", event.event, event.token_id, marks) for place in one.places]
        if len(one.places) < per_event:
            unmatched.append(Unmatched(event.event, event.problem_id, event.sample_id, len(one.places), one.reason))
    return DecisionPoints(tuple(events), tuple(controls), tuple(unmatched), skipped)


def point_at(place: Place, kind: Literal["event", "control"], event: int, token: int, marks: Marks) -> DecisionPoint:
    """The point at a place, read for a token."""
    completion, position = place.completion, place.position
    return DecisionPoint(
        problem_id=completion.problem_id,
        sample_id=completion.sample_id,
        variant=completion.variant,
        kind=kind,
        event=event,
        context=completion.prompt_ids + completion.ids[:position],
        prompt_tokens=len(completion.prompt_ids),
        position=position,
        token_id=token,
        after_trigger=marks.after(completion, position),
    )


_Key = tuple[int | str, int, str]


def _key(row: DecisionPoint | Completion) -> _Key:
    return row.problem_id, row.sample_id, row.variant


def _by_key(completions: Sequence[Completion]) -> dict[_Key, Completion]:
    found: dict[_Key, Completion] = {}
    for row in completions:
        key = _key(row)
        if key in found:
            raise InputError(f"two baseline completions are sample {row.sample_id} of problem {row.problem_id!r}")
        found[key] = row
    return found


def _event_place(event: Event, baseline: dict[_Key, Completion]) -> Place:
    completion = baseline.get((event.example_id, event.sample_id, event.variant))
    name = f"the event of sample {event.sample_id} of problem {event.example_id!r}"
    if completion is None:
        raise InputError(f"{name} has no baseline completion; give the completions the events were found in")
    position, token = event.onset_token_in_completion, event.onset_token_id
    assert position is not None and token is not None
    agrees = position < len(completion.ids) and completion.ids[position] == token
    if not agrees or event.pred_pos_in_full != len(completion.prompt_ids) + position - 1:
        raise InputError(f"{name} does not agree with its completion; give the completions the events were found in")
    return Place(completion, position)
