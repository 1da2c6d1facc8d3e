"""Intervals: they cover what they claim, know their clusters, and refuse nothing at all."""

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from backtracking.core import cluster_intervals, statistics
from backtracking.core.degeneration import ends_in_a_loop
from backtracking.core.errors import InputError
from backtracking.core.groups import count_groups, crude_difference
from backtracking.core.paired_shares import Counted, paired_share_difference
from backtracking.core.statistics import clustered_rate, paired_difference


def test_a_rate_is_the_share_and_lies_in_its_interval():
    rate = clustered_rate([True, False, False, True, True, True], ["a", "a", "b", "b", "c", "c"])
    assert rate.value == pytest.approx(4 / 6)
    assert rate.low <= rate.value <= rate.high
    assert (rate.n, rate.clusters) == (6, 3)


def test_where_all_agree_the_interval_is_clopper_pearsons_over_clusters():
    none = clustered_rate([False] * 40, list(range(20)) * 2)
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 20))
    all_of_them = clustered_rate([True] * 40, list(range(20)) * 2)
    assert all_of_them.low == pytest.approx(0.025 ** (1 / 20))


def test_repeating_every_row_of_a_cluster_adds_no_certainty():
    outcomes = [True, False, False, True, True, False, False, False, True, True]
    once = clustered_rate(outcomes, list(range(10)))
    often = clustered_rate(outcomes * 50, list(range(10)) * 50)
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


def test_order_does_not_matter():
    rng = np.random.default_rng(1)
    outcomes, clusters = rng.random(60) < 0.4, rng.integers(0, 12, 60)
    clusters[:12] = range(12)
    shuffled = rng.permutation(60)
    shuffled = np.concatenate([np.arange(12), shuffled[shuffled >= 12]])
    one = clustered_rate(outcomes.tolist(), clusters.tolist())
    other = clustered_rate(outcomes[shuffled].tolist(), clusters[shuffled].tolist())
    assert (one.low, one.high) == pytest.approx((other.low, other.high))


@pytest.mark.parametrize("problems", [20, 60])
def test_intervals_of_correlated_samples_cover_the_truth(problems):
    """Problem-level rates are Beta(1.5, 2.5) (mean 0.375), four samples each."""
    rng = np.random.default_rng(0)
    studies, covered = 400, 0
    for _ in range(studies):
        rates = rng.beta(1.5, 2.5, problems).repeat(4)
        found = clustered_rate((rng.random(len(rates)) < rates).tolist(), np.arange(problems).repeat(4).tolist())
        covered += found.low <= 0.375 <= found.high
    assert 0.92 <= covered / studies <= 0.98


def test_a_paired_difference_has_a_sign_and_is_never_surer_than_its_problems():
    more = paired_difference([True, True, True, False], [True, False, False, False], [1, 1, 2, 2])
    assert more.value == pytest.approx(0.5)
    same = paired_difference([True, False], [True, False], [1, 2])
    unseen = 1 - 0.025**0.5
    assert (same.value, same.low, same.high) == pytest.approx((0, -unseen, unseen))
    wider = paired_difference([True, False] * 10, [True, False] * 10, list(range(20)))
    assert 0 < wider.high < same.high
    all_of_them = paired_difference([True] * 20, [False] * 20, list(range(20)))
    assert (all_of_them.value, all_of_them.high) == (1, 1)
    assert all_of_them.low == pytest.approx(0.025 ** (1 / 20))


def test_nothing_and_mismatches_are_refused():
    with pytest.raises(InputError, match="no observations"):
        clustered_rate([], [])
    with pytest.raises(InputError, match="2 values, but 1 cluster"):
        clustered_rate([True, False], [1])
    with pytest.raises(InputError, match="cannot pair 1 rows with 2"):
        paired_difference([True], [True, False], [1])
    assert np.isnan(clustered_rate([True, False], [1, 1]).low)


def test_loops_are_told_from_repetition():
    assert ends_in_a_loop([1, 2, 3] * 30)
    assert ends_in_a_loop([9, 8, 7] + [4] * 64)
    assert not ends_in_a_loop([4] * 63)
    assert not ends_in_a_loop([1, 2, 3] * 30 + [5])
    assert not ends_in_a_loop(list(range(60)) * 3)
    assert ends_in_a_loop(list(range(60)) * 4)
    assert not ends_in_a_loop(list(range(500)))
    assert not ends_in_a_loop([])


def test_with_many_problems_the_interval_is_where_the_bootstrap_tends_to():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 12, cluster_intervals.MOST_RESAMPLED + 1)
    hits = rng.binomial(counts, rng.beta(2, 3, len(counts)))
    many = statistics.clustered_share(hits.tolist(), counts.tolist())
    resampled = cluster_intervals.ratio_ends(hits[:-1].astype(float), counts[:-1].astype(float), seed=0, level=0.95)
    assert many.high - many.low == pytest.approx(resampled[1] - resampled[0], rel=0.05)
    assert many.low == pytest.approx(resampled[0], abs=0.001)


def test_with_many_problems_the_flips_are_normal():
    rng = np.random.default_rng(1)
    sums = rng.integers(-9, 10, 4 * statistics.MANY_FLIPS).astype(float)
    sums[: 4 * statistics.MANY_FLIPS // 40] += 3
    sums = sums[sums != 0]
    assert np.abs(sums).sum() > statistics.LARGEST_EXACT
    exact = statistics._exact_flip_p(np.abs(sums).astype(int), int(abs(sums.sum())))
    assert 1e-6 < exact < 0.5
    assert statistics.flip_p_value(sums.tolist()) == pytest.approx(exact, rel=0.05)


def test_no_interval_is_without_width():
    alike = clustered_rate([True, False] * 10, [number // 2 for number in range(20)])
    assert alike.low < 0.5 < alike.high
    crude = crude_difference(count_groups([True] * 2 + [False] * 2, [True] * 2 + [False] * 2, [0, 1, 0, 1]))
    assert crude is not None and (crude.value, crude.high) == (1.0, 1.0) and crude.low < 0.5
    shares = paired_share_difference([Counted(1, 1)] * 2, [Counted(0, 1)] * 2, [0, 1]).change
    assert (shares.value, shares.high) == (1.0, 1.0) and shares.low < 0.5


def test_the_first_hits_make_no_interval_much_narrower_than_none_does():
    """10 problems of 10 samples; from percentiles alone the upper end would fall from 31 to 4 %."""
    highs = [clustered_rate([n < hits for n in range(100)], [n % 10 for n in range(100)]).high for hits in range(4)]
    assert all(high > highs[0] / 3 for high in highs)


@pytest.mark.parametrize(("problems", "samples", "rate"), [(3, 8, 0.4), (60, 4, 0.03), (40, 8, 0.03), (20, 8, 0.1)])
def test_few_problems_and_rare_outcomes_are_covered(problems, samples, rate):
    """Of rates that differ between problems (beta, correlation 0.3); percentiles alone cover 75 to 93 % of these."""
    rng = np.random.default_rng(0)
    a, b = rate / 0.3 * 0.7, (1 - rate) / 0.3 * 0.7
    hits = rng.binomial(samples, rng.beta(a, b, (250, problems)))
    found = [statistics.clustered_share(row.tolist(), [samples] * problems) for row in hits.astype(float)]
    assert np.mean([each.low <= rate <= each.high for each in found]) > 0.93


@pytest.mark.parametrize("problems", [20, 40])
def test_an_arm_that_loses_the_margin_is_seldom_called_non_inferior(problems):
    """Losses alone, 5 points of them, correlated in a problem: nominally 2.5 %, percentiles alone 8 to 10 %."""
    rng = np.random.default_rng(1)
    losses = rng.binomial(8, rng.beta(0.1, 1.9, (250, problems)))
    found = [statistics.clustered_mean((-row).tolist(), [8] * problems, n=8 * problems) for row in losses.astype(float)]
    assert np.mean([statistics.non_inferiority(each, 0.05) == "non-inferior" for each in found]) < 0.065


def test_of_single_samples_an_interval_is_about_wilsons():
    """One sample a problem: the problems are independent observations."""
    outcomes = [True] * 12 + [False] * 88
    low, high = proportion_confint(12, 100, method="wilson")
    found = clustered_rate(outcomes, list(range(100)))
    assert found.high == pytest.approx(high, abs=0.01) and found.low == pytest.approx(low, abs=0.01)


def test_an_interval_is_no_wider_than_if_problems_were_single_rows():
    """Samples of one problem that are all alike still say as much as one row."""
    hits = np.zeros(60)
    hits[0] = 4
    low, high = cluster_intervals.share_ends(hits, np.full(60, 4.0), seed=0, level=0.95)
    single = proportion_confint(1, 60, method="wilson")
    assert low >= 0 and high == pytest.approx(single[1])
    lost, _ = cluster_intervals.difference_ends(-hits, np.full(60, 4.0), seed=0, level=0.95)
    assert lost == pytest.approx(-single[1], abs=1e-6)
