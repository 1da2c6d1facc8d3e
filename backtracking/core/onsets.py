"""Onsets of backtracking: every trigger in a completion's text, in order, with how it is used.

Nothing is dropped: a trigger in a negative context ("wait time", a quotation) is an onset whose
`context` says so and whose `counts` is False. Offsets are Python string indices into the text
given; from characters to tokens is another module's work. The rules of the contexts are in
`core/contexts.py`.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import regex as re

from backtracking.core.contexts import Context, is_shared, quotations, shared_runs, usage
from backtracking.core.errors import InputError

_APOSTROPHES = "'\u2019\u02bc\uff07"
_SPACE = re.compile(r"\s+")
_THINK = re.compile(r"<(/?)think>")


@lru_cache(maxsize=1024)
def _normal(entry: str) -> str:
    """Lower case, single spaces, straight apostrophes."""
    for apostrophe in _APOSTROPHES[1:]:
        entry = entry.replace(apostrophe, "'")
    return _SPACE.sub(" ", entry.lower())


@dataclass(frozen=True)
class Lexicon:
    """The triggers: strict ones, and relaxed ones besides; a strict one also counts as relaxed.

    Case, straight or curly apostrophes, and kinds of white space are not distinguished. Only whole
    words match: "mistake" is not in "mistakes", "Wait" is not in "Waiting".

    Raises:
        InputError: There is no trigger, or one is not a string that starts and ends with a letter
            or digit.
    """

    strict: tuple[str, ...] = ("Wait", "Actually", "Hold on")
    relaxed: tuple[str, ...] = (
        "Wait", "Actually", "Hold on", "Let me check", "Let's check", "I was wrong", "mistake",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name in ("strict", "relaxed"):
            entries = getattr(self, name)
            if isinstance(entries, str):
                raise InputError(f"lexicon.{name} is the string {entries!r}; give a sequence of strings")
            for entry in entries:
                if not isinstance(entry, str) or not (entry and entry[0].isalnum() and entry[-1].isalnum()):
                    raise InputError(
                        f"lexicon.{name} has {entry!r}; a trigger is a string that starts and ends "
                        "with a letter or digit"
                    )
            object.__setattr__(self, name, tuple(entries))
        if not self.markers:
            raise InputError("the lexicon is empty; give at least one trigger")

    @property
    def markers(self) -> tuple[str, ...]:
        """All triggers, strict ones first, each once."""
        entries: dict[str, str] = {}
        for entry in (*self.strict, *self.relaxed):
            entries.setdefault(_normal(entry), entry)
        return tuple(entries.values())

    @property
    def pattern(self) -> re.Pattern[str]:
        """Matches one trigger, or several that touch; word boundaries are not part of it."""
        return _compiled(self).run


DEFAULT_LEXICON = Lexicon()


@dataclass(frozen=True)
class Onset:
    """One trigger in a text; `text[char:end] == phrase`."""

    index: int
    """Position among all onsets of the text, from 0, uncounted ones included."""
    marker: str
    """The lexicon's entry."""
    phrase: str
    """As written."""
    char: int
    end: int
    strict: bool
    in_think: bool
    """Whether it stands inside `<think>...</think>`."""
    context: Context

    @property
    def counts(self) -> bool:
        """Whether it is backtracking rather than an ordinary use of the word."""
        return self.context == "plain"


def find_onsets(
    text: str,
    *,
    lexicon: Lexicon = DEFAULT_LEXICON,
    question: str = "",
    think_open: bool | None = None,
) -> tuple[Onset, ...]:
    """Every trigger of the text, in order. Works on any string, in linear time.

    In "WaitWait" and in "Wait, wait" each counts.

    >>> from backtracking.core.onsets import find_onsets
    >>> found = find_onsets("5 + 4 = 8. Wait, 5 + 4 = 9. The wait time is short.")
    >>> [(onset.phrase, onset.char, onset.counts) for onset in found]
    [('Wait', 11, True), ('wait', 32, False)]

    Args:
        text: The completion, without its prompt.
        lexicon: The triggers.
        question: The problem; a trigger within words repeated from it is "quoted".
        think_open: Whether the prompt had opened `<think>`. None infers it: it had if a `</think>`
            comes before any `<think>`. A text without either tag is then taken to be outside, so
            pass it for text that may be cut off.
    """
    found = list(trigger_spans(text, lexicon=lexicon))
    if not found:
        return ()
    quoted = quotations(text)
    runs = shared_runs(question) if lexicon.pattern.search(question) else frozenset[tuple[str, ...]]()
    opened = [start for start, _ in quoted]
    thinking = _thinking(text, think_open)
    turns = [position for position, _ in thinking]
    compiled = _compiled(lexicon)
    onsets: list[Onset] = []
    for char, end in found:
        phrase = text[char:end]
        key = _normal(phrase)
        last = bisect_right(opened, char) - 1
        is_quoted = (last >= 0 and end <= quoted[last][1]) or is_shared(text, char, end, runs)
        in_think = thinking[bisect_right(turns, char) - 1][1]
        context: Context = "quoted" if is_quoted else usage(text, char, end)
        strict, marker = key in compiled.strict, compiled.markers[key]
        onsets.append(Onset(len(onsets), marker, phrase, char, end, strict, in_think, context))
    return tuple(onsets)


def trigger_spans(text: str, *, lexicon: Lexicon = DEFAULT_LEXICON) -> Iterator[tuple[int, int]]:
    """First character and end of every trigger that stands as whole words, in order, however it is used.

    These are the onsets' `char` and `end`, without the work of telling their contexts.
    """
    compiled = _compiled(lexicon)
    for run in compiled.run.finditer(text):
        start, end = run.span()
        if _joins(text, start - 1, -1) or _joins(text, end, 1):
            continue
        for match in compiled.one.finditer(text, start, end):
            yield match.span()


def first_onset(onsets: Sequence[Onset], *, strict: bool = True) -> Onset | None:
    """The earliest onset that counts; with `strict`, the earliest strict one."""
    return min(
        (onset for onset in onsets if onset.counts and (onset.strict or not strict)),
        key=lambda onset: onset.char,
        default=None,
    )


def has_backtracking(onsets: Sequence[Onset], *, strict: bool = True) -> bool:
    """Whether any onset counts; with `strict`, any strict one."""
    return first_onset(onsets, strict=strict) is not None


@dataclass(frozen=True)
class _Compiled:
    """A lexicon made ready for searching; keys are in normal form."""

    run: re.Pattern[str]
    one: re.Pattern[str]
    markers: dict[str, str]
    strict: frozenset[str]


@lru_cache(maxsize=64)
def _compiled(lexicon: Lexicon) -> _Compiled:
    entries = sorted(lexicon.markers, key=len, reverse=True)
    one = "|".join(_as_pattern(entry) for entry in entries)
    return _Compiled(
        run=re.compile(f"(?:{one})++"),
        one=re.compile(one),
        markers={_normal(entry): entry for entry in entries},
        strict=frozenset(_normal(entry) for entry in lexicon.strict),
    )


def _as_pattern(entry: str) -> str:
    """An entry in either case, spelt out: a set is searched faster than IGNORECASE."""
    return r"\s++".join("".join(_either_case(c) for c in word) for word in entry.split())


def _either_case(character: str) -> str:
    if character in _APOSTROPHES:
        return f"[{_APOSTROPHES}]"
    variants = sorted({c for c in (character, character.lower(), character.upper()) if len(c) == 1})
    escaped = "".join(re.escape(c) for c in variants)
    return escaped if len(variants) == 1 else f"[{escaped}]"


def _joins(text: str, position: int, step: int) -> bool:
    """Whether a letter or digit touches there, also across one underscore, as in an identifier."""
    if not 0 <= position < len(text):
        return False
    if text[position] == "_":
        position += step
    return 0 <= position < len(text) and text[position].isalnum()


def _thinking(text: str, think_open: bool | None) -> list[tuple[int, bool]]:
    """Where thinking starts and stops: (position, inside from there on), in order, from 0."""
    tags = list(_THINK.finditer(text))
    inside = bool(tags and tags[0][1]) if think_open is None else think_open
    return [(0, inside), *((tag.end() if not tag[1] else tag.start(), not tag[1]) for tag in tags)]
