"""Baseline metrics: never pooled, and not deceived by which problems make a model backtrack."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.contingency_tables import StratifiedTable

from backtracking.core.errors import InputError
from backtracking.core.events import OnsetRow
from backtracking.core.groups import count_groups, within_difference, within_p_value
from backtracking.measures.baseline_metrics import baseline_metrics
from tests.measures.test_conditions import event


def completions(problem: int, *, with_: tuple[int, int], without: tuple[int, int]) -> list:
    """(right, wrong) completions of a problem, with and without backtracking."""
    kinds = [(True, "right")] * with_[0] + [(True, "wrong")] * with_[1]
    kinds += [(False, "right")] * without[0] + [(False, "wrong")] * without[1]
    return [event(problem, s, "baseline", backtracks=b, verdict=v) for s, (b, v) in enumerate(kinds)]


def simpson() -> list:
    """On easy problems the model backtracks often; backtracking costs 20 points on each problem."""
    easy = [row for p in range(10) for row in completions(p, with_=(7, 3), without=(9, 1))[:20]]
    easy += [row for p in range(10, 20) for row in completions(p, with_=(14, 6), without=(1, 0))]
    hard = [row for p in range(20, 40) for row in completions(p, with_=(0, 1), without=(4, 16))]
    return easy + hard


def test_simpsons_paradox_is_seen_through():
    found = baseline_metrics(simpson())
    assert found.crude is not None and found.within is not None
    assert found.crude.low > 0.15
    assert found.within.high < 0
    assert found.within.value == pytest.approx(-0.2, abs=0.03)
    assert found.within_p_value < 0.01
    assert found.informative_problems == 40


def test_the_difference_within_problems_is_the_weighted_mean_by_hand():
    events = completions(0, with_=(1, 1), without=(2, 0)) + completions(1, with_=(1, 0), without=(0, 3))
    events += completions(2, with_=(5, 5), without=(0, 0))
    found = baseline_metrics(events)
    assert found.within.value == pytest.approx((1.0 * -0.5 + 0.75 * 1.0) / 1.75)
    assert (found.informative_problems, found.problems, found.within.clusters, found.within.n) == (2, 3, 2, 8)
    assert found.crude.value == pytest.approx(7 / 13 - 2 / 5)


def strata(outcomes, groups, clusters) -> list[np.ndarray]:
    frame = pd.DataFrame({"o": outcomes, "g": groups, "c": clusters})
    return [
        np.array([[((f.g == g) & (f.o == o)).sum() for o in (True, False)] for g in (True, False)])
        for _, f in frame.groupby("c")
    ]


@pytest.mark.parametrize("effect", [0.0, 0.08, -0.2])
def test_the_test_within_problems_agrees_with_mantel_and_haenszel(effect):
    rng = np.random.default_rng(3)
    hardness = rng.uniform(0.2, 0.8, 60).repeat(6)
    groups = rng.random(360) < hardness
    outcomes = rng.random(360) < hardness + effect * groups
    clusters = np.arange(60).repeat(6)
    counts = count_groups(outcomes.tolist(), groups.tolist(), clusters.tolist())
    expected = StratifiedTable(strata(outcomes, groups, clusters)).test_null_odds(correction=True).pvalue
    assert within_p_value(counts) == pytest.approx(expected, rel=0.1, abs=0.003)
    assert np.sign(within_difference(counts).value) == np.sign(
        StratifiedTable(strata(outcomes, groups, clusters)).logodds_pooled
    )


def test_the_interval_within_problems_covers_a_planted_effect():
    rng = np.random.default_rng(8)
    covered = 0
    for _ in range(200):
        easiness = rng.uniform(0.2, 0.7, 50).repeat(6)
        groups = rng.random(300) < 1 - easiness
        outcomes = rng.random(300) < easiness + 0.15 * groups
        counts = count_groups(outcomes.tolist(), groups.tolist(), np.arange(50).repeat(6).tolist())
        found = within_difference(counts)
        covered += found.low <= 0.15 <= found.high
    assert 0.90 <= covered / 200 <= 0.99


def test_groups_that_are_empty_are_missing_not_zero():
    found = baseline_metrics(
        completions(0, with_=(0, 0), without=(3, 1)) + completions(1, with_=(0, 0), without=(1, 3))
    )
    assert (found.accuracy_with, found.crude, found.within, found.truncated_with) == (None, None, None, None)
    assert np.isnan(found.within_p_value)
    table = found.to_pandas().set_index("quantity")
    assert np.isnan(table.loc["accuracy_with", "value"])
    assert table.loc["accuracy", "value"] == 0.5


def onset(row, index: int, *, counts=True, strict=True) -> OnsetRow:
    return OnsetRow(
        example_id=row.example_id, sample_id=row.sample_id, variant=row.variant, condition=row.condition,
        onset_index=index, marker="Wait", onset_phrase="Wait", onset_char=index, onset_token_in_completion=index,
        onset_token_in_full=index, onset_token_id=1, onset_token_text="Wait", pred_pos_in_full=index - 1,
        strict=strict, in_think=True, context="", counts=counts,
    )  # fmt: skip


def test_accuracy_by_number_of_onsets_counts_only_those_that_count():
    events = completions(0, with_=(1, 2), without=(1, 0)) + completions(1, with_=(0, 1), without=(0, 0))
    rows = [onset(events[0], 0), onset(events[1], 0), onset(events[1], 1), onset(events[2], 0), onset(events[4], 0)]
    rows += [onset(events[4], i) for i in range(1, 6)]
    rows += [onset(events[3], 0, counts=False), onset(events[3], 1, strict=False)]
    dose = baseline_metrics(events, rows).dose
    assert [(d.onsets, d.or_more, d.completions, d.accuracy.value) for d in dose] == [
        (0, False, 1, 1.0), (1, False, 2, 0.5), (2, False, 1, 0.0), (3, True, 1, 0.0),
    ]  # fmt: skip
    assert baseline_metrics(events).dose == ()


def test_truncation_is_shown_for_both_groups():
    events = completions(0, with_=(1, 1), without=(2, 0))
    events[0] = replace(events[0], verdict="truncated", is_correct=False)
    found = baseline_metrics(events)
    assert (found.truncated_with.value, found.truncated_without.value) == (0.5, 0.0)


def test_nothing_is_pooled():
    rows = completions(0, with_=(1, 1), without=(2, 0))
    with pytest.raises(InputError, match="leave out .'mlp27-off'."):
        baseline_metrics([*rows, replace(rows[0], condition="mlp27-off")])
    with pytest.raises(InputError, match="one formatting variant"):
        baseline_metrics([*rows, replace(rows[0], variant="w")])
    with pytest.raises(InputError, match="'baseline' has problem 0, sample 0 twice"):
        baseline_metrics([*rows, rows[0]])
    with pytest.raises(InputError, match="no events"):
        baseline_metrics([])
    with pytest.raises(InputError, match="1 completions with onsets have no event"):
        baseline_metrics(rows, [onset(replace(rows[0], sample_id=99), 0)])
    with pytest.raises(InputError, match="2 outcomes, 1 group labels"):
        count_groups([True, False], [True], [1, 2])
