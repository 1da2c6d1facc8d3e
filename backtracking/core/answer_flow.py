"""How the answer changes across an onset: from the last value stated before it to the final answer.

The final answer is the one `grade` reads. The value before the onset is what the text held last:

- an answer it had already given (`Final: 42`, a closed box, "the answer is 42"), basis "answer", unless a
  result was stated after it;
- else the last number stated as a result: right after "=", "≈", or one of a few verbs such as "is", "are", "get",
  "gives", "makes", "comes to", with nothing but fillers, markup and currency between, and not itself part of a
  longer expression ("is 3 * 4"), basis "stated".

Limits. A stated value is often an intermediate result, which differs from the gold answer without being
wrong, so a "fixed" of basis "stated" means that the text reached the gold answer after the onset, not
that it held a wrong answer before; only basis "answer" says that. Report the two apart. "There are 12
eggs" counts as stated, though it may only repeat the problem. Words ("a dozen") and formulas are not
read: an onset before the first stated number is "unknown". A change across an onset need not be due to it.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import regex as re

from backtracking.core.answers import Answer, read_answer
from backtracking.core.errors import InputError
from backtracking.core.grading import FinishReason, grade, read_gold
from backtracking.core.numerals import find_numerals

Flow = Literal["fixed", "broken", "unchanged_right", "unchanged_wrong", "changed_wrong", "unknown"]
Basis = Literal["answer", "stated"]

_LEAD = re.compile(
    r"(?:[=≈]|(?<![A-Za-z])(?:is|are|was|were|be|equals?|equal\s+to|gets?|got|gives?|giving|gave|makes?|made|leaves?"
    r"|yields?|totals?|total\s+of|comes?\s+to|came\s+to|that's|it's))"
    r"(?:[\s*_~:≈({\[]|\\[(\[,;! ]|\\boxed\s*\{|\\(?:text|mathbf|approx)(?![A-Za-z])"
    r"|(?<![A-Za-z])(?:then|now|indeed|just|only|still|about|around|exactly|approximately|really|actually)(?![A-Za-z]))*+"
    r"(?:\\?[$€£¥₹]\s?)?$",
    re.IGNORECASE,
)
_CONTINUES = re.compile(
    r"[\s})\]]*+(?:[+/×÷^·=<>±]|\*(?!\*)|\*\*\s?\d|[-\u2212]\s*(?=[\d.(\\$])|\\(?:times|cdot|div|frac|pm)(?![A-Za-z])"
    r"|(?:x|times|plus|minus|divided\s+by|of|per)(?![A-Za-z]))",
    re.IGNORECASE,
)
_LOOK_BACK = 60
"""Characters before a number in which its verb is looked for."""


@dataclass(frozen=True)
class HeldValue:
    """A value that the text held at some point; `text[span[0]:span[1]]` is it."""

    value: Fraction
    span: tuple[int, int]
    basis: Basis


@dataclass(frozen=True)
class AnswerFlow:
    """The value before an onset, the final answer, and what became of it."""

    flow: Flow
    before: HeldValue | None
    """None where no number had been stated."""
    after: Answer | None
    """None where the completion gives no answer, by the rules of `grade`."""


def answer_flow(
    text: str, onset_char: int, gold: str | int | float, *, finish_reason: FinishReason = "stop"
) -> AnswerFlow:
    """Compare the value held before `onset_char` with the final answer; limits in the module's docstring.

    "fixed" is wrong, then right; "broken" the reverse; "unchanged_wrong" the same wrong value twice;
    "changed_wrong" two different ones; "unknown" where either is missing, the final answer stands
    before the onset, or the gold answer is no number.

    Raises:
        InputError: The onset lies outside the text.
        ValueError: The gold answer cannot be read, or the finish reason is none.
    """
    before = value_before(text, onset_char)
    after = grade(text, gold, finish_reason=finish_reason).answer
    if before is None or after is None or after.value is None or read_gold(gold).value is None:
        return AnswerFlow("unknown", before, after)
    if after.span[0] < onset_char:
        return AnswerFlow("unknown", before, after)
    was_right, is_right = (_is_right(value, gold) for value in (before.value, after.value))
    if is_right:
        return AnswerFlow("unchanged_right" if was_right else "fixed", before, after)
    if was_right:
        return AnswerFlow("broken", before, after)
    return AnswerFlow("unchanged_wrong" if before.value == after.value else "changed_wrong", before, after)


def value_before(text: str, onset_char: int) -> HeldValue | None:
    """The value the text held when it came to `onset_char`, or None.

    Raises:
        InputError: The onset lies outside the text.
    """
    if not 0 <= onset_char <= len(text):
        raise InputError(f"the onset is at character {onset_char} of a text of {len(text)}; give an offset inside it")
    prefix = text[:onset_char]
    stated = _last_stated(prefix)
    answer = read_answer(prefix)
    if answer is None or answer.value is None or not (answer.explicit or answer.source == "stated"):
        return stated
    if stated is not None and stated.span[0] > answer.span[1]:
        return stated
    return HeldValue(answer.value, answer.span, "answer")


def _last_stated(prefix: str) -> HeldValue | None:
    for numeral in reversed(list(find_numerals(prefix))):
        if numeral.value is None or _CONTINUES.match(prefix, numeral.end):
            continue
        start = max(0, numeral.start - _LOOK_BACK)
        if _LEAD.search(prefix[start : numeral.start]):
            return HeldValue(numeral.value, (numeral.start, numeral.end), "stated")
    return None


def _is_right(value: Fraction, gold: str | int | float) -> bool:
    """By the grader's own comparison, its rule for rounding included."""
    return grade(f"\\boxed{{{value}}}", gold).verdict == "right"
