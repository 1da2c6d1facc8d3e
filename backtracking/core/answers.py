r"""Where in a completion its final answer stands.

What is explicit beats what is not, and among equals the last written wins, since a model may take
an answer back. Explicit, strongest first:

- a closed `\boxed{...}`, `<answer>...</answer>`, `#### 42`, or a line "Final:", "Final answer:",
  "Answer:", "The final answer is" that opens with the number (the next non-blank line counts when
  the rest of its own is empty);
- such a line that is a sentence (`Final: Davos paid $36 for the two shirts`).

Weaker, read only where nothing explicit is (`Answer.explicit` is False; `grade` accepts them only
from a completion that stopped by itself):

- an unclosed box; "the answer is 36" (source "stated");
- a sentence about "the final answer" with one distinct number (source "mention");
- the last resort (source "last_number"): a text of one short line that says one number, such as
  `$36.`, or whose last equation says it (`4*9 = 36. 36-6 = 30.`), if no other number comes after
  it; or the last sentence, when it is complete, opens with "therefore", "thus", "hence" or speaks
  of a total or an answer. Never inside reasoning: not before `</think>`, not after an open
  `<think>`, not in a text that says "Wait", "Hmm", "Let me".

Text after the last `</think>` is read first; before it only explicit answers count.
"""

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import regex as re

from backtracking.core.marks import FINAL, Candidate, Source, last_marked, last_marks, line_end
from backtracking.core.statements import read_statement

_STATED = re.compile(r"(?<![A-Za-z])answer\s+(?=(?:is|should\s+be|would\s+be|must\s+be)(?![A-Za-z]))", re.IGNORECASE)
_REASONING = re.compile(r"<think>|(?<![A-Za-z])(?:wait|hmm+|let me|okay, so|alright, so)(?![A-Za-z])", re.IGNORECASE)
_SENTENCE = re.compile(r"(?:[.!?:]|\n)[\s*\"')]+(?=\S)")
_CONCLUDES = re.compile(
    r"^\W*(?:therefore|thus|hence|in\s+conclusion|overall)\b|\b(?:in\s+total|total|altogether|answer)\b",
    re.IGNORECASE,
)
_DIGIT = re.compile(r"\d")
_COMPLETE = re.compile(r"[.!?$)\]*}]$")
_SHORT = 200


@dataclass(frozen=True)
class Answer:
    """The final answer a text gives; `completion[span[0]:span[1]] == text`."""

    text: str
    """As written: a number with its sign and without currency or unit, or a formula."""
    value: Fraction | None
    """The exact number; None for a formula, and for what is no single finite number (`5:30`,
    `10-12`, `1/0`)."""
    span: tuple[int, int]
    source: Source

    @property
    def explicit(self) -> bool:
        """Whether the text marks it as final, so that it stands even in a text cut off."""
        return self.source in ("boxed", "answer_tag", "final", "hash")


def read_answer(text: str, *, explicit_only: bool = False) -> Answer | None:
    """The final answer of a completion, or None where it gives none; never raises on any string.

    Policy in the module's docstring. With `explicit_only`, unmarked answers are not read (for text
    that was cut off).
    """
    close = text.rfind("</think>")
    after = close + len("</think>") if close >= 0 else 0
    found = last_marked(text, after, len(text))
    if found is None and not explicit_only:
        found = _last_implicit(text, after)
    if found is None and close >= 0:
        found = last_marked(text, 0, close)
    if found is None:
        return None
    span = (found.reading.start, found.reading.end)
    return Answer(text[slice(*span)], found.reading.value, span, found.source)


def _last_implicit(text: str, start: int) -> Candidate | None:
    """The weaker readings, strongest first."""
    return _unclosed_box(text, start) or _stated(text, start) or _concluded(text, start) or _mentioned(text, start)


def _unclosed_box(text: str, start: int) -> Candidate | None:
    at = text.rfind("boxed{", start)
    if at < 0:
        return None
    reading = read_statement(text, at + len("boxed{"), line_end(text, at, len(text)))
    return Candidate(0, reading, "unclosed_box") if reading is not None and reading.kind == "direct" else None


def _stated(text: str, start: int) -> Candidate | None:
    limit = len(text)
    for mark in last_marks(_STATED, text, start, limit):
        reading = read_statement(text, mark.end(), line_end(text, mark.end(), limit))
        limit = mark.start()
        if reading is not None and reading.kind == "direct":
            return Candidate(0, reading, "stated")
    return None


def _mentioned(text: str, start: int) -> Candidate | None:
    limit = len(text)
    for mark in last_marks(FINAL, text, start, limit):
        if not mark["answer"]:
            continue
        reading = read_statement(text, mark.end(), line_end(text, mark.end(), limit))
        limit = mark.start()
        if reading is not None and reading.kind in ("direct", "single"):
            return Candidate(0, reading, "mention")
    return None


def _concluded(text: str, start: int) -> Candidate | None:
    """The last resort, see the module's docstring."""
    if _REASONING.search(text, start):
        return None
    end = start + len(text[start:].rstrip())
    begin = start + len(text[start:]) - len(text[start:].lstrip())
    if end - begin <= _SHORT and text.find("\n", begin, end) < 0:
        said = _last_equation(text, begin, end)
        reading = None if said is None else read_statement(text, said, end)
        if reading is not None and reading.kind != "chosen":
            return Candidate(0, reading, "last_number")
    for boundary in _SENTENCE.finditer(text, max(begin, end - 500), end):
        begin = boundary.end()
    sentence = text[begin:end]
    if len(sentence) > 500 or not _CONCLUDES.search(sentence) or not _COMPLETE.search(sentence):
        return None
    reading = read_statement(text, begin, end)
    return None if reading is None else Candidate(0, reading, "last_number")


def _last_equation(text: str, begin: int, end: int) -> int | None:
    """Where the last sentence that holds a number begins, if the line has equations; else where the line does.

    None where that sentence is no equation: what it says may be on the way to an answer (`4*9 = 36. Then 36 - 6`).
    """
    if "=" not in text[begin:end]:
        return begin
    starts = [begin, *(boundary.end() for boundary in _SENTENCE.finditer(text, begin, end))]
    sentences = list(pairwise([*starts, end]))
    first, last = next(pair for pair in reversed(sentences) if _DIGIT.search(text, *pair) or pair[0] == begin)
    return first if "=" in text[first:last] else None
