"""The parser finds in the text alone what the generator did, and survives any text."""

import random

import pytest

from backtracking.model.organism.grammar import draw_document
from backtracking.model.organism.problems import DIFFICULTIES
from backtracking.model.organism.truth import parse_truth


def documents(n):
    return [draw_document(random.Random(seed), difficulty=DIFFICULTIES[seed % 3]) for seed in range(n)]


def test_the_parser_agrees_with_the_generator():
    for document in documents(600):
        assert parse_truth(document.reasoning) == document.truth


def test_positions_are_exact():
    for document in documents(100):
        truth = parse_truth(document.reasoning)
        assert all(document.reasoning[t.char : t.end] == t.phrase for t in truth.triggers)
        for step in truth.steps:
            assert document.reasoning[step.char : step.end] == f"{step.left} {step.sign} {step.right} = {step.stated}"


def test_an_opening_tag_moves_positions_only():
    document = documents(1)[0]
    shifted = parse_truth("<think>\n" + document.reasoning)
    assert shifted.well_formed
    assert [step.char - 8 for step in shifted.steps] == [step.char for step in document.truth.steps]


HAND = "First, 40 + 3 = 42. Check, 40 + 3 gives 43. Wait, 40 + 3 = 43. Then 43 - 5 = 38, hold on, that should be 37."
TAIL = " So the answer is 37.\n</think>\nFinal: 37"


def test_a_completion_read_by_hand():
    truth = parse_truth(HAND + TAIL)
    assert [(s.stated, s.value, s.is_right) for s in truth.steps] == [(42, 43, False), (38, 38, True)]
    assert [(c.stated, c.standing, c.matches) for c in truth.checks] == [(43, 42, False)]
    assert [(t.marker, t.justified, t.fixed, t.after_check) for t in truth.triggers] == [
        ("Wait", True, True, True),
        ("Hold on", False, False, False),
    ]
    assert (truth.standing, truth.answer, truth.well_formed) == ((43, 37), 37, True)


@pytest.mark.parametrize(
    "text",
    [
        HAND,
        HAND + TAIL + "0 apples",
        HAND + TAIL.replace("Final: ", "Final "),
        HAND.replace("Check,", "Check") + TAIL,
        HAND.replace("Then", "Wait wait") + TAIL,
        "Wait, " + HAND + TAIL,
    ],
)
def test_what_is_not_of_the_grammar_is_not_well_formed(text):
    assert not parse_truth(text).well_formed


def test_a_cut_or_perturbed_text_keeps_what_came_before():
    rng = random.Random(0)
    for document in documents(100):
        cut = rng.randrange(len(document.reasoning))
        truth = parse_truth(document.reasoning[:cut])
        whole = [step for step in document.truth.steps if step.end < cut]
        assert list(truth.steps[: len(whole)]) == whole
        assert truth.answer is None or cut > document.reasoning.index("Final:")
        noise = "".join(rng.choice("abc 12+-=.\nWait") for _ in range(20))
        parse_truth(document.reasoning[:cut] + noise + document.reasoning[cut:])


def test_a_trigger_before_any_step_is_spurious():
    (trigger,) = parse_truth("Wait, I am lost.").triggers
    assert (trigger.step, trigger.justified, trigger.fixed) == (None, False, False)


def test_a_wrong_correction_does_not_fix_and_can_be_caught():
    truth = parse_truth("First, 9 + 9 = 17. Wait, 9 + 9 = 19. Actually, 9 + 9 = 18.")
    assert [(t.justified, t.fixed) for t in truth.triggers] == [(True, False), (True, True)]
