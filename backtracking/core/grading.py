r"""Grade a completion against its gold answer: right, wrong, unparsed or truncated.

Numbers are compared exactly, as fractions: `36`, `$36`, `36.00`, `\boxed{36}` and `**36**` are one
answer. Rounding is forgiven in one case only: where one side has no finite decimal (11/3) and the
other is a decimal with two or more places that it rounds to (3.67, not 3.7 and not 3.66). A
whole-number gold is matched by that number alone. A percent sign is a unit: `20%` is 20. A scale
word is a unit or a factor, as the gold answer has it: `5 million` is 5 and 5,000,000. Formulas are
compared by `core/symbolic.py`.
"""

import numbers
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal, get_args

from backtracking.core.answers import Answer, read_answer
from backtracking.core.errors import InputError
from backtracking.core.numerals import find_numerals, scale_after
from backtracking.core.statements import read_statement
from backtracking.core.symbolic import same_formula

__all__ = [
    "Answer",
    "FinishReason",
    "Gold",
    "Outcome",
    "Verdict",
    "grade",
    "read_answer",
    "read_gold",
]

FinishReason = Literal["stop", "length", "degenerate"]
Outcome = Literal["right", "wrong", "unparsed", "truncated"]


@dataclass(frozen=True)
class Gold:
    """A gold answer: its text, and its exact value where it is a number."""

    text: str
    value: Fraction | None
    scale: int = 1
    """What a word behind the number multiplies it by, such as "million"."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of grading one completion, with the answer it rests on."""

    verdict: Outcome
    answer: Answer | None
    """What was read; None exactly when the verdict is "unparsed" or "truncated"."""

    @property
    def span(self) -> tuple[int, int] | None:
        """Start and end of the answer in the completion, in characters."""
        return None if self.answer is None else self.answer.span


def grade(text: str, gold: str | int | float, *, finish_reason: FinishReason = "stop") -> Verdict:
    """Grade a completion.

    A completion that was cut off ("length") or that fell into a loop ("degenerate") is graded only
    by an answer that it marks as final; without one it is "truncated" or "unparsed". Against a
    numeric gold an answer without any digit or constant is "unparsed", not "wrong": no number was
    given.

    >>> from backtracking.core.grading import grade
    >>> grade("So it is 4 * 9. Final: 36", "36").verdict
    'right'
    >>> grade("So it is 4 times 9, which", "36", finish_reason="length").verdict
    'truncated'

    Raises:
        InputError: The gold answer cannot be read; that is a defect of the data, not of the
        completion.
    """
    if finish_reason not in get_args(FinishReason):
        raise InputError(f"finish_reason is {finish_reason!r}; expected one of {get_args(FinishReason)}")
    target = read_gold(gold)
    answer = read_answer(text, explicit_only=finish_reason != "stop")
    if answer is None or (target.value is not None and not _says_a_number(answer)):
        return Verdict("truncated" if finish_reason == "length" else "unparsed", None)
    right = _matches(target, answer, scale_after(text, answer.span[1]))
    return Verdict("right" if right else "wrong", answer)


def read_gold(gold: str | int | float) -> Gold:
    r"""Read a gold answer.

    A number, its text (`1,000`, `47/3`, `\sqrt{2}`), or a GSM8K solution ending in `#### 42`.

    Raises:
        InputError: It is not one number or formula; the message names it.
    """
    if isinstance(gold, str):
        return _read_gold_text(gold)
    if isinstance(gold, bool) or not isinstance(gold, numbers.Real):
        raise InputError(f"gold answer {gold!r} is a {type(gold).__name__}; expected a string or a number")
    return _read_gold_text(str(gold))


@lru_cache(maxsize=8192)
def _read_gold_text(written: str) -> Gold:
    _, marked, tail = written.rpartition("####")
    box = read_answer(written) if "boxed{" in written and not marked else None
    text = box.text if box is not None and box.source == "boxed" else tail.strip() if marked else written.strip()
    reading = read_statement(text)
    several = reading is not None and reading.kind == "direct" and _count_numbers(text) > 1
    if reading is None or reading.kind not in ("direct", "symbolic") or several:
        raise InputError(f"gold answer {_shortened(written)} is not one number or formula; mend the problem set")
    if reading.kind == "direct" and reading.value is None:
        raise InputError(f"gold answer {_shortened(written)} is not one finite number; mend the problem set")
    return Gold(text[reading.start : reading.end], reading.value, scale_after(text, reading.end))


def _count_numbers(text: str) -> int:
    return 1 if "=" in text else len(list(find_numerals(text[:1000])))


def _shortened(written: str) -> str:
    return repr(written) if len(written) <= 80 else f"{written[:80]!r}..."


def _says_a_number(answer: Answer) -> bool:
    if answer.value is not None:
        return True
    return any(c.isdigit() for c in answer.text) or any(s in answer.text for s in ("\\pi", "\\infty", "π", "∞"))


def _matches(gold: Gold, answer: Answer, scale: int) -> bool:
    if gold.value is not None and answer.value is not None:
        meant = {(gold.value * one, answer.value * other) for one in (1, gold.scale) for other in (1, scale)}
        return any(_equal(*pair) for pair in meant)
    return same_formula(gold.text, answer.text)


def _equal(gold: Fraction, answer: Fraction) -> bool:
    """Exact equality, or rounding to a decimal as the module's docstring says."""
    if gold == answer:
        return True
    if gold.denominator == 1:
        return False
    places = {number: _decimal_places(number) for number in (gold, answer)}
    if (places[gold] is None) == (places[answer] is None):
        return False
    endless, rounded = (gold, answer) if places[gold] is None else (answer, gold)
    digits = places[rounded]
    return digits is not None and digits >= 2 and round(endless, digits) == rounded


def _decimal_places(number: Fraction) -> int | None:
    """Decimal places of a number, or None where its decimal expansion does not end."""
    rest, twos, fives = number.denominator, 0, 0
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    return max(twos, fives) if rest == 1 else None
