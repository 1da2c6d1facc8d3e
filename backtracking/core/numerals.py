r"""Numbers as people and models write them, read exactly.

A numeral is one number in running text: `1,000`, `8,\!000`, `-$3.50`, `47/3`, `\frac{47}{3}`, `3
1/2`, `2 \times 10^3`, `1e3`, `½`, Arabic-Indic or full-width digits. Every value is a `Fraction`;
nothing passes through a float.

Traps: clock times (`5:30`), ranges (`10-12`), a zero denominator, and numbers of more than
`MAX_DIGITS` digits are numerals whose value is None: something is written there, and it is not one
finite number of a size a task can ask for.
"""

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import regex as re

MAX_DIGITS = 1000
"""Longest number read exactly, in digits; stays under Python's limit of 4300 for int and str
conversion."""

_SEPARATOR = r"(?:,(?:\\!|\{\})?|\{,\}|\\[,!]|[\u00a0\u2009\u202f\u066c\uff0c])"
_INTEGER = rf"\d++(?:{_SEPARATOR}\d++)*+"
_POINT = r"[.\u066b\uff0e]"
_DECIMAL = rf"(?:{_INTEGER}(?:{_POINT}\d++)?+|(?<![\w.]){_POINT}\d++)"
_MINUS = "-\u2212\uff0d\u2013\ufe63"
_SIGN = rf"[{_MINUS}+\uff0b]"
_EXPONENT = rf"(?:\{{\s*+({_SIGN}?\d++)\s*+\}}|({_SIGN}?\d++))"

_START = re.compile(
    rf"(?P<sign>(?:(?<=\{{){_SIGN}\s*+|(?<![\w)\]}}]){_SIGN})(?=[\\$€£¥₹\d.\uff0e¼-¾⅐-⅞]))?+"
    r"(?P<currency>\\?[$€£¥₹]\s?)?+"
    rf"(?:(?<!\^)(?<!\^\{{)(?<!_\{{)(?<![A-Za-z]_)(?P<decimal>{_DECIMAL})"
    r"|(?P<vulgar>[¼-¾⅐-⅞])|(?P<latex>\\[dtc]?frac(?![A-Za-z])))"
)
_LATEX_FRACTION = re.compile(
    rf"\s*+\\[dtc]?frac\s*+(?:\{{\s*+({_SIGN}?{_DECIMAL})\s*+\}}|(\d))\s*+(?:\{{\s*+({_DECIMAL})\s*+\}}|(\d))"
)
_VULGAR = re.compile(r"\s?([¼-¾⅐-⅞])")
_MIXED = re.compile(r"[ \u00a0]++(\d++)\s?/\s?(\d++)(?![\d/])")
_OVER = re.compile(rf"\s?/\s?({_DECIMAL})")
_TEN_TO = re.compile(rf"\s*+(?:\\times|\\cdot|[×xX*·⋅])\s*+10\s*+(?:\^|\*\*)\s*+{_EXPONENT}", re.ASCII)
_E_NOTATION = re.compile(rf"[eE]({_SIGN}?\d++)(?!\w)")
_POWER = re.compile(rf"\s?(?:\^|\*\*)\s?{_EXPONENT}")
_CLOCK = re.compile(r":(\d\d?)(?!\d)")
_RANGE = re.compile(rf"[-\u2013\u2212](?={_DECIMAL}){_DECIMAL}")
_GAP = re.compile(r"\s*+")
_REACH = 4 * MAX_DIGITS
"""Characters after a number in which its continuation begins; only a longer gap of white space is not seen."""
_SCALES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALE = re.compile(rf"[ \u00a0*_$\\]{{0,8}}(?:text\w*\{{ ?)?({'|'.join(_SCALES)})s?(?![A-Za-z])", re.IGNORECASE)
_AT_POINT = re.compile(_POINT)
_RUN = re.compile(r"\d+")
_PIECE = re.compile(rf"\d++(?:{_POINT}\d++)?+")


@dataclass(frozen=True)
class Numeral:
    """One number in a text; `text[start:end]` is it, with its sign and without currency or unit."""

    value: Fraction | None
    """The exact number, or None where what is written is not one finite number."""
    start: int
    end: int
    currency: bool = False
    """Whether a currency sign (or a `$` that opens mathematics) stands directly before the
    digits."""


def find_numerals(text: str, start: int = 0, end: int | None = None) -> Iterator[Numeral]:
    """Every numeral of `text[start:end]`, in order, in linear time.

    Exponents and subscripts of letters (`in^3`, `x_{1}`) are not numerals. Digits may touch letters
    (`448mL`).
    """
    end = len(text) if end is None else end
    while match := _START.search(text, start, end):
        decimal = match["decimal"]
        if decimal and _grouping(decimal) == "list":
            yield from _pieces(text, match.start("decimal"), match.end("decimal"))
            start = match.end()
            continue
        value, stop = _value_at(text, match, end)
        start = max(stop, match.end())
        if stop == match.start("latex"):  # \frac of something that is not two numbers
            continue
        sign = (match["sign"] or "").strip()
        if value is not None and sign and sign in _MINUS:
            value = -value
        begin = match.start("sign") if sign else match.end("currency")
        if begin < 0:
            begin = match.start()
        yield Numeral(value, begin, stop, bool(match["currency"]))


def scale_after(text: str, end: int) -> int:
    """What the word behind a number that ends there multiplies it by (`5 million`); 1 if it is no such word."""
    word = _SCALE.match(text, end)
    return 1 if word is None else _SCALES[word[1].lower()]


def _value_at(text: str, match: re.Match[str], end: int) -> tuple[Fraction | None, int]:
    """Unsigned value and end of the numeral whose first part is `match`."""
    if match["latex"]:
        fraction = _LATEX_FRACTION.match(text, match.start("latex"), end)
        if fraction is None:
            return None, match.start("latex")
        return _latex_fraction(fraction), fraction.end()
    if match["vulgar"]:
        return _vulgar(match["vulgar"]), match.end()
    value, stop = _exact(match["decimal"]), match.end()
    blank = _GAP.match(text, stop, min(end, stop + _REACH))
    gap = stop if blank is None else blank.end()
    following = text[gap] if gap < end else "\n"
    following = "0" if following.isdecimal() else following
    for opens, pattern, combine in _TAILS:
        tail = _tail(pattern, text, stop, end) if following in opens else None
        if tail is not None:
            return (None if value is None else combine(value, tail)), tail.end()
    return value, stop


def _tail(pattern: re.Pattern[str], text: str, start: int, end: int) -> re.Match[str] | None:
    """`pattern.match(text, start, end)`, without the search of all the rest of the text for a piece that the
    pattern needs, which the engine would make first.
    """
    near = min(end, start + _REACH)
    tail = pattern.match(text, start, near)
    return pattern.match(text, start, end) if tail is not None and tail.end() == near < end else tail


def _pieces(text: str, start: int, end: int) -> Iterator[Numeral]:
    """The members of a run such as `3,5,7`, whose commas separate numbers and not thousands."""
    for piece in _PIECE.finditer(text, start, end):
        yield Numeral(_exact(piece.group()), piece.start(), piece.end())


def _grouping(written: str) -> str:
    """What the separators inside a number mean: `plain`, `thousands` or `list`."""
    if written.isdecimal():
        return "plain"
    groups = _RUN.findall(_AT_POINT.split(written, maxsplit=1)[0])
    if len(groups) < 2:
        return "plain"
    first, *middle, last = (len(group) for group in groups)
    grouped = first <= 3 and last == 3 and all(size in (2, 3) for size in middle)
    return "thousands" if grouped else "list"


def _exact(written: str) -> Fraction | None:
    """The value of a decimal with separators; None past `MAX_DIGITS`."""
    if len(written) <= MAX_DIGITS and written.isdecimal():
        return Fraction(int(written))
    whole, *rest = _AT_POINT.split(written, maxsplit=1)
    decimals = rest[0] if rest else ""
    digits = "".join(_RUN.findall(whole)) + decimals
    # the pattern knows digits of newer scripts than Python does
    if len(digits) > MAX_DIGITS or not digits.isdecimal():
        return None
    return Fraction(int(digits), 10 ** len(decimals))


def _integer(written: str) -> int | None:
    sign = -1 if written[0] in _MINUS else 1
    digits = written.lstrip("+\uff0b" + _MINUS)
    return sign * int(digits[:MAX_DIGITS]) if digits.isdecimal() else None


def _ratio(numerator: Fraction | None, denominator: Fraction | None) -> Fraction | None:
    return None if numerator is None or not denominator else numerator / denominator


def _scaled(value: Fraction, tail: re.Match[str]) -> Fraction | None:
    exponent = _integer(next(group for group in tail.groups() if group))
    return None if exponent is None or abs(exponent) > MAX_DIGITS else value * Fraction(10) ** exponent


def _power(value: Fraction, tail: re.Match[str]) -> Fraction | None:
    exponent = _integer(tail[1] or tail[2])
    size = max(value.numerator.bit_length(), value.denominator.bit_length())
    if exponent is None or abs(exponent) * size > 3 * MAX_DIGITS or (value == 0 and exponent < 0):
        return None
    return value**exponent


def _latex_fraction(match: re.Match[str]) -> Fraction | None:
    numerator = match[1] or match[2]
    sign = -1 if numerator[0] in _MINUS else 1
    top = _exact(numerator.lstrip("+\uff0b" + _MINUS))
    bottom = _exact(match[3] or match[4])
    return _ratio(None if top is None else sign * top, bottom)


def _vulgar(character: str) -> Fraction:
    top, bottom = unicodedata.normalize("NFKC", character).split("\u2044")
    return Fraction(int(top), int(bottom))


def _plus(whole: Fraction, part: Fraction | None) -> Fraction | None:
    return None if part is None else whole + part


def _mixed(whole: Fraction, tail: re.Match[str]) -> Fraction | None:
    return _plus(whole, _ratio(_exact(tail[1]), _exact(tail[2])))


def _clock(hour: Fraction, tail: re.Match[str]) -> Fraction | None:
    return hour if tail[1].isdecimal() and int(tail[1]) == 0 else None


_Combine = Callable[[Fraction, re.Match[str]], Fraction | None]
_TAILS: tuple[tuple[str, re.Pattern[str], _Combine], ...] = (
    ("\\×xX*·⋅", _TEN_TO, _scaled),
    ("eE", _E_NOTATION, _scaled),
    ("^*", _POWER, _power),
    ("\\", _LATEX_FRACTION, lambda whole, tail: _plus(whole, _latex_fraction(tail))),
    ("¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞", _VULGAR, lambda whole, tail: whole + _vulgar(tail[1])),
    ("0", _MIXED, _mixed),
    ("/", _OVER, lambda top, tail: _ratio(top, _exact(tail[1]))),
    (":", _CLOCK, _clock),
    ("-\u2013\u2212", _RANGE, lambda low, tail: None),
)
"""What can go on from a number: the characters it begins with after white space ("0" stands for
every digit), the pattern, the value."""
