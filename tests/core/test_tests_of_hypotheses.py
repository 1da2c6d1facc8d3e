"""p-values: exact where they can be, equal to scipy's and statsmodels', and never zero."""

import itertools

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from backtracking.core.errors import InputError
from backtracking.core.multiplicity import benjamini_hochberg, holm
from backtracking.core.null_draws import null_rank
from backtracking.core.statistics import Estimate, non_inferiority, paired_p_value


def by_hand(sums) -> float:
    flips = [
        abs(sum(s * v for s, v in zip(signs, sums, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(sums))
    ]
    return sum(flip >= abs(sum(sums)) - 1e-12 for flip in flips) / len(flips)


@pytest.mark.parametrize("seed", range(5))
def test_the_exact_p_value_is_that_of_listing_all_flips(seed):
    rng = np.random.default_rng(seed)
    arm, reference = rng.random((2, 40)) < [[0.7], [0.4]]
    clusters = np.arange(40) // 4
    sums = [int(arm[clusters == c].sum()) - int(reference[clusters == c].sum()) for c in range(10)]
    found = paired_p_value(arm.tolist(), reference.tolist(), clusters.tolist())
    assert found == pytest.approx(by_hand(sums))


def test_one_sample_per_problem_is_the_sign_test_of_mcnemar():
    arm = [True] * 30 + [False] * 11 + [True] * 25
    reference = [False] * 30 + [True] * 11 + [True] * 25
    expected = stats.binomtest(30, 41).pvalue
    assert paired_p_value(arm, reference, list(range(66))) == pytest.approx(expected)


def test_numbers_that_are_not_whole_are_enumerated_when_few_and_drawn_when_many():
    rng = np.random.default_rng(3)
    few = rng.normal(0.5, 1, 9)
    assert paired_p_value(few.tolist(), [0.0] * 9, list(range(9))) == pytest.approx(by_hand(few.tolist()))
    many = rng.normal(0.25, 1, 60)
    drawn = paired_p_value(many.tolist(), [0.0] * 60, list(range(60)))
    assert drawn == pytest.approx(stats.ttest_1samp(many, 0).pvalue, abs=0.02)
    assert drawn == paired_p_value(many.tolist(), [0.0] * 60, list(range(60)))


def test_swapping_the_arms_changes_no_p_value_and_repeating_rows_adds_no_evidence():
    rng = np.random.default_rng(4)
    arm, reference = (rng.random((2, 30)) < 0.5).tolist()
    once = paired_p_value(arm, reference, list(range(30)))
    assert paired_p_value(reference, arm, list(range(30))) == pytest.approx(once)
    assert paired_p_value(arm * 20, reference * 20, list(range(30)) * 20) == pytest.approx(once)


def test_large_studies_stay_exact_and_bounded():
    strong = paired_p_value([True] * 1000, [False] * 1000, list(range(1000)))
    assert 0 <= strong < 1e-200
    assert paired_p_value([True, False], [True, False], [1, 2]) == 1.0
    assert paired_p_value([True] * 3, [False] * 3, [1, 2, 3]) == pytest.approx(2 ** (1 - 3))


def test_pairs_that_are_none_are_refused():
    with pytest.raises(InputError, match="cannot pair 1 rows with 2"):
        paired_p_value([True], [True, False], [1])
    with pytest.raises(InputError, match="1 pairs are not finite"):
        paired_p_value([1.0, float("nan")], [0.0, 0.0], [1, 2])


P_VALUES = [0.011, 0.02, float("nan"), 0.04, 0.0049, 0.9]


@pytest.mark.parametrize(("adjust", "method"), [(holm, "holm"), (benjamini_hochberg, "fdr_bh")])
def test_missing_p_values_stay_missing_and_are_not_counted(adjust, method):
    present = [p for p in P_VALUES if p == p]
    adjusted = adjust(P_VALUES)
    assert np.isnan(adjusted[2])
    assert [p for p in adjusted if p == p] == pytest.approx(multipletests(present, method=method)[1].tolist())
    assert np.isnan(adjust([float("nan")])[0])
    assert adjust([]) == ()
    with pytest.raises(InputError, match="1.2 is no p-value"):
        adjust([0.1, 1.2])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-0.04, 0.02, "non-inferior"), (-0.2, -0.06, "inferior"), (-0.06, 0.01, "undecided"), (-0.05, 0, "undecided"),
     (float("nan"), float("nan"), "undecided")],
)  # fmt: skip
def test_non_inferiority_reads_the_interval_against_the_margin(low, high, verdict):
    assert non_inferiority(Estimate((low + high) / 2, low, high, 100, 25), 0.05) == verdict


def test_a_margin_is_a_share():
    with pytest.raises(InputError, match="the margin is 5"):
        non_inferiority(Estimate(0, -0.1, 0.1, 100, 25), 5)


def test_an_effect_is_ranked_among_its_draws():
    draws = [i / 100 for i in range(-10, 11) if i]
    found = null_rank(-0.3, draws)
    assert (found.p_value, found.as_extreme, found.draws) == (1 / 21, 0, 20)
    assert (found.low, found.high) == pytest.approx(np.percentile(draws, [2.5, 97.5]).tolist())
    assert null_rank(-0.1, draws).p_value == 3 / 21
    assert null_rank(-0.1, draws, side="less").p_value == 2 / 21
    assert null_rank(-0.1, draws, side="greater").p_value == 1.0


@pytest.mark.parametrize("sign", [1, -1])
def test_draws_that_go_as_far_the_same_way_are_counted_apart(sign):
    draws = sign * np.array([0.4] * 5 + [-0.3, -0.35] + [-0.29] * 13)
    found = null_rank(sign * -0.3, draws.tolist())
    assert (found.as_extreme, found.same_direction, found.p_value) == (7, 2, 8 / 21)
    assert null_rank(sign * 0.3, draws.tolist()).same_direction == 5
    assert null_rank(0.0, draws.tolist()).same_direction == 20


def test_a_rank_among_exchangeable_draws_is_uniform():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4000, 40))
    p_values = [null_rank(row[0], row[1:].tolist()).p_value for row in values]
    assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.05, abs=0.015)


def test_one_draw_is_no_null_distribution():
    with pytest.raises(InputError, match="1 random draws.*at least 20"):
        null_rank(-0.3, [0.1])
    assert null_rank(-0.3, [0.1], minimum=1).p_value == 0.5
    with pytest.raises(InputError, match="not finite"):
        null_rank(float("nan"), [0.1] * 20)
