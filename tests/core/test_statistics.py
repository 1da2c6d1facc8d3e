"""Intervals: they cover what they claim, know their clusters, and refuse nothing at all."""

import numpy as np
import pytest

from backtracking.core import statistics
from backtracking.core.degeneration import ends_in_a_loop
from backtracking.core.errors import InputError
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
    counts = rng.integers(1, 12, statistics.MOST_RESAMPLED + 1)
    hits = rng.binomial(counts, rng.beta(2, 3, len(counts)))
    many = statistics.clustered_share(hits.tolist(), counts.tolist())
    resampled = statistics._bootstrap_interval(hits[:-1].astype(float), counts[:-1].astype(float), seed=0, level=0.95)
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
