"""What became of the answer across an onset, on texts as models write them and on known truth."""

import random
from fractions import Fraction

import pytest

from backtracking.core.answer_flow import answer_flow, value_before
from backtracking.core.errors import InputError
from backtracking.model.organism.grammar import draw_document
from backtracking.model.organism.truth import parse_truth

END = "\n</think>\n\nFinal: {}"


def flow(text: str, gold, **options):
    return answer_flow(text, text.index("Wait"), gold, **options)


@pytest.mark.parametrize(
    ("before", "final", "gold", "expected"),
    [
        ("So 3 * 200 = 600 employees and 21 guides, 600 + 21 = 612.", 621, 621, "fixed"),
        ("So the total is 621 people.", 620, 621, "broken"),
        ("So the total is $621.", 621, 621, "unchanged_right"),
        ("Adding them up, I get 620.", 620, 621, "unchanged_wrong"),
        ("Adding them up, I get 620.", 619, 621, "changed_wrong"),
        ("Okay, so I need to find the number of people.", 621, 621, "unknown"),
        ("That gives 11/3 litres each.", 4, "11/3", "broken"),
        ("That is \\( \\frac{11}{3} \\).", "3.67", "11/3", "unchanged_right"),
    ],
)
def test_the_flow_is_read_against_the_gold(before, final, gold, expected):
    assert flow(f"<think>\n{before} Wait, let me check.{END.format(final)}", gold).flow == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The price is 3 * 4 = 12 dollars. ", 12),
        ("The price is 3 * 4. ", None),
        ("That makes 1,250 in total, for 7 people. ", 1250),
        ("It comes to **$36**. ", 36),
        ("We get \\(x = 5\\). ", 5),
        ("The sum is $$\\boxed{42}$$ ", 42),
        ("Each gets about 2.5 kg; there were 4 of them ", Fraction(5, 2)),
        ("So 10 - 4 = 6 and then 6 + 5 = 11 ", 11),
        ("First, 40 + 3 ", None),
        ("It leaves at 5:30 ", None),
        ("He is 20% taller. She is 12 years old. ", 12),
        ("Checking, 40 + 3 is 43. ", 43),
    ],
)
def test_the_value_before_is_the_last_stated_as_a_result(text, value):
    found = value_before(text + "Wait, 99 = 99", len(text))
    assert (None if found is None else found.value) == value
    if found is not None:
        assert found.basis in ("stated", "answer")
        assert text[slice(*found.span)].strip("$")


def test_an_answer_already_given_is_told_from_a_result_on_the_way():
    answered = flow("So, the answer is 36. Wait, two shirts. 2 * 36 = 72." + END.format(72), 72)
    assert (answered.flow, answered.before.basis) == ("fixed", "answer")
    on_the_way = flow("Each shirt is 36. Wait, two shirts. 2 * 36 = 72." + END.format(72), 72)
    assert (on_the_way.flow, on_the_way.before.basis) == ("fixed", "stated")
    after_it = flow("The answer is 36.\nBut 2 * 36 = 72. Wait, yes." + END.format(72), 72)
    assert (after_it.flow, after_it.before.basis) == ("unchanged_right", "stated")


def test_what_is_missing_is_unknown_and_never_guessed():
    cut_off = flow("It is 36. Wait, no: it is 72", 72, finish_reason="length")
    assert (cut_off.flow, cut_off.after) == ("unknown", None)
    answered_before = flow("Final: 36\nWait, maybe not", 36, finish_reason="length")
    assert answered_before.flow == "unknown"
    assert flow("x = 3. Wait." + END.format("x + 1"), "x + 1").flow == "unknown"
    with pytest.raises(InputError, match="character 50 of a text of 4"):
        value_before("Wait", 50)


def test_reading_a_longer_text_never_changes_what_was_held_before():
    text = "First, 40 + 3 = 42. Wait, 40 + 3 = 43. Then 43 + 5 = 48."
    for onset in range(len(text)):
        assert value_before(text, onset) == value_before(text[:onset], onset)


@pytest.mark.parametrize("difficulty", ["easy", "medium", "hard"])
def test_on_the_organisms_documents_it_is_the_value_last_written(difficulty):
    rng = random.Random(5)
    onsets = 0
    for _ in range(150):
        document = draw_document(rng, difficulty=difficulty)
        truth = parse_truth(document.reasoning)
        gold = document.story.start + sum(document.story.moves)
        for trigger in truth.triggers:
            written = [(s.char, s.stated) for s in truth.steps] + [(c.char, c.stated) for c in truth.checks]
            written += [(t.end, t.restated) for t in truth.triggers if t.restated is not None]
            expected = max((place, value) for place, value in written if place < trigger.char)[1]
            found = answer_flow(document.reasoning, trigger.char, gold)
            assert found.before is not None, document.reasoning
            assert found.before.value == expected, document.reasoning
            right = (expected == gold, truth.answer == gold)
            names = {(True, True): "unchanged_right", (False, True): "fixed", (True, False): "broken"}
            assert found.flow == names.get(right, "unchanged_wrong" if expected == truth.answer else "changed_wrong")
            onsets += 1
    assert onsets > 50
