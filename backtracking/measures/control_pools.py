"""Where controls may stand: away from every trigger, and the places that are left, drawn only as far as asked for."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from backtracking.core.completions import Completion
from backtracking.core.onsets import Lexicon, trigger_spans


@dataclass(frozen=True)
class Place:
    """A position of a completion: of an event, or of a control."""

    completion: Completion
    position: int
    """Index in the completion of the token that is predicted."""

    @property
    def context(self) -> tuple[int, ...]:
        """Ids of prompt and completion before the position."""
        return self.completion.prompt_ids + self.completion.ids[: self.position]


class Marks:
    """Where completions backtrack: tokens of every trigger, counted or not, and with `around` the places of events.

    Completions are told apart by identity; give the same objects throughout.
    """

    def __init__(self, decided: Sequence[Place], *, clearance: int, lexicon: Lexicon, around: bool = True) -> None:
        """Take the places of the events and the tokens to keep from each mark on both sides.

        Without `around` events are so frequent that only their very contexts are refused, and not what is near them.
        """
        self.clearance = clearance
        self._lexicon = lexicon
        self._lead = clearance if around else 0
        self._places: dict[int, list[int]] = {}
        self._found: dict[int, tuple[tuple[int, int], ...]] = {}
        self._ahead: dict[tuple[int, ...], dict[int, list[Completion]]] = {}
        for place in decided:
            if around:
                self._places.setdefault(id(place.completion), []).append(place.position)
            ahead = self._ahead.setdefault(place.completion.prompt_ids, {})
            ahead.setdefault(place.position, []).append(place.completion)

    def clear_until(self, completion: Completion) -> int:
        """Positions below this one have no trigger before them, nor one within the clearance behind them."""
        spans = self._spans(completion)
        return max(0, spans[0][0] - self.clearance) if spans else len(completion.ids)

    def after(self, completion: Completion, position: int) -> bool:
        """Whether a trigger of the completion begins before the position."""
        spans = self._spans(completion)
        return bool(spans) and spans[0][0] < position

    def near(self, completion: Completion, position: int) -> bool:
        """Whether the position is in a trigger or within the clearance of one."""
        kept = self.clearance
        return any(first - kept <= position <= last + kept for first, last in self._spans(completion))

    def leads_to_event(self, completion: Completion, position: int) -> bool:
        """Whether the same context is that of an event, or of a place as near before one as is refused.

        Samples of a problem often begin alike: what leads one of them to an event is in the others too.
        """
        ahead = self._ahead.get(completion.prompt_ids)
        if ahead is None:
            return False
        return any(
            other.ids[max(0, position - 1) : position] == completion.ids[max(0, position - 1) : position]
            and other.ids[:position] == completion.ids[:position]
            for at in range(position, position + self._lead + 1)
            for other in ahead.get(at, ())
        )

    def _spans(self, completion: Completion) -> tuple[tuple[int, int], ...]:
        """First and last token of every mark, in order of the first."""
        key = id(completion)
        if key not in self._found:
            spans = [
                (completion.token_at(start), completion.token_at(end - 1))
                for start, end in trigger_spans(completion.text, lexicon=self._lexicon)
            ]
            self._found[key] = tuple(sorted([*spans, *((at, at) for at in self._places.get(key, ()))]))
        return self._found[key]


class Group:
    """Completions among which a control is looked for, in two orders in which those that reach a position are last."""

    def __init__(self, completions: Sequence[Completion], marks: Marks) -> None:
        """Sort the completions by where they are clear of triggers, and by their lengths."""
        self._rows: dict[bool, list[Completion]] = {
            False: sorted(completions, key=marks.clear_until),
            True: sorted(completions, key=lambda row: len(row.ids)),
        }
        self._reach = {
            False: [marks.clear_until(row) for row in self._rows[False]],
            True: [len(row.ids) for row in self._rows[True]],
        }

    def __len__(self) -> int:
        """Number of completions."""
        return len(self._reach[False])

    def reaching(self, position: int, *, behind: bool) -> list[Completion]:
        """Completions that have the position: before every trigger, or with `behind` anywhere."""
        return self._rows[behind][bisect_right(self._reach[behind], position) :]

    def pool(self, position: int, *, behind: bool) -> "Pool":
        """Those completions, to be drawn at random."""
        rows = self._rows[behind]
        return Pool(rows, bisect_right(self._reach[behind], position))


class Pool:
    """The completions from `first` on, drawn at random; those that will never fit are taken out for good.

    Nothing is done for completions that are not drawn, so that many events may draw from large pools.
    """

    def __init__(self, rows: Sequence[Completion], first: int) -> None:
        """Take all the completions, and the index of the first that belongs to the pool."""
        self._rows, self._first, self._left = rows, first, len(rows) - first
        self._moved: dict[int, int] = {}

    def draw(
        self, rng: np.random.Generator, *, never: Callable[[Completion], bool], fits: Callable[[Completion], bool]
    ) -> Completion | None:
        """A random one of those that fit, None if none does.

        Args:
            rng: Source of the choice.
            never: Whether a completion is to be taken out for everyone.
            fits: Whether one that stays serves this time.
        """
        passed = 0
        while passed < self._left:
            pick = passed + int(rng.random() * (self._left - passed))
            index = self._at(pick)
            row = self._rows[self._first + index]
            if never(row):
                self._left -= 1
                self._moved[pick] = self._at(self._left)
            elif fits(row):
                return row
            else:
                self._moved[pick], self._moved[passed] = self._at(passed), index
                passed += 1
        return None

    def _at(self, place: int) -> int:
        return self._moved.get(place, place)
