"""Which positions of a completion are kept: all, the completion, the last, onsets, a window before them, or given ones.

Positions count the tokens of the full sequence (prompt and completion) from 0. One that does not exist is counted,
never moved to the nearest that does.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Int32

from backtracking.core.completions import Completion
from backtracking.core.errors import InputError
from backtracking.core.events import Event, OnsetRow, onsets_of
from backtracking.core.prompts import Prompting
from backtracking.core.scopes import Window

Key: TypeAlias = tuple[int | str, int, str, str]
"""What names a completion: problem, sample, variant, condition."""
Positions: TypeAlias = str | Window | Mapping[Key, Sequence[int]] | Sequence[Sequence[int]]
"""`all`, `completion`, `last`, `onsets`, `onset-13:onset-8` (or `Window(13, -8)`), or positions per completion."""
OnsetsOf: TypeAlias = Callable[[Completion], Sequence["Place"]]

_NAMED = ("all", "completion", "last", "onsets")
_WINDOW = re.compile(r"onset\s*(?P<first>[+-]\s*\d+)?(?:\s*:\s*onset\s*(?P<last>[+-]\s*\d+)?)?")


def key_of(completion: Completion) -> Key:
    """The key under which explicit positions of a completion are given."""
    return completion.problem_id, completion.sample_id, completion.variant, completion.condition


@dataclass(frozen=True)
class Place:
    """An onset of a completion."""

    index: int
    """Among all triggers of the completion, as in `Event.onset_index`."""
    position: int
    """Of its first token in the full sequence."""


@dataclass(frozen=True)
class Missing:
    """Positions that were asked for and do not exist."""

    before_start: int = 0
    beyond_end: int = 0
    never_run: int = 0
    """The last sampled token: while sampling it is never fed to the model."""

    def __add__(self, other: "Missing") -> "Missing":
        """Both together."""
        return Missing(
            self.before_start + other.before_start,
            self.beyond_end + other.beyond_end,
            self.never_run + other.never_run,
        )


@dataclass(frozen=True)
class Chosen:
    """The positions of one completion that are kept."""

    positions: Int32[np.ndarray, " row"]
    onset_index: Int32[np.ndarray, " row"] | None
    """Which onset each belongs to, where positions are relative to onsets."""
    onset_offset: Int32[np.ndarray, " row"] | None
    """Position minus that of the onset's first token."""
    missing: Missing

    def __len__(self) -> int:
        """How many."""
        return len(self.positions)


@dataclass(frozen=True)
class Choice:
    """A rule that chooses positions, read once and applied to every completion."""

    text: str
    """As the sidecar says it."""
    window: tuple[int, int] | None = None
    """First and last offset from an onset's first token, both included."""
    given: Mapping[Key, Sequence[int]] | Sequence[Sequence[int]] | None = None

    @property
    def needs_onsets(self) -> bool:
        """Whether positions are relative to onsets."""
        return self.window is not None

    @property
    def asks_for_prompts(self) -> bool:
        """Whether a position can be in the prompt."""
        return self.text not in ("completion", "last")

    def of(self, completion: Completion, number: int, *, onsets: Sequence[Place], run: int) -> Chosen:
        """The positions of one completion.

        Args:
            completion: The completion.
            number: Its place in the sequence of completions.
            onsets: Of this completion; used by windows alone.
            run: How many tokens of the full sequence the model runs: all, or all but the last while sampling.

        Raises:
            InputError: Explicit positions leave the completion out.
        """
        prompt, full = len(completion.prompt_ids), len(completion.prompt_ids) + len(completion.ids)
        if self.window is not None:
            offsets = np.arange(self.window[0], self.window[1] + 1)
            positions = np.concatenate([np.empty(0, int), *(offsets + onset.position for onset in onsets)])
            index = np.repeat([onset.index for onset in onsets], len(offsets)).astype(np.int32)
            return _existing(positions, run, full, index, np.tile(offsets, len(onsets)))
        if self.given is not None:
            return _existing(np.array(self._given_for(completion, number), dtype=int), run, full)
        first = {"all": 0, "completion": prompt, "last": full - 1}[self.text]
        return _existing(np.arange(first, full), run, full)

    def _given_for(self, completion: Completion, number: int) -> Sequence[int]:
        assert self.given is not None
        if not isinstance(self.given, Mapping):
            return self.given[number]
        if key_of(completion) not in self.given:
            raise InputError(f"no positions are given for {key_of(completion)}; give an empty list to keep none of it")
        return self.given[key_of(completion)]


def read_positions(positions: Positions, *, completions: int | None = None) -> Choice:
    """Read the ways in which positions can be given; `Positions` lists them.

    Args:
        positions: What was asked for.
        completions: How many there are; None while sampling, where positions are given by key.

    Raises:
        InputError: No such name, an empty window, or not one list of positions per completion.
    """
    if isinstance(positions, Window):
        return _window(-positions.before, positions.after)
    if isinstance(positions, Mapping):
        return Choice(
            f"given by key ({_digest([[list(key), list(at)] for key, at in positions.items()])})", None, positions
        )
    if not isinstance(positions, str):
        if completions is None:
            raise InputError(
                "while sampling, positions are given by key: {(problem, sample, variant, condition): [...]}"
            )
        if len(positions) != completions:
            raise InputError(f"positions are given for {len(positions)} completions, but there are {completions}")
        return Choice(f"given in order ({_digest([list(at) for at in positions])})", None, positions)
    text = positions.strip()
    if text == "onsets":
        return Choice("onsets", (-1, -1))
    if text in _NAMED:
        return Choice(text)
    if match := _WINDOW.fullmatch(text):
        first = _offset(match["first"])
        return _window(first, _offset(match["last"]) if ":" in text else first)
    raise InputError(
        f"cannot read the positions {positions!r}; use {', '.join(_NAMED)}, a window such as onset-13:onset-8, "
        "or positions per completion"
    )


def counting_onsets(
    completion: Completion, question: str = "", prompting: Prompting | None = None
) -> tuple[Place, ...]:
    """The onsets that count and are strict, as those of events are; each at its first token."""
    prompt = len(completion.prompt_ids)
    return tuple(
        Place(onset.index, prompt + completion.token_at(onset.char))
        for onset in onsets_of(completion, question=question, prompting=prompting)
        if onset.counts and onset.strict
    )


def onsets_from(rows: Sequence[Event] | Sequence[OnsetRow]) -> OnsetsOf:
    """Onsets as they were detected before: every row given that counts, strict or not, and each event's first."""
    found: dict[Key, list[Place]] = {}
    for row in rows:
        if isinstance(row, OnsetRow) and not row.counts:
            continue
        if row.onset_index is not None and row.onset_token_in_full is not None:
            key = (row.example_id, row.sample_id, row.variant, row.condition)
            found.setdefault(key, []).append(Place(row.onset_index, row.onset_token_in_full))
    return lambda completion: found.get(key_of(completion), [])


def _existing(
    positions: np.ndarray, run: int, full: int, index: np.ndarray | None = None, offset: np.ndarray | None = None
) -> Chosen:
    """Those of the positions that the model runs, and the number of each kind of others."""
    before, beyond = positions < 0, positions >= full
    kept = ~before & (positions < run)
    never = int((~kept & ~before & ~beyond).sum())
    return Chosen(
        positions[kept].astype(np.int32),
        None if index is None else index[kept].astype(np.int32),
        None if offset is None else offset[kept].astype(np.int32),
        Missing(int(before.sum()), int(beyond.sum()), never),
    )


def _window(first: int, last: int) -> Choice:
    if first > last:
        raise InputError(f"the window from onset{first:+d} to onset{last:+d} is empty; put the earlier position first")
    return Choice(f"onset{first:+d}:onset{last:+d}", (first, last))


def _offset(text: str | None) -> int:
    return 0 if text is None else int(text.replace(" ", ""))


def _digest(value: Any) -> str:
    return "sha256 " + hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
