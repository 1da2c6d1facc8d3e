"""The secret guard: finds what must not leave this machine, and hides it.

It knows the shapes of tokens and the values of `.env`, also where they are escaped for JSON, HTML,
Markdown or an address. What it says names the kind and the place, never the value.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from backtracking.core.errors import InputError
from backtracking.workspace.known_values import KnownValue, known_values
from backtracking.workspace.secret_shapes import SHAPES

LEVELS = 3
"""A value may be escaped in what is escaped again: JSON in a notebook in JSON."""

AROUND = 500
"""Characters beside an escape that are looked at with it."""

_ESCAPE = re.compile(
    r"\\u(?P<u>[0-9a-fA-F]{4})|\\x(?P<x>[0-9a-fA-F]{2})|\\(?P<c>[ntr])|\\(?P<p>[\"'/\\|_<>*`&-])|"
    r"%(?P<h>[2-7][0-9a-fA-F])|&#(?P<d>\d{2,3});|&#x(?P<e>[0-9a-fA-F]{2});|&(?P<n>amp|lt|gt|quot|apos);|"
    r"\x1b\[[0-9;]*m"
)
_JSON_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|[\"\\/bfnrt])")
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r"}
_NAMES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}


class SecretError(InputError):
    """Something that is about to be written, committed or sent holds a secret; the message never shows it."""


@dataclass(frozen=True)
class Found:
    """A secret in a text: what it is and where, never what it says."""

    kind: str
    line: int
    """From 1."""
    column: int
    """First character in its line, from 1."""
    end: int
    """The character after the last, counted from the beginning of the same line."""


@dataclass(frozen=True)
class _Span:
    start: int
    end: int
    kind: str


def find_secrets(text: str, *, known: Sequence[KnownValue] | None = None) -> tuple[Found, ...]:
    """Every secret in a text, in order.

    Args:
        text: What to look through.
        known: Values that are secret whatever they look like; those of `.env` and of the environment if not given.
    """
    spans = _spans(text, known_values() if known is None else known)
    if not spans:
        return ()
    starts = [0, *(match.end() for match in re.finditer("\n", text))]
    found = []
    for span in spans:
        line = bisect_right(starts, span.start)
        begin = starts[line - 1]
        found.append(Found(span.kind, line, span.start - begin + 1, span.end - begin + 1))
    return tuple(found)


def redact(text: str, *, known: Sequence[KnownValue] | None = None) -> str:
    """The text with every secret replaced by `[hidden: <kind>]`; other text is as it was."""
    return hide(text, known=known)[0]


def hide(text: str, *, known: Sequence[KnownValue] | None = None) -> tuple[str, Counter[str]]:
    """The text with its secrets hidden, and how many of each kind there were."""
    spans = _spans(text, known_values() if known is None else known)
    pieces, last = [], 0
    for span in spans:
        pieces += [text[last : span.start], f"[hidden: {span.kind}]"]
        last = span.end
    return "".join([*pieces, text[last:]]), Counter(span.kind for span in spans)


def refuse_secrets(text: str, *, where: str | Path, remedy: str = "remove it, or put it into .env") -> None:
    """Raise if the text holds a secret.

    Args:
        text: What is about to be kept or sent.
        where: Names it in the message.
        remedy: What to do, for the message.

    Raises:
        SecretError: Names the place, line and kind, never the value.
    """
    found = find_secrets(text)
    if found:
        first, *others = found
        more = f" and {len(others)} more" if others else ""
        raise SecretError(f"{where}, line {first.line}: {first.kind}{more}; {remedy}")


def _spans(text: str, known: Sequence[KnownValue]) -> list[_Span]:
    found = list(_spans_as_is(text, known))
    view, maps = text, []
    for _ in range(LEVELS):
        plain, begins, origins = _unescaped(view)
        if plain is view:
            break
        view = plain
        maps.insert(0, (begins, origins))
        for span in _spans_as_is(view, known):
            start, end = span.start, span.end
            for level in maps:
                start, end = _origin(start, *level), _origin(end, *level)
            found.append(_Span(start, end, span.kind))
    return _merged([_with_whole_escapes(text, span) for span in found])


def _with_whole_escapes(text: str, span: _Span) -> _Span:
    """The span, widened where it would cut an escape of JSON in two, which would leave a text that is no JSON."""
    first, last = _escape_around(text, span.start), _escape_around(text, span.end)
    return _Span(span.start if first is None else first.start(), span.end if last is None else last.end(), span.kind)


def _escape_around(text: str, place: int) -> re.Match[str] | None:
    """The escape of JSON that begins before a place and ends after it."""
    slash = text.rfind("\\", max(0, place - 5), place)
    if slash < 0:
        return None
    first = slash
    while first > 0 and text[first - 1] == "\\":
        first -= 1
    match = _JSON_ESCAPE.match(text, slash)
    return match if match is not None and (slash - first) % 2 == 0 and match.end() > place else None


def _spans_as_is(text: str, known: Sequence[KnownValue]) -> Iterator[_Span]:
    for value in known:
        for start, end in value.spans(text):
            yield _Span(start, end, f"value of {value.name}")
    small = text.lower()
    if len(small) != len(text):  # a few letters grow by it
        small = "".join(letter.lower() if letter.isascii() else letter for letter in text)
    for shape in SHAPES:
        for start, end in shape.spans(text, small):
            yield _Span(start, end, shape.kind)


def _unescaped(text: str) -> tuple[str, list[int], list[int]]:
    """What stands around escapes, with these resolved; where its stretches begin, and where each came from.

    A secret that is seen only there holds an escape or touches one, so the rest of the text is left out.
    """
    pieces: list[str] = []
    begins, origins, last, length = [0], [0], 0, 0
    for match in _ESCAPE.finditer(text):
        start, plain = match.start(), _meant(match)
        if start - last > 2 * AROUND:
            pieces += (text[last : last + AROUND], "\n")
            length += AROUND + 1
            last = start - AROUND
            begins.append(length)
            origins.append(last)
        pieces += (text[last:start], plain)
        length += start - last
        begins += (length, length + len(plain))
        last = match.end()
        origins += (start, last)
        length += len(plain)
    if not pieces:
        return text, begins, origins
    pieces.append(text[last : last + AROUND])
    return "".join(pieces), begins, origins


def _meant(match: re.Match[str]) -> str:
    kind = match.lastgroup
    if kind is None:
        return ""  # a colour of the terminal
    value = match[kind]
    if kind == "c":
        return _CONTROLS[value]
    if kind == "p":
        return value
    if kind == "n":
        return _NAMES[value]
    return chr(int(value, 10 if kind == "d" else 16))


def _origin(place: int, begins: list[int], origins: list[int]) -> int:
    index = bisect_right(begins, place) - 1
    return origins[index] + place - begins[index]


def _merged(spans: list[_Span]) -> list[_Span]:
    merged: list[_Span] = []
    for span in sorted(spans, key=lambda s: (s.start, -s.end)):
        if merged and span.start < merged[-1].end:
            last = merged[-1]
            merged[-1] = _Span(last.start, max(last.end, span.end), last.kind)
        elif span.end > span.start:
            merged.append(span)
    return merged
