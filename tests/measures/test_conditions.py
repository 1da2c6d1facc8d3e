"""Comparing conditions: never pooled, paired by sample key, and flagged when parsing differs."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from backtracking.core.errors import InputError
from backtracking.core.events import Event
from backtracking.core.multiplicity import holm
from backtracking.core.statistics import paired_p_value
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
    with pytest.raises(InputError, match="margin is 5"):
        compare_conditions(events, margin=5)


def test_the_table_names_value_low_and_high():
    frame = compare_conditions(study(baseline=(8, 6, "wrong"), off=(2, 3, "wrong"))).to_pandas()
    assert {"backtracking", "backtracking_low", "backtracking_high", "right_low", "mean_tokens"} <= set(frame.columns)


def test_ablated_rows_pooled_into_the_baseline_are_refused():
    events = study(baseline=(8, 6, "wrong"), off=(2, 3, "wrong"))
    relabelled = [replace(row, condition="baseline") for row in events if row.condition == "off"]
    with pytest.raises(InputError, match="'baseline' has problem 0, sample 0 twice"):
        compare_conditions([*events, *relabelled])
    with pytest.raises(InputError, match="'baseline' has problem 0, sample 0 twice"):
        compare_conditions([*events[:20], *relabelled])


def random_study(seed: int, **rates) -> list[Event]:
    """Arms by name: (share that backtracks, share that is right), independent draws of 40 problems by 3."""
    rng = np.random.default_rng(seed)
    return [
        event(p, s, name, backtracks=bool(rng.random() < b), verdict="right" if rng.random() < r else "wrong")
        for name, (b, r) in rates.items()
        for p in range(40)
        for s in range(3)
    ]


ARMS = {"baseline": (0.7, 0.5), "off": (0.3, 0.5), "random": (0.68, 0.5), "broken": (0.5, 0.1)}


def test_p_values_are_sign_flips_by_problem_and_holm_is_over_the_sweep():
    events = random_study(1, **ARMS)
    paired = compare_conditions(events).paired
    arms = {name: [e for e in events if e.condition == name] for name in ARMS}
    for row in paired:
        sums = [
            sum(int(a.has_backtracking_strict) - int(b.has_backtracking_strict)
                for a, b in zip(arms[row.condition], arms["baseline"], strict=True) if a.example_id == p)
            for p in range(40)
        ]  # fmt: skip
        drawn = stats.permutation_test(
            (np.array(sums),), np.sum, permutation_type="samples", n_resamples=4000, rng=np.random.default_rng(0)
        )
        assert row.backtracking_p == pytest.approx(drawn.pvalue, abs=0.02)
        right = [[e.is_correct for e in arms[name]] for name in (row.condition, "baseline")]
        assert row.accuracy_p == paired_p_value(*right, [e.example_id for e in arms["baseline"]])
    assert tuple(row.backtracking_p_holm for row in paired) == holm([row.backtracking_p for row in paired])
    assert tuple(row.accuracy_p_holm for row in paired) == holm([row.accuracy_p for row in paired])
    found = {row.condition: row for row in paired}
    assert found["off"].backtracking_p_holm < 0.001 < 0.05 < found["random"].backtracking_p_holm
    assert found["broken"].accuracy.value < 0 and found["broken"].accuracy_p_holm < 0.001


def test_identical_arms_differ_by_nothing():
    events = random_study(2, baseline=(0.5, 0.5))
    row = compare_conditions([*events, *(replace(e, condition="same") for e in events)]).paired[0]
    assert (row.backtracking.value, row.accuracy.value) == (0, 0)
    assert (row.backtracking_p, row.backtracking_p_holm, row.accuracy_p, row.accuracy_p_holm) == (1, 1, 1, 1)


def test_relabelling_conditions_permutes_rows():
    events = random_study(3, **ARMS)
    swap = {"off": "broken", "broken": "off"}
    one = compare_conditions(events)
    other = compare_conditions([replace(e, condition=swap.get(e.condition, e.condition)) for e in events])
    by_name = {row.condition: row for row in other.paired}
    for row in one.paired:
        name = swap.get(row.condition, row.condition)
        assert by_name[name] == replace(row, condition=name)


def test_accuracy_is_judged_against_the_stated_margin():
    events = random_study(4, baseline=(0.7, 0.5), near=(0.5, 0.5), broken=(0.5, 0.02))
    wide = {row.condition: row for row in compare_conditions(events, margin=0.2).paired}
    assert (wide["near"].non_inferior, wide["broken"].non_inferior) == ("non-inferior", "inferior")
    narrow = {row.condition: row for row in compare_conditions(events, margin=0.01).paired}
    assert (narrow["near"].non_inferior, narrow["near"].margin) == ("undecided", 0.01)
    cut = [replace(e, verdict="truncated") if e.condition == "near" and not e.is_correct else e for e in events]
    assert compare_conditions(cut, margin=0.2).paired[0].non_inferior == "flagged"


def test_the_columns_of_the_tables_stand_and_new_ones_follow():
    found = compare_conditions(study(baseline=(8, 6, "wrong"), off=(2, 3, "wrong")))

    def shares(*names):
        return [f"{name}{end}" for name in names for end in ("", "_low", "_high")]

    assert list(found.to_pandas().columns) == [
        "condition", "completions", "problems",
        *shares("backtracking", "right", "wrong", "unparsed", "truncated", "degenerate"), "mean_tokens",
    ]  # fmt: skip
    assert list(found.paired_to_pandas().columns) == [
        "condition", "pairs", *shares("backtracking", "accuracy", "unparsed", "truncated"), "accuracy_flag",
        "backtracking_p", "backtracking_p_holm", "accuracy_p", "accuracy_p_holm", "non_inferior", "margin",
    ]  # fmt: skip


def test_each_problem_is_counted_by_itself():
    events = random_study(5, baseline=(0.7, 0.5), off=(0.3, 0.5))
    found = compare_conditions(events)
    for row in found.rows:
        own = [r for r in found.by_problem if r.condition == row.condition]
        assert sum(r.completions for r in own) == row.completions
        assert sum(r.backtracking for r in own) / row.completions == row.backtracking.value
        assert sum(r.right for r in own) / row.completions == row.right.value
