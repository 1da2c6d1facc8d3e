"""Values restated: found where the organism's truth has them, and nothing else is taken for one."""

import random
from fractions import Fraction

import pytest

from backtracking.core.restated import restated_values
from backtracking.model.organism.grammar import draw_document
from backtracking.model.organism.truth import parse_truth


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("40 + 3 = 42. Then 40 + 3 = 43.", [(42, 43)]),
        ("40 + 3 = 42. Checking, 40+3 is 43. Now 43 + 5 = 48.", [(42, 43)]),
        ("3 * 200 = $600, and 3 \\times 200 = 621, so 3 × 200 = 600", [(600, 621), (621, 600)]),
        ("1,200 - 50 = 1,150. 1200 − 50 = 1,160.", [(1150, 1160)]),
        ("10 / 4 = 2.5. 10 ÷ 4 = 2.75.", [(Fraction(5, 2), Fraction(11, 4))]),
        ("40 + 3 = 43. So 40 + 3 = 43.", []),
        ("3 + 40 = 42. 40 + 3 = 43.", []),
        ("10 / 3 = 3.33 and 10 / 3 = 3.3333; 7 / 2 = 3, or 7 / 2 = 3.5", []),
        ("14 / 4 = 3 remainder 2. 14 / 4 = 3.5", []),
        ("5 + 40 + 3 = 48. 40 + 3 = 43. x * 40 + 3 = 70.", []),
        ("40 + 3 = 42 + 1 = 43. 40 + 3 = 43.", []),
        ("1 / 2 = 50%. 1 / 2 = 0.5", []),
        ("x = 5. Then x = 6.", []),
        ("", []),
    ],
)
def test_only_plain_arithmetic_with_another_value_counts(text, changes):
    found = restated_values(text)
    assert [(each.before, each.after) for each in found] == changes
    assert all(text[each.char :][0].isdigit() for each in found)


@pytest.mark.parametrize("difficulty", ["easy", "medium", "hard"])
def test_on_the_organisms_documents_it_is_the_truth(difficulty):
    rng, seen = random.Random(11), 0
    for _ in range(200):
        document = draw_document(rng, difficulty=difficulty)
        truth = parse_truth(document.reasoning)
        stated: dict[tuple, list[tuple[int, int]]] = {}
        for number, step in enumerate(truth.steps):
            stated.setdefault((step.left, step.sign, step.right), []).append((step.char, step.stated))
            for check in truth.checks:
                if check.step == number:
                    stated[step.left, step.sign, step.right].append((check.char, check.stated))
        if any(trigger.restated is not None for trigger in truth.triggers):
            continue  # a repair may spell the expression out or not
        expected = sum(
            a != b
            for values in stated.values()
            for (_, a), (_, b) in zip(sorted(values), sorted(values)[1:], strict=False)
        )
        assert len(restated_values(document.reasoning)) == expected, document.reasoning
        seen += expected
    assert seen > 0 or difficulty == "easy"


@pytest.mark.timeout(120)  # for a hang: linear takes a second, quadratic minutes
def test_a_text_that_loops_does_not_hang():
    assert restated_values("1 + " * 20_000) == ()
    assert restated_values("1" * 20_000 + "+1" * 20_000) == ()
    assert restated_values("12 + 3 = " * 10_000) == ()
