"""Sentences of the first screen, from intervals alone."""

import math
from dataclasses import replace

import pytest

from backtracking.core.statistics import Estimate
from backtracking.faces.phase_findings import among_draws, word_and_correction
from backtracking.faces.report_content import points
from backtracking.measures.conditions import compare_conditions
from backtracking.measures.random_draws import targeted_against_random
from tests.measures.test_conditions import random_study


def difference(value: float, width: float = 0.05) -> Estimate:
    return Estimate(value, value - width, value + width, 240, 60)


@pytest.mark.parametrize(
    ("word", "silent", "said"),
    [
        (-0.275, 0.3375, "The word goes, the correction stays"),
        (-0.275, 0.1375, "The word goes, the correction stays"),
        (-0.275, 0.1, "The word goes, part of the correction stays"),
        (-0.275, 0.01, "The word goes, and corrections without it are not shown to change"),
        (-0.275, -0.1, "The word goes, and corrections without it become fewer too"),
        (-0.01, 0.1, "The word is not shown to go, and corrections without it become more"),
        (0.2, -0.1, "The word is not shown to go, and corrections without it become fewer"),
        (0.2, 0.0, "The word is not shown to go, and corrections without it are not shown to change"),
    ],
)
def test_word_and_correction_are_told_apart(word, silent, said):
    assert word_and_correction(difference(word), difference(silent)) == said


def ranked_sentence(kept: int) -> str:
    """With so many samples of each draw; the targeted condition has two."""
    draws = [f"random {i}" for i in range(20)]
    events = random_study(1, baseline=(0.6, 0.5), off=(0.2, 0.5), **dict.fromkeys(draws, (0.55, 0.5)))
    events = [replace(e, verdict="truncated", is_correct=False) if e.condition in draws[:3] else e for e in events]
    events = [replace(e, degenerate=True) if e.condition == draws[5] else e for e in events]
    whole = compare_conditions([event for event in events if event.condition not in draws])
    first = [event for event in events if event.sample_id < kept]
    found = targeted_against_random(first, targeted="off", draws=draws)
    text = among_draws(found, whole.paired[0], whole.row("baseline"))
    assert ("in the same" in text.partition("up or down")[0]) == (found.targeted.pairs != whole.paired[0].pairs)
    if kept == 1:
        assert found.targeted.backtracking != whole.paired[0].backtracking
        assert f"in the same {found.targeted.pairs} pairs ({points(found.targeted.backtracking)} points)" in text
    return text


def test_the_effect_that_was_ranked_is_printed_where_it_is_another():
    assert (
        "0 of them as far as the selected one or further, up or down (rank p = 0.048), 0 of them in"
        in ranked_sentence(99)
    )
    assert "as far as the selected one in the same" in ranked_sentence(1)


def test_draws_that_break_the_text_are_counted():
    """Three are cut off, and so never right; one loops."""
    assert "3 of the sets cost more than 5 points of accuracy (whole interval)" in ranked_sentence(99)
    assert "under 4 more than 10 % of completions are cut off, have no" in ranked_sentence(99)
    assert "(baseline: 0.0 % without an answer, 0.0 % in a loop)" in ranked_sentence(99)


def test_without_an_interval_nothing_is_shown():
    unknown = Estimate(-1.0, math.nan, math.nan, 4, 1)
    said = "The word is not shown to go, and corrections without it are not shown to change"
    assert word_and_correction(unknown, unknown) == said
