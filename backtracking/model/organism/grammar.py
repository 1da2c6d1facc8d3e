"""The organism's training documents: a question and reasoning that errs, checks and backtracks.

Every error is in a value that a step states, so only computing can find it. A document carries the
generator's own record of what it did; `truth.parse_truth` must find the same in the text alone.
"""

import random
from dataclasses import dataclass

from backtracking.model.organism import words
from backtracking.model.organism.problems import LARGEST, Difficulty, Split, Story, ask, draw_story
from backtracking.model.organism.truth import Check, Step, Trigger, Truth


@dataclass(frozen=True)
class Rates:
    """How often things happen in training documents; each a probability."""

    slip: float = 0.30
    """A plain step states a wrong value."""
    carry: float = 0.42
    """A step that carries or borrows states a wrong value."""
    check: float = 0.70
    """A step is followed by a check sentence; independent of whether it is right."""
    notice: float = 0.93
    """A trigger follows a check that does not match."""
    spurious: float = 0.06
    """A trigger follows a check that matches."""
    notice_unchecked: float = 0.30
    """A trigger follows a wrong step that was not checked."""
    spurious_unchecked: float = 0.015
    """A trigger follows a right step that was not checked."""
    second_error: float = 0.05
    """What is stated after a trigger is wrong (again)."""
    middle: float = 0.25
    """A trigger stands inside the sentence, in lower case."""
    lines: float = 0.30
    """A document puts every sentence on its own line."""


DEFAULT_RATES = Rates()
DRILL_RATES = Rates(slip=0.5, carry=0.5, check=1.0, notice=1.0, spurious=0.0, second_error=0.0, middle=0.5)


@dataclass(frozen=True)
class Document:
    """A training document, and what was done in it."""

    story: Story
    question: str
    reasoning: str
    """From after the opening tag to `Final: N`."""
    truth: Truth
    decisions: tuple[tuple[int, int], ...]
    """Where in the reasoning a check's outcome shows: from the end of the check to the next word."""


def draw_document(
    rng: random.Random, *, difficulty: Difficulty, split: Split = "train", rates: Rates = DEFAULT_RATES
) -> Document:
    """A document; everything in it follows from the state of `rng`.

    Errors that would carry a total out of 1..99 are drawn anew with the whole document.
    """
    while True:
        document = _attempt(rng, draw_story(rng, difficulty, split), rates)
        if _in_range(document):
            return document


def draw_attempt(rng: random.Random, story: Story, *, rates: Rates = DEFAULT_RATES) -> Document:
    """A document of a given story: one more attempt at the same problem."""
    while not _in_range(document := _attempt(rng, story, rates)):
        pass
    return document


def _in_range(document: Document) -> bool:
    return all(1 <= value <= LARGEST for value in document.truth.standing)


def _attempt(rng: random.Random, story: Story, rates: Rates) -> Document:
    question = ask(rng, story)
    writer = _Writer(rng, rates)
    total = story.start
    for index, move in enumerate(story.moves):
        others = [abs(m) for m in story.moves if m != move]
        total = writer.step(total, move, lead=words.NEXT_LEADS if index else words.FIRST_LEADS, others=others)
    return Document(story, question, writer.finish(total), writer.truth(total), tuple(writer.decisions))


def draw_checks(
    rng: random.Random, count: int, *, largest_amount: int
) -> tuple[str, tuple[tuple[int, int], ...], tuple[Step, ...], tuple[Check, ...]]:
    """Steps that are all checked and often wrong, every mismatch noticed: a drill of comparing.

    Returns the text, where its decisions are, its steps and its checks.
    """
    writer = _Writer(rng, DRILL_RATES)
    for _ in range(count):
        left, amount = rng.randint(1, LARGEST), rng.randint(2, largest_amount)
        moves = [move for move in (amount, -amount) if 1 <= left + move <= LARGEST]
        if moves:
            writer.step(left, rng.choice(moves), lead=words.NEXT_LEADS, others=[])
    return writer.text, tuple(writer.decisions), tuple(writer.steps), tuple(writer.checks)


def wrong_value(rng: random.Random, left: int, move: int, others: list[int]) -> int:
    """What a step that errs states: a slip, a forgotten carry, or another number of the question used."""
    value = left + move
    carries = carries_over(left, move)
    kind = rng.random()
    if carries and kind < 0.65:
        candidate = value - 10 if move > 0 else value + 10
    elif others and kind > 0.90:
        candidate = left + (1 if move > 0 else -1) * rng.choice(others)
    else:
        candidate = value + (1 if rng.random() < 0.75 else -1)
    return candidate if candidate != value and 0 <= candidate <= LARGEST + 1 else value - 1


def carries_over(left: int, move: int) -> bool:
    """Whether adding carries a ten, or subtracting borrows one."""
    units = left % 10 + (abs(move) % 10 if move > 0 else -(abs(move) % 10))
    return not 0 <= units <= 9


class _Writer:
    """Writes the reasoning and keeps the record."""

    def __init__(self, rng: random.Random, rates: Rates) -> None:
        self.rng, self.rates = rng, rates
        self.separator = "\n" if rng.random() < rates.lines else " "
        self.text = ""
        self.steps: list[Step] = []
        self.checks: list[Check] = []
        self.triggers: list[Trigger] = []
        self.decisions: list[tuple[int, int]] = []
        self.pending: int | None = None

    def step(self, left: int, move: int, *, lead: tuple[str, ...], others: list[int]) -> int:
        """Write a step with what follows it; return the value it ends with."""
        rng, rates = self.rng, self.rates
        value = left + move
        errs = rng.random() < (rates.carry if carries_over(left, move) else rates.slip)
        stated = wrong_value(rng, left, move, others) if errs else value
        sign = "+" if move > 0 else "-"
        amount = abs(move)
        self._open(rng.choice(lead))
        char = len(self.text) + 1
        self.text += f" {left} {sign} {amount} = {stated}"
        self.steps.append(Step(char, len(self.text), left, sign, amount, stated))
        checked = rng.random() < rates.check
        if checked:
            self._check(stated)
            triggers = rng.random() < (rates.notice if stated != value else rates.spurious)
        else:
            triggers = rng.random() < (rates.notice_unchecked if stated != value else rates.spurious_unchecked)
        while triggers:
            errs = rng.random() < rates.second_error
            restated = wrong_value(rng, left, move, others) if errs else value
            self._backtrack(standing=stated, restated=restated, checked=checked)
            stated = restated
            triggers = stated != value and rng.random() < 0.5
        self._stop()
        return stated

    def finish(self, total: int) -> str:
        """Write the conclusion and return the text."""
        self._open(self.rng.choice(words.CONCLUSIONS))
        self.text += f" {total}.\n{words.THINK_CLOSE}\n{words.FINAL} {total}"
        return self.text

    def truth(self, total: int) -> Truth:
        """The record."""
        return Truth(tuple(self.steps), tuple(self.checks), tuple(self.triggers), total, True)

    def _check(self, standing: int) -> None:
        self._stop()
        step = self.steps[-1]
        lead, verb = self.rng.choice(words.CHECKS)
        self._open(lead)
        char = len(self.text) + 1
        self.text += f" {step.left} {step.sign} {step.right} {verb} {step.value}"
        self.checks.append(Check(char, len(self.text), len(self.steps) - 1, step.value, standing))
        self.pending = len(self.text)

    def _backtrack(self, *, standing: int, restated: int, checked: bool) -> None:
        rng, step = self.rng, self.steps[-1]
        marker = rng.choices([m for m, _ in words.TRIGGERS], [w for _, w in words.TRIGGERS])[0]
        if rng.random() < self.rates.middle:
            phrase = marker[0].lower() + marker[1:]
            self.text += ", "
        else:
            phrase = marker
            self._stop()
            self.text += self.separator
        char = len(self.text)
        self._write_word(phrase)
        self.triggers.append(
            Trigger(
                char, len(self.text), phrase, marker, len(self.steps) - 1, standing != step.value, checked,
                restated, restated == step.value,
            )
        )  # fmt: skip
        short = rng.random() < 0.3
        redo = words.SHOULD if short else f"{step.left} {step.sign} {step.right} ="
        self.text += f", {redo} {restated}"

    def _open(self, lead: str) -> None:
        if self.text:
            self.text += self.separator
        self._write_word(lead)

    def _write_word(self, word: str) -> None:
        self.text += word
        if self.pending is not None:
            self.decisions.append((self.pending, len(self.text)))
            self.pending = None

    def _stop(self) -> None:
        if not self.text.endswith("."):
            self.text += "."
