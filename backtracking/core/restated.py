"""Arithmetic that a text works out twice, with different values: a correction one can see without any word.

Read is only what leaves no doubt: an expression of plain numbers, whole and written out ("40 + 3 = 42", later
"40 + 3 is 43"). Values that differ by rounding agree. What is corrected in words, in units, in formulas or
by another route is not seen, so a share of such texts is a lower bound; nor does it say that the later value
was adopted.
"""

from dataclasses import dataclass
from fractions import Fraction

import regex as re

_NUMBER = r"(?:\d{1,3}+(?:,\d{3})++|\d++)(?:\.\d++)?+"
_SIGNS = {"−": "-", "×": "*", "·": "*", "\\times": "*", "\\cdot": "*", "÷": "/", "\\div": "/"}
_SIGN = r"(?:[-+*/−×·÷]|\\times|\\cdot|\\div)"
_PART = re.compile(rf"{_NUMBER}|{_SIGN}")
_MOST_SIGNS = 12
"""A longer chain is not read, which keeps the search linear in a text that loops."""
_STATEMENT = re.compile(
    rf"(?<![\w.,)^])(?P<left>\$?{_NUMBER}(?:\s?{_SIGN}\s?\$?{_NUMBER}){{1,{_MOST_SIGNS}}}+)"
    r"\s*+(?:=|(?:is|equals|gives|makes|comes\s+to)(?![A-Za-z]))\s*+\$?"
    rf"(?P<right>{_NUMBER})(?!\s*+(?:[-+*/−×·÷^%!(]|\\|(?:R|r|rem|remainder|mod)(?![A-Za-z])|of(?![A-Za-z])))(?![\w])"
)
_CONTINUED = re.compile(r"(?:[-+*/−×·÷^(]|\\times|\\cdot|\\div)\s*+\$?$")
_LOOK_BACK = 12


@dataclass(frozen=True)
class Restated:
    """An expression that was given one value, and later another."""

    expression: str
    """As first written."""
    before: Fraction
    after: Fraction
    char: int
    """Where the statement of the later value begins."""


def restated_values(text: str) -> tuple[Restated, ...]:
    """Every statement that gives an expression another value than the last statement of it did, in order."""
    held: dict[tuple[str, ...], tuple[str, str]] = {}
    found: list[Restated] = []
    for match in _STATEMENT.finditer(text):
        start = match.start()
        # the pattern knows digits of newer scripts than Python does
        readable = match["right"].replace(",", "").replace(".", "").isdecimal()
        if not readable or _CONTINUED.search(text, max(0, start - _LOOK_BACK), start):
            continue
        key = tuple(_normal(part.group()) for part in _PART.finditer(match["left"]))
        expression, before = held.setdefault(key, (match["left"], match["right"]))
        if not _agree(before, match["right"]):
            found.append(Restated(expression, _value(before), _value(match["right"]), start))
            held[key] = (expression, match["right"])
    return tuple(found)


def _normal(part: str) -> str:
    return _SIGNS.get(part, part.replace(",", ""))


def _value(written: str) -> Fraction:
    return Fraction(written.replace(",", ""))


def _agree(one: str, other: str) -> bool:
    """Whether they differ by less than one unit in the last place of the shorter."""
    places = min(len(written.partition(".")[2]) for written in (one, other))
    return abs(_value(one) - _value(other)) < Fraction(1, 10**places)
