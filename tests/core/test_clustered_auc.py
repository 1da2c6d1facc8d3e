"""The area under the curve equals scikit-learn's, and its interval resamples whole problems."""

import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from backtracking.core.cluster_intervals import expanded_percentiles, times_drawn
from backtracking.core.clustered_auc import auc, clustered_auc, clustered_auc_difference
from backtracking.core.errors import InputError

RNG = np.random.default_rng(0)
LABELS = np.arange(120) % 3 == 0
SCORES = np.round(RNG.standard_normal(120) + 0.8 * LABELS, 1)  # rounded, so that there are ties
CLUSTERS = [f"p{index // 4}" for index in range(120)]


def test_it_equals_scikit_learns_with_ties():
    found = clustered_auc(SCORES, LABELS, CLUSTERS)
    assert found.value == pytest.approx(roc_auc_score(LABELS, SCORES))
    assert (found.n, found.clusters) == (120, 30)
    assert found.low < found.value < found.high


def test_the_interval_is_that_of_a_loop_over_resampled_problems():
    rng, values = np.random.default_rng(5), []
    rows = {name: [i for i, c in enumerate(CLUSTERS) if c == name] for name in dict.fromkeys(CLUSTERS)}
    names = list(rows)
    for _ in range(600):
        drawn = [i for k in rng.integers(0, len(names), len(names)) for i in rows[names[k]]]
        values.append(roc_auc_score(LABELS[drawn], SCORES[drawn]))
    found = clustered_auc(SCORES, LABELS, CLUSTERS)
    assert (found.low, found.high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.02)


def test_copies_of_a_problem_add_rows_and_no_certainty():
    once = clustered_auc(SCORES, LABELS, CLUSTERS)
    twice = clustered_auc(np.tile(SCORES, 2), np.tile(LABELS, 2), CLUSTERS * 2)
    assert (twice.value, twice.low, twice.high) == pytest.approx((once.value, once.low, once.high))


def test_rows_of_different_strata_are_never_compared():
    folds = [index // 40 for index in range(120)]
    shifted = SCORES + 100 * np.array(folds)
    areas = [roc_auc_score(LABELS[start : start + 40], SCORES[start : start + 40]) for start in (0, 40, 80)]
    weights = [LABELS[start : start + 40].sum() * (~LABELS[start : start + 40]).sum() for start in (0, 40, 80)]
    found = clustered_auc(shifted, LABELS, CLUSTERS, strata=folds)
    assert found.value == pytest.approx(np.average(areas, weights=weights))
    assert found == clustered_auc(SCORES, LABELS, CLUSTERS, strata=folds)


def test_a_score_against_itself_differs_by_nothing_and_against_noise_by_something():
    same = clustered_auc_difference(SCORES, SCORES, LABELS, CLUSTERS)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    noise = np.random.default_rng(9).standard_normal(120)
    assert clustered_auc_difference(SCORES, noise, LABELS, CLUSTERS).low > 0
    opposite = clustered_auc_difference(-SCORES, SCORES, LABELS, CLUSTERS)
    assert opposite.value == pytest.approx(1 - 2 * auc(SCORES, LABELS))


def test_what_has_no_area_is_refused():
    assert np.isnan(auc([1.0, 2.0], [True, True]))
    with pytest.raises(InputError, match="one kind"):
        clustered_auc([1.0, 2.0], [True, True], ["a", "b"])
    with pytest.raises(InputError, match="not finite"):
        clustered_auc([1.0, float("nan")], [True, False], ["a", "b"])
    with pytest.raises(InputError, match="2 scores, 1 labels"):
        clustered_auc([1.0, 2.0], [True], ["a", "b"])


def by_all_pairs(scores, labels, clusters, strata):
    """Area and interval from a table of every true row against every false one."""
    same = strata[labels][:, None] == strata[~labels][None]
    above = (np.sign(scores[labels][:, None] - scores[~labels][None]) / 2 + 0.5) * same
    times = times_drawn(int(clusters.max()) + 1, 0)
    true, false = times[:, clusters[labels]], times[:, clusters[~labels]]
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = ((true @ above) * false).sum(1) / ((true @ same.astype(float)) * false).sum(1)
    ends = expanded_percentiles(drawn[~np.isnan(drawn)], int(clusters.max()) + 1, level=0.95)
    return (above.sum() / same.sum(), *ends)


@pytest.mark.parametrize(("problems", "strata"), [(7, 1), (40, 5), (1100, 1), (1100, 4)])
def test_it_is_that_of_every_pair_counted_by_itself(problems, strata):
    rng = np.random.default_rng(problems + strata)
    clusters = np.concatenate([np.arange(problems), rng.integers(0, problems, 200)])
    labels, layers = rng.random(len(clusters)) < 0.3, rng.integers(0, strata, len(clusters))
    scores = np.round(rng.standard_normal(len(clusters)) + labels, 1)
    found = clustered_auc(scores, labels, clusters.tolist(), strata=layers.tolist())
    expected = by_all_pairs(scores, labels, clusters, layers)
    assert (found.value, found.low, found.high) == pytest.approx(expected, abs=1e-12)


def test_memory_does_not_grow_with_the_number_of_pairs():
    """A table of all pairs of these rows would take 800 MB."""
    rng = np.random.default_rng(1)
    labels, clusters = np.arange(20_000) % 2 == 0, rng.integers(0, 50, 20_000).tolist()
    clustered_auc([0.0, 1.0], [True, False], [0, 1])  # what is loaded once is no part of it
    tracemalloc.start()
    found = clustered_auc(rng.standard_normal(20_000) + labels, labels, clusters)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.low > 0.7 and peak < 100 * 2**20
