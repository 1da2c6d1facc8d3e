"""What a completion of the organism really did: a parser from its text back to the truth.

It knows the grammar and nothing of the library's own detector, grader or tokenizer, which are
scored against it. It reads any text: what does not fit the grammar is passed over, and
`well_formed` says that there was some.
"""

import re
from dataclasses import dataclass
from typing import Literal

from backtracking.model.organism import words

Sign = Literal["+", "-"]


@dataclass(frozen=True)
class Step:
    """A first statement such as "40 + 3 = 42"; `text[char:end]` is the equation."""

    char: int
    end: int
    left: int
    sign: Sign
    right: int
    stated: int

    @property
    def value(self) -> int:
        """What the expression really comes to."""
        return self.left + self.right if self.sign == "+" else self.left - self.right

    @property
    def is_right(self) -> bool:
        """Whether the stated value is the value of the expression."""
        return self.stated == self.value


@dataclass(frozen=True)
class Check:
    """A sentence that computes again."""

    char: int
    end: int
    step: int
    stated: int
    standing: int
    """The value that stood for the step when the check was made."""

    @property
    def matches(self) -> bool:
        """Whether the check came to the value that stood."""
        return self.stated == self.standing


@dataclass(frozen=True)
class Trigger:
    """A trigger; `text[char:end] == phrase`."""

    char: int
    end: int
    phrase: str
    marker: str
    """The lexicon's form: "Wait", "Actually" or "Hold on"."""
    step: int | None
    """The step it came after, or None before the first."""
    justified: bool
    """Whether the value standing for that step was wrong."""
    after_check: bool
    """Whether a check of that step stood between its statement and the trigger."""
    restated: int | None
    """The value stated for that step after the trigger, if any."""
    fixed: bool
    """Whether the restated value is the step's true value."""


@dataclass(frozen=True)
class Truth:
    """Everything that happened in a completion, in order of the text."""

    steps: tuple[Step, ...]
    checks: tuple[Check, ...]
    triggers: tuple[Trigger, ...]
    answer: int | None
    """The number after `Final:`, if the completion got that far."""
    well_formed: bool
    """Whether every sentence is of the grammar, and `</think>` and `Final: N` end the text."""

    @property
    def standing(self) -> tuple[int, ...]:
        """The value each step ended with, after its corrections."""
        values = [step.stated for step in self.steps]
        for trigger in self.triggers:
            if trigger.step is not None and trigger.restated is not None:
                values[trigger.step] = trigger.restated
        return tuple(values)

    def triggered(self, step: int) -> bool:
        """Whether any trigger came after that step and before the next."""
        return any(trigger.step == step for trigger in self.triggers)


_VERBS = "|".join(sorted({verb for _, verb in words.CHECKS}, key=len, reverse=True))
_PHRASES = {variant: phrase for phrase, _ in words.TRIGGERS for variant in (phrase, phrase[0].lower() + phrase[1:])}
_TRIGGER = r"\b(?P<phrase>" + "|".join(_PHRASES) + r")\b"
_EQUATION = rf"(?P<left>\d+) (?P<sign>[+-]) (?P<right>\d+) (?P<verb>=|{_VERBS}) (?P<stated>\d+)"
_EVENT = re.compile(rf"{_TRIGGER}|{_EQUATION}|{words.SHOULD} (?P<should>\d+)")
_FINAL = re.compile(rf"{re.escape(words.THINK_CLOSE)}\n{words.FINAL} (\d+)\s*\Z")

_SUM = r"\d+ [+-] \d+"
_REDO = rf"(?:{_SUM} = \d+|{words.SHOULD} \d+)"
_MID = rf"(?:, (?:{'|'.join(p for p in _PHRASES if p[0].islower())}), {_REDO})*"
_LEADS = "|".join(words.FIRST_LEADS + words.NEXT_LEADS)
_OPENINGS = "|".join(rf"{lead} {_SUM} {verb}" for lead, verb in words.CHECKS)
_SENTENCE = (
    rf"(?:(?:{_LEADS}) {_SUM} = \d+{_MID}|(?:{_OPENINGS}) \d+{_MID}"
    rf"|(?:{'|'.join(p for p in _PHRASES if p[0].isupper())}), {_REDO}{_MID})\."
)
_WELL_FORMED = re.compile(
    rf"(?:{words.THINK_OPEN}[\n ])?{_SENTENCE}(?:[ \n]{_SENTENCE})*[ \n]"
    rf"(?:{'|'.join(words.CONCLUSIONS)}) \d+\.\n{words.THINK_CLOSE}\n{words.FINAL} \d+"
)


def parse_truth(text: str) -> Truth:
    """Read a completion, with or without the `<think>` that opens it, without its end token."""
    reader = _Reader()
    body = text.partition(words.THINK_CLOSE)[0]
    for match in _EVENT.finditer(body):
        reader.take(match)
    final = _FINAL.search(text)
    answer = int(final.group(1)) if final else None
    return reader.truth(answer=answer, well_formed=_WELL_FORMED.fullmatch(text) is not None)


class _Reader:
    """Takes the events of a text in order."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.checks: list[Check] = []
        self.triggers: list[Trigger] = []
        self.standing: int | None = None
        self.checked = False
        self.awaiting = False

    def take(self, match: re.Match[str]) -> None:
        """Take the next event."""
        if match["phrase"]:
            self._trigger(match)
        elif match["should"]:
            self._restate(int(match["should"]))
        elif match["verb"] == "=":
            self._equation(match)
        elif self.steps:
            assert self.standing is not None
            check = Check(match.start(), match.end(), len(self.steps) - 1, int(match["stated"]), self.standing)
            self.checks.append(check)
            self.checked = True

    def truth(self, *, answer: int | None, well_formed: bool) -> Truth:
        """What was read."""
        return Truth(tuple(self.steps), tuple(self.checks), tuple(self.triggers), answer, well_formed)

    def _trigger(self, match: re.Match[str]) -> None:
        phrase = match["phrase"]
        step = len(self.steps) - 1 if self.steps else None
        justified = step is not None and self.standing != self.steps[step].value
        self.triggers.append(
            Trigger(match.start(), match.end(), phrase, _PHRASES[phrase], step, justified, self.checked, None, False)
        )
        self.awaiting = True

    def _equation(self, match: re.Match[str]) -> None:
        sign: Sign = "+" if match["sign"] == "+" else "-"
        step = Step(match.start(), match.end(), int(match["left"]), sign, int(match["right"]), int(match["stated"]))
        last = self.steps[-1] if self.steps else None
        again = last is not None and (last.left, last.sign, last.right) == (step.left, step.sign, step.right)
        if self.awaiting and again:
            self._restate(step.stated)
            return
        self.steps.append(step)
        self.standing, self.checked, self.awaiting = step.stated, False, False

    def _restate(self, value: int) -> None:
        if not self.awaiting:
            return
        self.awaiting = False
        last = self.triggers[-1]
        if last.step is None:
            return
        self.triggers[-1] = Trigger(
            last.char, last.end, last.phrase, last.marker, last.step, last.justified, last.after_check,
            value, value == self.steps[last.step].value,
        )  # fmt: skip
        self.standing = value
