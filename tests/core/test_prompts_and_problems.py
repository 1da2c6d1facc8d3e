"""Prompts and problems refuse what would quietly make an experiment meaningless."""

import pytest

from backtracking.core.errors import InputError
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
