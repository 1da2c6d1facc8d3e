"""Differences of shares of different counts: equal to the plain ones where counts are one, and blind to nothing."""

import numpy as np
import pytest

from backtracking.core.errors import InputError
from backtracking.core.paired_shares import Counted, paired_share_difference
from backtracking.core.statistics import paired_difference, paired_p_value

RNG = np.random.default_rng(2)
CLUSTERS = [index // 3 for index in range(90)]
ARM = (RNG.random(90) < 0.6).tolist()
REFERENCE = (RNG.random(90) < 0.4).tolist()


def ones(outcomes):
    return [Counted(int(hit), 1) for hit in outcomes]


def test_with_counts_of_one_it_is_the_paired_difference():
    found = paired_share_difference(ones(ARM), ones(REFERENCE), CLUSTERS)
    expected = paired_difference(ARM, REFERENCE, CLUSTERS)
    assert found.change.value == pytest.approx(expected.value)
    assert (found.change.low, found.change.high) == pytest.approx((expected.low, expected.high))
    assert found.p == pytest.approx(paired_p_value(ARM, REFERENCE, CLUSTERS), abs=0.01)


def test_a_share_weighs_counts_and_not_completions():
    found = paired_share_difference([Counted(1, 1), Counted(0, 3)], [Counted(1, 2), Counted(0, 0)], ["a", "b"])
    assert found.change.value == pytest.approx(1 / 4 - 1 / 2)


def test_if_the_arms_are_exchangeable_small_p_values_are_as_rare_as_they_should_be():
    rng, below = np.random.default_rng(0), 0
    for trial in range(200):
        rate = rng.random(12)
        arms = [[Counted(int(rng.binomial(4, r)), 4) for r in rate] for _ in range(2)]
        below += paired_share_difference(arms[0], arms[1], list(range(12)), seed=trial % 2).p <= 0.1
    assert below <= 32  # 20 expected; beyond 32 lies less than one chance in 200


def test_the_same_arm_twice_differs_by_nothing():
    found = paired_share_difference(ones(ARM), ones(ARM), CLUSTERS)
    assert (found.change.value, found.p) == (0, 1)


def test_a_share_of_nothing_is_missing():
    found = paired_share_difference([Counted(0, 0)] * 2, [Counted(1, 1)] * 2, [1, 2])
    assert np.isnan(found.change.value) and np.isnan(found.p) and np.isnan(found.change.low)
    with pytest.raises(InputError, match="cannot pair 1 rows with 2"):
        paired_share_difference([Counted(0, 1)], [Counted(0, 1)] * 2, [1])
