"""The clustered mean: scipy's bootstrap of cluster means, and nothing claimed where nothing varies."""

import numpy as np
import pytest
from scipy import stats

from backtracking.core.clustered_means import clustered_average
from backtracking.core.errors import InputError


def test_with_one_value_a_cluster_it_is_about_the_t_interval():
    values = np.random.default_rng(0).normal(200, 40, 50)
    found = clustered_average(values.tolist(), list(range(50)))
    expected = stats.t.interval(0.95, 49, values.mean(), stats.sem(values))
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(expected, abs=2)


def test_repeating_rows_adds_no_certainty():
    values = np.random.default_rng(1).normal(10, 3, 20).tolist()
    once, thrice = clustered_average(values, list(range(20))), clustered_average(values * 3, list(range(20)) * 3)
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))
    assert (thrice.n, thrice.clusters) == (60, 20)


def test_without_spread_the_ends_are_missing():
    for clusters in ([1, 2], [1, 1]):
        found = clustered_average([7, 7], clusters)
        assert found.value == 7 and np.isnan([found.low, found.high]).all()
    with pytest.raises(InputError, match="1 values are not finite"):
        clustered_average([1.0, float("nan")], [1, 2])
    with pytest.raises(InputError, match="no observations"):
        clustered_average([], [])
    with pytest.raises(InputError, match="1 values, but 2"):
        clustered_average([1.0], [1, 2])
