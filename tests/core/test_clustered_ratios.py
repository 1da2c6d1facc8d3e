"""A clustered ratio is a share where it must be one, and has no interval where its denominator may vanish."""

import numpy as np
import pytest

from backtracking.core.clustered_ratios import clustered_ratio
from backtracking.core.errors import InputError
from backtracking.core.statistics import clustered_rate


def test_of_counts_it_is_about_the_clustered_rate():
    rng = np.random.default_rng(0)
    clusters = rng.integers(0, 12, 60).tolist()
    outcomes = rng.random(60) < 0.4
    found = clustered_ratio(outcomes.astype(float), np.ones(60), clusters)
    rate = clustered_rate(outcomes.tolist(), clusters)
    assert (found.value, found.n, found.clusters) == (rate.value, rate.n, rate.clusters)
    assert rate.low <= found.low < found.high <= rate.high
    assert found.high - found.low > 0.8 * (rate.high - rate.low)


def test_of_one_and_the_same_it_is_exactly_one():
    values = np.array([1.0, 2.0, 3.0, 0.5])
    found = clustered_ratio(values, values, ["a", "a", "b", "c"])
    assert (found.value, found.low, found.high, found.n, found.clusters) == (1, 1, 1, 4, 3)


def test_the_interval_covers_the_true_ratio():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        bottoms = rng.normal(2, 0.5, 20)
        tops = 0.7 * bottoms + rng.normal(0, 0.5, 20)
        found = clustered_ratio(tops, bottoms, range(20))
        covered += found.low <= 0.7 <= found.high
    assert 180 <= covered <= 200


def test_a_denominator_of_either_sign_has_no_interval():
    found = clustered_ratio(np.ones(4), np.array([5.0, -4.0, 3.0, -1.0]), range(4))
    assert found.value == pytest.approx(4 / 3) and np.isnan([found.low, found.high]).all()
    assert np.isnan(clustered_ratio(np.ones(2), np.ones(2), ["a", "a"]).low)


def test_a_ratio_of_nothing_is_refused():
    with pytest.raises(InputError, match="0 by 0 values"):
        clustered_ratio(np.zeros(0), np.zeros(0), [])
    with pytest.raises(InputError, match="sum to 0"):
        clustered_ratio(np.ones(2), np.array([1.0, -1.0]), [1, 2])
