"""Forks: nothing is rescued without the unsteered arm beside it, and pairs are of the same prefix and noise."""

from dataclasses import fields, replace

import numpy as np
import pytest

from backtracking.core.errors import InputError
from backtracking.core.multiplicity import holm
from backtracking.core.statistics import paired_p_value
from backtracking.measures.forks import Fork, compare_forks


def fork(problem: int, sample: int, number: int, arm: str, *, original=False, once=False, later=False, right=True):
    return Fork(
        problem_id=problem, sample_id=sample, fork_sample=number, arm=arm, original_right=original,
        triggers_at_once=once, triggered_again=once or later, triggers_later=later, right=right,
        verdict="right" if right else "wrong", tokens=100 + 10 * problem, degenerate=False,
    )  # fmt: skip


def study(seed: int = 0, **arms) -> list[Fork]:
    """Arms by name: (triggers at once, right if the original was wrong, right if it was right)."""
    rng = np.random.default_rng(seed)
    return [
        fork(p, s, k, name, original=s == 0, once=bool(rng.random() < once), later=bool(rng.random() < 0.4),
             right=bool(rng.random() < (kept if s == 0 else rescued)))
        for name, (once, rescued, kept) in arms.items()
        for p in range(30)
        for s in range(2)
        for k in range(3)
    ]  # fmt: skip


FORKS = study(1, resample=(0.6, 0.3, 0.9), steered=(0.1, 0.7, 0.9), ban=(0.0, 0.3, 0.5))

STUDY = compare_forks(FORKS)


def test_shares_are_those_counted_by_hand():
    forks = [
        fork(0, 0, 0, "resample", original=False, once=True, right=True),
        fork(0, 0, 1, "resample", original=False, right=False),
        fork(1, 0, 0, "resample", original=False, right=False),
        fork(1, 1, 0, "resample", original=True, later=True, right=False),
    ]
    row = compare_forks(forks).rows[0]
    assert (row.forks, row.problems, row.accuracy.value) == (4, 2, 0.25)
    assert (row.triggers_at_once.value, row.triggers_later.value, row.triggered_again.value) == (0.25, 0.25, 0.5)
    assert (row.rescued.value, row.rescued.n) == (1 / 3, 3)
    assert (row.broken.value, row.broken.n) == (1.0, 1)
    assert row.tokens.value == 105
    assert compare_forks(forks).differences == ()


def test_every_row_shows_what_sampling_again_does_alone():
    found = STUDY
    unsteered = found.rows[0]
    assert unsteered.arm == "resample" and unsteered.rescued == unsteered.rescued_by_resample
    for row in found.rows:
        assert (row.rescued_by_resample, row.broken_by_resample) == (unsteered.rescued, unsteered.broken)
    names = list(found.to_pandas().columns)
    assert names.index("rescued_by_resample") == names.index("rescued") + 3


def test_planted_effects_are_found_with_their_signs():
    found = STUDY
    assert found.difference("steered", "rescued").difference.low > 0.2
    assert found.difference("steered", "rescued").p_holm < 0.001
    assert found.difference("steered", "triggers_at_once").difference.high < -0.3
    assert found.difference("steered", "broken").p_holm > 0.01
    assert found.difference("ban", "broken").difference.low > 0.1
    assert found.difference("ban", "rescued").p_holm > 0.01
    assert found.difference("ban", "triggers_later").p > 0.01


def test_differences_are_paired_and_adjusted_over_the_arms():
    found = STUDY
    by_key = {(f.arm, f.problem_id, f.sample_id, f.fork_sample): f for f in FORKS}
    keys = [key for key in by_key if key[0] == "steered" and not by_key[key].original_right]
    sides = [[by_key[arm, *key[1:]].right for key in keys] for arm in ("steered", "resample")]
    row = found.difference("steered", "rescued")
    assert row.pairs == len(keys) == 90
    assert row.difference.value == pytest.approx(np.mean(sides[0]) - np.mean(sides[1]))
    assert row.p == paired_p_value(*sides, [key[1] for key in keys])
    for outcome in ("rescued", "accuracy", "tokens", "triggers_at_once"):
        rows = [row for row in found.differences if row.outcome == outcome]
        assert [row.arm for row in rows] == ["steered", "ban"]
        assert tuple(row.p_holm for row in rows) == holm([row.p for row in rows])
    assert found.difference("ban", "tokens").difference.value == 0


def test_an_arm_that_does_nothing_differs_by_nothing():
    resampled = [f for f in FORKS if f.arm == "resample"]
    found = compare_forks([*resampled, *(replace(f, arm="steered") for f in resampled)])
    assert {(row.difference.value, row.p, row.p_holm) for row in found.differences} == {(0, 1, 1)}
    assert replace(found.rows[1], arm="resample") == found.rows[0]


def test_order_and_names_do_not_matter():
    swap = {"steered": "ban", "ban": "steered"}
    other = compare_forks([replace(f, arm=swap.get(f.arm, f.arm)) for f in FORKS])
    for row in STUDY.differences:
        assert str(other.difference(swap[row.arm], row.outcome)) == str(replace(row, arm=swap[row.arm]))
    shuffled = compare_forks([FORKS[i] for i in np.random.default_rng(1).permutation(len(FORKS))])
    found = shuffled.difference("ban", "broken")
    assert found.difference.value == pytest.approx(STUDY.difference("ban", "broken").difference.value)


def test_shares_of_no_forks_are_missing():
    wrong = [f for f in FORKS if not f.original_right]
    found = compare_forks(wrong)
    assert {row.broken for row in found.rows} == {None}
    assert found.to_pandas()["broken_low"].isna().all()
    assert "broken" not in {row.outcome for row in found.differences}
    assert {"difference", "difference_low", "difference_high", "p", "p_holm"} <= set(found.differences_to_pandas())


def test_a_study_without_the_unsteered_arm_is_refused():
    with pytest.raises(InputError, match=r"no arm is called 'resample', only .'steered', 'ban'."):
        compare_forks([f for f in FORKS if f.arm != "resample"])


def test_what_is_no_paired_study_is_refused():
    first = FORKS[0]
    with pytest.raises(InputError, match="no forks"):
        compare_forks([])
    with pytest.raises(InputError, match="'resample' has problem 0, sample 0, fork sample 0 twice"):
        compare_forks([*FORKS, replace(FORKS[-180], arm="resample")])
    with pytest.raises(InputError, match="do not hold the same forks .1 are in one alone"):
        compare_forks(FORKS[:-1])
    with pytest.raises(InputError, match="disagree whether the original"):
        compare_forks([replace(first, original_right=not first.original_right), *FORKS[1:]])
    with pytest.raises(InputError, match="right=True, but is 'truncated'"):
        compare_forks([replace(first, right=True, verdict="truncated"), *FORKS[1:]])


def test_a_fork_has_no_field_that_may_be_forgotten():
    with pytest.raises(TypeError, match="missing"):
        Fork(**{field.name: getattr(FORKS[0], field.name) for field in fields(Fork)[:-1]})
