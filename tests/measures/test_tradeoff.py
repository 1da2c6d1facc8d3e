"""The trade-off: the best factor is significant and safe, or there is none and the reason is said."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from backtracking.core.errors import InputError
from backtracking.measures.conditions import compare_conditions
from backtracking.measures.tradeoff import tradeoff
from tests.measures.test_conditions import event, random_study

FACTORS = {"half": 0.5, "off": 0.0, "three quarters": 0.75}


def sweep(*, off_right: int = 20) -> list:
    """Backtracking 32, 24, 16, 4 of 40 problems at factors 1, 0.75, 0.5, 0; accuracy falls at 0 alone."""
    arms = {"baseline": (32, 20), "half": (16, 20), "off": (4, off_right), "three quarters": (24, 20)}
    return [
        event(p, s, name, backtracks=p < b, verdict="right" if p % 2 == 0 and p // 2 < r else "wrong")
        for name, (b, r) in arms.items()
        for p in range(40)
        for s in range(2)
    ]


def test_rows_go_by_factor_and_turn_the_sign_of_the_difference():
    comparison = compare_conditions(sweep())
    found = tradeoff(comparison, factors=FACTORS)
    assert [row.factor for row in found.rows] == [0.0, 0.5, 0.75]
    assert [row.reduction.value for row in found.rows] == pytest.approx([28 / 40, 16 / 40, 8 / 40])
    for row in found.rows:
        same = next(each for each in comparison.paired if each.condition == row.condition)
        assert (row.reduction.low, row.reduction.high) == (-same.backtracking.high, -same.backtracking.low)
        assert row.reduction.low > 0


def test_the_best_is_the_largest_reduction_that_keeps_accuracy():
    assert tradeoff(compare_conditions(sweep(), margin=0.1), factors=FACTORS).best == "off"
    costly = tradeoff(compare_conditions(sweep(off_right=4), margin=0.1), factors=FACTORS)
    assert costly.rows[0].non_inferior == "inferior"
    assert costly.best == "half" and "of 2 that keep accuracy within 10 points" in costly.reason


def test_none_is_best_where_none_is_safe_or_none_reduces():
    broken = [replace(e, verdict="unparsed", is_correct=False) if e.condition != "baseline" else e for e in sweep()]
    found = tradeoff(compare_conditions(broken), factors=FACTORS)
    assert found.best is None and "half is flagged" in found.reason
    noise = random_study(0, baseline=(0.5, 0.5), half=(0.5, 0.5), off=(0.5, 0.5))
    found = tradeoff(compare_conditions(noise), factors={"half": 0.5, "off": 0})
    assert found.best is None and "no condition reduces backtracking significantly" in found.reason
    more = random_study(0, baseline=(0.2, 0.5), off=(0.9, 0.5))
    found = tradeoff(compare_conditions(more), factors={"off": 0})
    assert found.best is None and found.rows[0].reduction.high < 0


def test_what_is_said_of_reductions_is_not_of_increases():
    arms = {"baseline": range(16), "half": range(40), "off": range(2, 16)}
    events = [event(p, s, name, backtracks=p in on) for name, on in arms.items() for p in range(40) for s in range(2)]
    found = tradeoff(compare_conditions(events), factors={"half": 0.5, "off": 0})
    fall, rise = found.rows
    assert rise.raises and not fall.raises and rise.reduction_p_holm < fall.reduction_p_holm
    assert found.reason == (
        "no condition reduces backtracking significantly; the smallest adjusted p-value of a reduction is "
        f"{fall.reduction_p_holm:.2g} (off, reduction +5.0 points); "
        f"half raises it by 60.0 points (p = {rise.reduction_p_holm:.2g})"
    )
    alone = tradeoff(compare_conditions([e for e in events if e.condition != "off"]), factors={"half": 0.5})
    assert alone.reason.startswith("no condition reduces backtracking; half raises it by 60.0 points (p = ")
    both = [
        *sweep(),
        *(replace(e, condition="twice", has_backtracking_strict=True) for e in sweep() if e.condition == "baseline"),
    ]
    assert (
        "; twice raises it by 20.0 points" in tradeoff(compare_conditions(both), factors=FACTORS | {"twice": 2}).reason
    )


def test_the_trend_can_be_said():
    rising = tradeoff(compare_conditions(sweep()), factors=FACTORS).trend
    assert str(rising).startswith("trend over 4 factors: rho = +1.00, p = ")
    assert str(rising).endswith("(positive: backtracking rises with the factor)")
    assert "one of factor and backtracking does not vary" in str(replace(rising, rho=float("nan")))


def test_the_trend_agrees_with_scipy():
    rising = compare_conditions(sweep())
    trend = tradeoff(rising, factors=FACTORS).trend
    assert (trend.rho, trend.factors, trend.problems) == (pytest.approx(1), 4, 40)
    assert trend.p_value < 1e-5
    events = random_study(6, baseline=(0.62, 0.5), half=(0.55, 0.5), off=(0.5, 0.5), quarter=(0.6, 0.5))
    factors = {"off": 0.0, "quarter": 0.25, "half": 0.5}
    comparison = compare_conditions(events)
    trend = tradeoff(comparison, factors=factors).trend
    order = ["off", "quarter", "half", "baseline"]
    assert trend.rho == pytest.approx(
        stats.spearmanr([0, 0.25, 0.5, 1], [comparison.row(name).backtracking.value for name in order]).statistic
    )
    counts = {(row.condition, row.problem_id): row.backtracking for row in comparison.by_problem}
    sums = [sum(w * counts[name, p] for w, name in zip((-3, -1, 1, 3), order, strict=True)) for p in range(40)]
    assert trend.p_value == pytest.approx(stats.ttest_1samp(sums, 0).pvalue, abs=0.03)


def test_the_trend_keeps_its_level_where_the_factor_does_nothing():
    comparison = compare_conditions(random_study(0, baseline=(0.5, 0.5), half=(0.5, 0.5), off=(0.5, 0.5)))
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(200):
        shares = rng.random(40)
        rows = tuple(replace(r, backtracking=int(rng.binomial(3, shares[r.problem_id]))) for r in comparison.by_problem)
        drawn = replace(comparison, by_problem=rows)
        hits += tradeoff(drawn, factors={"half": 0.5, "off": 0}).trend.p_value <= 0.05
    assert 1 <= hits <= 19  # 99.7 % of studies with a level of 5 %


def test_identical_arms_have_no_reduction_and_no_trend():
    baseline = [e for e in sweep() if e.condition == "baseline"]
    events = [*baseline, *(replace(e, condition="off") for e in baseline)]
    found = tradeoff(compare_conditions(events), factors={"off": 0})
    assert (found.rows[0].reduction.value, found.rows[0].reduction_p, found.trend.p_value) == (0, 1, 1)
    assert str(found.rows[0].reduction.value) == "0.0"
    assert np.isnan(found.trend.rho)


def test_relabelling_the_conditions_relabels_the_rows():
    swapped = [replace(e, condition={"half": "off", "off": "half"}.get(e.condition, e.condition)) for e in sweep()]
    one = tradeoff(compare_conditions(sweep(), margin=0.1), factors=FACTORS)
    other = tradeoff(compare_conditions(swapped, margin=0.1), factors={"half": 0.0, "off": 0.5, "three quarters": 0.75})
    assert [row.reduction for row in one.rows] == [row.reduction for row in other.rows]
    assert (one.best, other.best) == ("off", "half") and one.trend == other.trend


def test_the_table_marks_the_best():
    table = tradeoff(compare_conditions(sweep(), margin=0.1), factors=FACTORS).to_pandas()
    assert {"factor", "reduction_low", "reduction_p_holm", "accuracy_high", "non_inferior", "margin"} <= set(table)
    assert table.set_index("condition")["best"].to_dict() == {"off": True, "half": False, "three quarters": False}


def test_what_is_no_sweep_is_refused():
    comparison = compare_conditions(sweep())
    for factors, said in [
        ({}, "no factors"),
        ({"quarter": 0.25}, "no condition is called 'quarter'"),
        ({"off": 0.5, "half": 0.5}, "two conditions have the factor 0.5"),
        ({"off": float("nan")}, "factor of 'off' is nan"),
        ({"off": 0.0, "baseline": 0.9}, "baseline's factor is 0.9"),
    ]:
        with pytest.raises(InputError, match=said):
            tradeoff(comparison, factors=factors)
    alone = compare_conditions([e for e in sweep() if e.condition != "baseline"])
    with pytest.raises(InputError, match="sample the baseline too"):
        tradeoff(alone, factors=FACTORS)
