"""Comparing conditions: never pooled, paired by sample key, and flagged when parsing differs."""

from dataclasses import replace

import pytest

from backtracking.core.errors import InputError
from backtracking.core.events import Event
from backtracking.measures.conditions import compare_conditions


def event(problem: int, sample: int, condition: str, *, backtracks=False, verdict="right") -> Event:
    return Event(
        example_id=problem, sample_id=sample, variant="v", condition=condition, has_backtracking_strict=backtracks,
        has_backtracking_relaxed=backtracks, onset_phrase=None, onset_char=None, onset_token_in_completion=None,
        onset_token_in_full=None, onset_token_id=None, onset_token_text=None, pred_pos_in_full=None,
        predicted_answer=None, is_correct=verdict == "right", prompt_tokens=3, completion_tokens=10,
        finish_reason="stop", verdict=verdict, degenerate=False, onset_index=None, in_think=None,
    )  # fmt: skip


def study(**arms) -> list[Event]:
    """Arms by name: (share of problems that backtrack, verdict of the others than the right ones)."""
    return [
        event(p, s, name, backtracks=p < backtrack, verdict="right" if p < right else other)
        for name, (backtrack, right, other) in arms.items()
        for p in range(10)
        for s in range(2)
    ]


def test_each_condition_has_its_own_rates():
    found = compare_conditions(study(baseline=(8, 6, "wrong"), off=(2, 3, "unparsed")))
    assert [(r.condition, r.completions, r.problems) for r in found.rows] == [("baseline", 20, 10), ("off", 20, 10)]
    assert [r.backtracking.value for r in found.rows] == [0.8, 0.2]
    assert [found.row("off").right.value, found.row("off").unparsed.value] == [0.3, 0.7]
    for row in found.rows:
        assert sum(e.value for e in (row.right, row.wrong, row.unparsed, row.truncated)) == pytest.approx(1)


def test_differences_are_condition_minus_baseline():
    paired = compare_conditions(study(baseline=(8, 6, "wrong"), off=(2, 3, "wrong"))).paired
    assert [row.condition for row in paired] == ["off"]
    assert paired[0].backtracking.value == pytest.approx(-0.6)
    assert paired[0].accuracy.value == pytest.approx(-0.3)
    assert paired[0].backtracking.high < 0
    assert paired[0].accuracy_flag == ""


def test_accuracy_is_flagged_where_parsing_or_truncation_differs():
    for other in ("unparsed", "truncated"):
        row = compare_conditions(study(baseline=(8, 6, "wrong"), off=(2, 3, other))).paired[0]
        assert row.accuracy_flag == f"{other} share differs by +70.0 points"


def test_permuting_the_events_changes_nothing():
    events = study(baseline=(8, 6, "wrong"), off=(2, 3, "wrong"))
    shuffled = [*events[:20][::-1], *events[20:][::-1]]
    one, other = compare_conditions(events), compare_conditions(shuffled)
    assert one.paired[0].backtracking.value == pytest.approx(other.paired[0].backtracking.value)
    assert [r.right.value for r in one.rows] == [r.right.value for r in other.rows]


def test_what_cannot_be_compared_is_refused():
    events = study(baseline=(8, 6, "wrong"), off=(2, 3, "wrong"))
    with pytest.raises(InputError, match="no events"):
        compare_conditions([])
    with pytest.raises(InputError, match="do not hold the same sample keys"):
        compare_conditions(events[:-1])
    with pytest.raises(InputError, match="within one variant"):
        compare_conditions([*events, replace(events[0], variant="w")])


def test_the_table_names_value_low_and_high():
    frame = compare_conditions(study(baseline=(8, 6, "wrong"), off=(2, 3, "wrong"))).to_pandas()
    assert {"backtracking", "backtracking_low", "backtracking_high", "right_low", "mean_tokens"} <= set(frame.columns)
