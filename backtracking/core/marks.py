r"""Answers that a completion marks as its final one: a box, an answer tag, a "Final:" line, `####`.

The policy, and what is read where nothing is marked, stand in `core/answers.py`.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import regex as re

from backtracking.core.statements import Reading, read_statement

Source = Literal["boxed", "answer_tag", "final", "hash", "unclosed_box", "stated", "mention", "last_number"]

MAX_MARKS = 500
"""How many marks of one kind are tried, from the last; a text with more, all empty, is a loop."""

_BOX = re.compile(r"(?<![A-Za-z])\\?(?P<box>f?boxed|fbox)\s*+\{|\\.|[{}]", re.DOTALL)
_TAG = re.compile(r"<(?P<slash>/?)answer>", re.IGNORECASE)
_HASH = re.compile(r"^[ \t]*+####(?!#)[ \t]*+(?P<said>[^\n]*+)", re.MULTILINE)
FINAL = re.compile(
    r"(?<![A-Za-z])final(?:[ \t]{1,3}(?:(?P<answer>answer)|result|solution))?(?![A-Za-z])"
    r"(?P<sign>[ \t*_`\"']{0,6}+(?:[:=]|(?=\n|\Z)))?"
    r"|^[ \t*#>_-]{0,8}+(?:(?:the|my|correct)\s){0,2}answer[ \t*_]{0,4}(?P<line>:)",
    re.IGNORECASE | re.MULTILINE,
)
_VERB = re.compile(
    r"[\s*_]*(?:here\s+)?(?:is|was|should\s+be|would\s+be|will\s+be|must\s+be|comes\s+out\s+to|equals)(?![A-Za-z])",
    re.IGNORECASE,
)
_NOTHING = re.compile(r"[\s*_`\"'$#>]*+(?:\\[\[(]\s*+)?")
_HEADING = re.compile(r"[ \t]*\d+[.)]\s+[A-Za-z*]")


@dataclass(frozen=True)
class Candidate:
    """An answer found, with how explicit it is: 2 and 1 for marked ones, 0 for others."""

    rank: int
    reading: Reading
    source: Source


def last_marked(text: str, start: int, end: int) -> Candidate | None:
    """The strongest marked answer of `text[start:end]`, the last written among equals."""
    candidates = [*_boxes(text, start, end), *_tags(text, start, end)]
    candidates += [*_finals(text, start, end), *_hashes(text, start, end)]
    return max(candidates, key=lambda found: (found.rank, found.reading.start), default=None)


def _boxes(text: str, start: int, end: int) -> Iterator[Candidate]:
    """The last closed box with something to read in it; nested boxes give the inner one."""
    if text.find("box", start, end) < 0:
        return
    opened: list[tuple[bool, int]] = []
    closed: list[tuple[int, int]] = []
    for token in _BOX.finditer(text, start, end):
        if token["box"] or token.group() == "{":
            opened.append((bool(token["box"]), token.end()))
        elif token.group() == "}" and opened:
            is_box, content = opened.pop()
            if is_box:
                closed.append((content, token.start()))
    yield from _last_readable(text, closed, "boxed")


def _tags(text: str, start: int, end: int) -> Iterator[Candidate]:
    """The last `<answer>` that can be read; an unclosed one if the number follows at once."""
    closed: list[tuple[int, int]] = []
    opened: int | None = None
    for tag in _TAG.finditer(text, start, end):
        if tag["slash"] and opened is not None:
            closed.append((opened, tag.start()))
        opened = None if tag["slash"] else tag.end()
    if opened is not None:
        reading = read_statement(text, opened, line_end(text, opened, end))
        if reading is not None and reading.kind == "direct":
            yield Candidate(2, reading, "answer_tag")
            return
    yield from _last_readable(text, closed, "answer_tag")


def _last_readable(text: str, spans: list[tuple[int, int]], source: Source) -> Iterator[Candidate]:
    for start, end in spans[: -MAX_MARKS - 1 : -1]:
        reading = read_statement(text, start, end)
        if reading is not None:
            yield Candidate(2, reading, source)
            return


def _finals(text: str, start: int, end: int) -> Iterator[Candidate]:
    """The last "Final:" line that opens with its number, and the last that is a sentence."""
    limit, ranks = end, set[int]()
    for mark in last_marks(FINAL, text, start, end):
        candidate = _final(text, mark, limit)
        limit = mark.start()
        if candidate is not None and candidate.rank not in ranks:
            ranks.add(candidate.rank)
            yield candidate
            if candidate.rank == 2:
                return


def _final(text: str, mark: re.Match[str], end: int) -> Candidate | None:
    """What one "Final" mark says, up to the end of its line."""
    if mark["sign"] is None and mark["line"] is None:
        verb = _VERB.match(text, mark.end(), end) if mark["answer"] else None
        reading = read_statement(text, mark.end(), line_end(text, mark.end(), end)) if verb else None
        return Candidate(2, reading, "final") if reading is not None and reading.kind == "direct" else None
    if mark["answer"] is None and mark["line"] is None and not mark["sign"].rstrip().endswith((":", "=")):
        return None
    stop = line_end(text, mark.end(), end)
    begin = _NOTHING.match(text, mark.end(), end)
    follows = begin is not None and begin.end() > stop
    if follows and begin is not None:
        stop = line_end(text, begin.end(), end)
        if _HEADING.match(text, begin.end(), stop):
            return None
    reading = read_statement(text, begin.end() if follows and begin else mark.end(), stop)
    if reading is None or (follows and reading.kind == "chosen"):
        return None
    if _box_is_open(text, mark.end(), stop):
        return None
    return Candidate(2 if reading.kind in ("direct", "symbolic") else 1, reading, "final")


def _box_is_open(text: str, start: int, end: int) -> bool:
    box = text.rfind("boxed{", start, end)
    return box >= 0 and text.find("}", box, end) < 0


def _hashes(text: str, start: int, end: int) -> Iterator[Candidate]:
    if text.find("####", start, end) < 0:
        return
    for mark in last_marks(_HASH, text, start, end):
        reading = read_statement(text, *mark.span("said"))
        heading = _HEADING.match(text, mark.start("said"), end)
        if reading is not None and reading.kind == "direct" and heading is None:
            yield Candidate(2, reading, "hash")
            return


def last_marks(pattern: re.Pattern[str], text: str, start: int, end: int) -> Iterator[re.Match[str]]:
    """The last `MAX_MARKS` matches, last first."""
    return reversed(deque(pattern.finditer(text, start, end), MAX_MARKS))


def line_end(text: str, start: int, end: int) -> int:
    """Where the line of position `start` ends, at most `end`."""
    newline = text.find("\n", start, end)
    return end if newline < 0 else newline
