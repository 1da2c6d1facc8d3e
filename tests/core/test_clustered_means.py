"""Many means at once equal the one-at-a-time functions, and the test can find what is there."""

import itertools

import numpy as np
import pytest

from backtracking.core.cluster_intervals import ratio_ends
from backtracking.core.clustered_means import clustered_means, smallest_adjusted
from backtracking.core.errors import InputError
from backtracking.core.statistics import clustered_rate, paired_p_value


def data(clusters=12, per=3, cells=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = [f"p{i}" for i in rng.permutation(np.repeat(np.arange(clusters), per))]
    return rng.normal(size=(clusters * per, cells)) + [0, 0.2, 0.5, 3][:cells], labels


def test_means_equal_rates_whose_intervals_are_never_narrower():
    values, labels = data()
    outcomes = values > 0
    found = clustered_means(outcomes.astype(float), labels)
    for cell in range(3):
        rate = clustered_rate(outcomes[:, cell].tolist(), labels)
        index = [list(dict.fromkeys(labels)).index(label) for label in labels]
        hits, counts = np.bincount(index, weights=outcomes[:, cell]), np.bincount(index).astype(float)
        low, high = ratio_ends(hits, counts, seed=0, level=0.95)
        assert (found.value[cell], found.low[cell], found.high[cell]) == pytest.approx((rate.value, low, high))
        assert rate.low <= low and high <= rate.high
    assert (found.n, found.clusters) == (36, 12)


def test_few_problems_are_tested_by_every_flip():
    values, labels = data(clusters=9)
    found = clustered_means(values, labels)
    sums = np.array([values[[label == name for label in labels]].sum(0) for name in sorted(set(labels))])
    flips = np.array([np.abs(np.array(s) @ sums) for s in itertools.product((-1, 1), repeat=9)])
    np.testing.assert_allclose(found.p_value, (flips >= np.abs(sums.sum(0)) - 1e-9).mean(0))
    assert found.smallest_p == pytest.approx(2 / 2**9)
    assert found.p_value[3] == pytest.approx(found.smallest_p)


def test_many_problems_agree_with_the_one_at_a_time_test():
    values, labels = data(clusters=40)
    found = clustered_means(values, labels, draws=40_000)
    for cell in range(4):
        expected = paired_p_value(values[:, cell].tolist(), [0.0] * len(values), labels, draws=40_000)
        assert found.p_value[cell] == pytest.approx(expected, abs=0.01)
    assert found.p_value[3] == found.smallest_p == 1 / 40_001


def test_one_finding_among_many_cells_can_survive_adjustment():
    values = np.random.default_rng(0).normal(size=(60, 300))
    values[:, 7] += 5
    found = clustered_means(values, list(range(60)))
    assert smallest_adjusted(found.smallest_p, 300) < 0.05
    assert found.p_value[7] == found.smallest_p


def test_p_values_of_nothing_are_uniform():
    """Whole clusters flip: values that repeat within a problem are no more evidence than one."""
    rng = np.random.default_rng(1)
    values = np.repeat(rng.normal(size=(20, 500)), 5, axis=0)
    p = clustered_means(values, np.repeat(np.arange(20), 5).tolist(), draws=4000).p_value
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.03)


def test_edges():
    values, labels = data()
    zero = clustered_means(np.zeros((36, 1)), labels)
    assert (zero.value[0], zero.low[0], zero.high[0], zero.p_value[0]) == (0, 0, 0, 1)
    one = clustered_means(values, ["p"] * 36)
    assert np.isnan(one.low).all() and (one.p_value == 1).all()
    none = clustered_means(np.zeros((0, 2)), [])
    assert np.isnan(none.value).all() and np.isnan(none.p_value).all() and none.n == 0
    values[0, 0] = np.inf
    with pytest.raises(InputError, match="1 values are not finite"):
        clustered_means(values, labels)
    with pytest.raises(InputError, match="2 cluster labels"):
        clustered_means(values, ["a", "b"])
