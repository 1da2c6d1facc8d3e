r"""What one statement of an answer says: the content of a box, a tag, a "Final:" line.

A statement is short and is about one answer, so the question is only which of its numbers is meant.
In this order:

1. an equation (`x = 5`, `15 - 5 = 10`): its right-hand side;
2. the statement opens with the number, after filler words, currency and markup (`is $36 for 2
   shirts`): that number (kind "direct"); a quantity in two units (`10 hours and 30 minutes`) is one
   number in the first unit; a hedge (`5 or 6`, `5 to 6`) has no value;
3. mathematics without words (`\sqrt{2}`, `2x + 3`, `(1, 2)`): no number, kind "symbolic", for
   `core/symbolic.py`;
4. one distinct number in the whole statement: that number (kind "single");
5. several: the only bold one, else the only one with a currency sign, else the last one that
   follows "is", "are", "was", "equals" or "total of", else the last one of the first sentence that
   has any (kind "chosen").

Number words ("fifteen") are not read, and scale words ("million", "dozen") are units, which only
`grade` looks at. Words without a digit are no answer.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import regex as re

from backtracking.core.numerals import Numeral, find_numerals

MAX_STATEMENT = 4000
"""Characters of a statement that are read; a longer one is no answer but a loop."""

_WORDS = (
    r"is|are|was|were|be|should|would|will|must|equals?|equal\s+to|approximately|approx\.?|about|around"
    r"|roughly|exactly|only|just|simply|indeed|therefore|thus|so|then|now|it's|that's"
    r"|the\s+(?:final\s+)?answer|answer"
)
_OPENING = re.compile(
    r"(?:[\s*_`\"'“”‘’:=~≈>({\[]|\\[(\[,;:!$ ]|\$|</?answer>"
    r"|\\(?:text|textbf|mathbf|mathrm|bf|rm|approx|quad|qquad|displaystyle|left|bm)(?![A-Za-z])"
    rf"|(?:{_WORDS})(?![A-Za-z]))*+",
    re.IGNORECASE,
)
_LONGEST_FORMULA = 300
_MARKUP = re.compile(r"[\s*_`\"'“”‘’:•#>]++|(?<!\{)-\s+|\\[(\[]")
_CLOSING = " \t\r\n*_`\"'“”‘’.,;:!?$}"
_LATEX_WORDS = re.compile(r"\\(?:text\w*|math[a-z]+|mbox|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_]{2,}")
_SYMBOLIC = re.compile(
    r"\d|\\(?:pi|infty|sqrt|emptyset|varnothing)|[π∞√]|^\W*[A-Za-z]\W*$|[A-Za-z]\s*[-+*/^]\s*[A-Za-z]"
)
_FORMULA = re.compile(
    r"[-+*/^=<>±√π∞\u2212]|\\(?:sqrt|pi|pm|leq?|geq?|lt|gt|neq|d?frac|times|cdot|log|ln|sin|cos|tan)(?![A-Za-z])"
    r"|\d\s*[a-z](?![A-Za-z])|(?<![A-Za-z\\])[a-z]\d",
    re.IGNORECASE,
)
_CONTINUES = re.compile(
    r"[\s{}]*(?:(?:[+*/×÷<>±·]|\^(?!\s*\{?\s*\\circ)|[-\u2212]|\\(?:times|cdot|div|pm|leq?|geq?|lt|gt|neq|frac)(?![A-Za-z]))"
    r"[\s({]*(?:\\?\$)?(?:[\d.]|\\(?!text|mathrm|[)\]])|[a-z](?![A-Za-z]))"
    r"|\\(?:sqrt|pi|left|pm|frac)(?![A-Za-z])|\(?[xyznabkπ√](?![A-Za-z])|,\s*(?:\\[,; ]\s*)?\d)"
)
_ALTERNATIVE = re.compile(r"\s*(?:\\text\s*\{)?\s*(?:or|to)\s*\}?\s*(?:\\?\$)?", re.IGNORECASE)
_EQUALS = re.compile(r"(?<![=<>!:])=(?!=)")
_SENTENCE_END = re.compile(r"[.!?](?=[\s*\"'”)]|$)|\n")
_COPULA = re.compile(r"(?:\b(?:is|are|was|were|be|equals?|total\s+of)|=)[\s*_\\($]*$", re.IGNORECASE)
_GLUE = re.compile(r"\\text|\\mathrm|[{}\\,;~$]|\band\b")
_UNITS = {
    "hour": ("minute", 60), "hr": ("min", 60), "h": ("m", 60),
    "minute": ("second", 60), "min": ("sec", 60),
    "day": ("hour", 24), "week": ("day", 7), "year": ("month", 12),
    "foot": ("inch", 12), "feet": ("inch", 12),
    "dollar": ("cent", 100), "pound": ("ounce", 16), "meter": ("centimeter", 100), "m": ("cm", 100),
    "kilogram": ("gram", 1000), "kg": ("g", 1000), "kilometer": ("meter", 1000), "km": ("m", 1000),
}  # fmt: skip
_FIRST_WORD = re.compile(r"[\s{}\\]*(?:text\s*\{|mathrm\s*\{)?\s*([A-Za-z]+)")


@dataclass(frozen=True)
class Reading:
    """The number, or the formula, that a statement says; `text[start:end]` is it."""

    kind: Literal["direct", "single", "chosen", "symbolic"]
    value: Fraction | None
    start: int
    end: int


def read_statement(text: str, start: int = 0, end: int | None = None) -> Reading | None:
    """Read the statement `text[start:end]`; None where it says no number and no formula."""
    end = len(text) if end is None else end
    start, end = _core(text, start, min(end, start + MAX_STATEMENT))
    numerals = list(find_numerals(text, start, end))
    if not numerals:
        return _symbolic(text, start, end)
    result = _equation(text, start, end, numerals) or _direct(text, start, end, numerals)
    if result is not None:
        return result
    opened = _skip_opening(text, start, end)
    one_number = len({numeral.value for numeral in numerals}) == 1
    formula = not one_number or _FORMULA.search(text, opened, end) is not None
    if formula and not _has_words(text[opened:end]):
        return _symbolic(text, start, end) or _symbolic(text, opened, end)
    if one_number:
        return _reading("single", numerals[0])
    return _reading("chosen", _choose(text, start, end, numerals))


def _reading(kind: Literal["direct", "single", "chosen"], numeral: Numeral) -> Reading:
    return Reading(kind, numeral.value, numeral.start, numeral.end)


def _core(text: str, start: int, end: int) -> tuple[int, int]:
    """The bounds without the markup, quotes and punctuation around the statement."""
    while start < end:
        opening = _MARKUP.match(text, start, end)
        if opening is None:
            break
        start = opening.end()
    if text[start:end].startswith("<") and text[start:end].rstrip().endswith(">"):
        return start + 1, text.rindex(">", start, end)
    while start < end:
        piece = text[start:end]
        kept = piece.rstrip(_CLOSING if piece.count("{") < piece.count("}") else _CLOSING[:-1])
        kept = kept[:-2] if kept.endswith(("\\)", "\\]", "\\\\")) else kept
        if len(kept) == len(piece):
            break
        end = start + len(kept)
    return start, end


def _skip_opening(text: str, start: int, end: int) -> int:
    opening = _OPENING.match(text, start, end)
    return start if opening is None else opening.end()


def _has_words(statement: str) -> bool:
    return _WORD.search(_LATEX_WORDS.sub(" ", statement)) is not None


def _symbolic(text: str, start: int, end: int) -> Reading | None:
    """The statement as a formula; None where it is words, a placeholder or nothing."""
    while start < end and text[start] in " $":
        start += 1
    statement = text[start:end]
    if len(statement) > _LONGEST_FORMULA or _has_words(statement) or not _SYMBOLIC.search(statement):
        return None
    return Reading("symbolic", None, start, end)


def _equation(text: str, start: int, end: int, numerals: list[Numeral]) -> Reading | None:
    """The right-hand side of the last "=" in the first sentence, where an answer stands there."""
    stop = end
    for boundary in _SENTENCE_END.finditer(text, start, end):
        if boundary.start() >= numerals[0].end:
            stop = boundary.start()
            break
    signs = list(_EQUALS.finditer(text, start, stop))
    if not signs or (len(signs) > 1 and "," in text[signs[0].end() : signs[-1].start()]):
        return None
    right, stop = _core(text, signs[-1].end(), stop)
    after = [numeral for numeral in numerals if right <= numeral.start and numeral.end <= stop]
    found = _direct(text, right, stop, after)
    if found is None and len(signs) == 1 and not _has_words(text[start:stop]):
        return _symbolic(text, right, stop)
    return found


def _direct(text: str, start: int, end: int, numerals: list[Numeral]) -> Reading | None:
    """The number that opens the statement, unless a formula or a list goes on from it."""
    if not numerals:
        return None
    first = numerals[0]
    opened = _skip_opening(text, start, end)
    between = text[opened : first.start].strip() if first.start > opened else ""
    if between and not (first.currency and len(between) <= 2):
        return None
    if _CONTINUES.match(text, first.end, end):
        return None
    if len(numerals) > 1 and _ALTERNATIVE.fullmatch(text, first.end, numerals[1].start):
        return Reading("direct", None, first.start, numerals[1].end)
    compound = _compound(text, numerals, end)
    return compound or _reading("direct", first)


def _compound(text: str, numerals: list[Numeral], end: int) -> Reading | None:
    """`10 hours and 30 minutes` as 21/2, in the first unit."""
    if len(numerals) != 2:
        return None
    first, second = numerals
    words = _GLUE.sub(" ", text[first.end : second.start]).split()
    unit = _FIRST_WORD.match(text, second.end, end)
    if len(words) != 1 or unit is None or first.value is None or second.value is None:
        return None
    smaller = _UNITS.get(_singular(words[0]))
    if smaller is None or _singular(unit[1]) != smaller[0] or not 0 <= second.value < smaller[1]:
        return None
    return Reading("direct", first.value + second.value / smaller[1], first.start, unit.end())


def _singular(unit: str) -> str:
    unit = unit.lower()
    if unit in ("inches", "in"):
        return "inch"
    return unit[:-1] if unit.endswith("s") and len(unit) > 1 else unit


def _choose(text: str, start: int, end: int, numerals: list[Numeral]) -> Numeral:
    """Which of several different numbers a sentence means; rule 5 of the module."""
    bold = [n for n in numerals if _is_bold(text, n)]
    if len({n.value for n in bold}) == 1:
        return bold[0]
    paid = [n for n in numerals if n.currency and text[n.end : n.end + 1] != "$"]
    if len({n.value for n in paid}) == 1:
        return paid[0]
    stop = next(
        (m.start() for m in _SENTENCE_END.finditer(text, numerals[0].end, end)),
        end,
    )
    sentence = [n for n in numerals if n.start < stop]
    stated = [n for n in sentence if _COPULA.search(text[max(start, n.start - 30) : n.start])]
    return (stated or sentence)[-1]


def _is_bold(text: str, numeral: Numeral) -> bool:
    before = text[: numeral.start].rstrip("\\$ ") if numeral.start < 8 else text[numeral.start - 8 : numeral.start]
    return before.rstrip("\\$ (").endswith("**")
