"""Prompts and problems refuse what would quietly make an experiment meaningless."""

import numpy as np
import pytest

from backtracking.core.errors import InputError
from backtracking.core.given import whole
from backtracking.core.problems import Problem, check_problems
from backtracking.core.prompts import VARIANTS, Prompting, Variant


def test_the_variants_of_the_seeds_differ():
    assert [v.name for v in VARIANTS] == ["baseline_think_newline", "think_same_line", "no_think_tags"]
    assert len({v.think_open for v in VARIANTS}) == 3
    assert [v.opens_thinking for v in VARIANTS] == [True, True, False]


def test_two_variants_that_are_one_prompt_are_refused():
    with pytest.raises(InputError, match="'a' and 'b' are the same prompt"):
        Prompting(variants=(Variant("a", "<think>"), Variant("b", "<think>")))


def test_a_template_needs_the_question_and_keeps_its_braces():
    with pytest.raises(InputError, match=r"no \{question\}"):
        Prompting(template="Solve it.")
    assert Prompting(template="{x} {question}").message("a {b} {question}") == "{x} a {b} {question}"


def test_problem_sets_are_checked():
    with pytest.raises(InputError, match="empty"):
        check_problems([])
    with pytest.raises(InputError, match="empty question"):
        Problem(1, "  ", "3")
    with pytest.raises(InputError, match="empty gold"):
        Problem(1, "a", "")
    with pytest.raises(InputError, match="two problems have the id"):
        check_problems([Problem(1, "a", "1"), Problem("1", "b", "2")])


@pytest.mark.parametrize("given", [Problem("a", "question", "1"), "question", ["question"], [None], None, 3])
def test_what_is_no_list_of_problems_is_named(given):
    with pytest.raises(InputError, match="a list of Problem, as load_problems makes one"):
        check_problems(given)
    listed = [Problem("a", "question", "1"), Problem("b", "question", "2")]
    assert check_problems(each for each in listed) == tuple(listed)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (1.5, "samples is 1.5; give a whole number"),
        ("2", "samples is '2'; give"),
        (None, "give"),
        (True, "is True; give"),
        (0, "is 0; at least 1"),
    ],
)
def test_a_number_that_is_not_whole_is_named(given, said):
    assert whole("samples", np.int64(3)) == 3
    with pytest.raises(InputError, match=said):
        whole("samples", given)
