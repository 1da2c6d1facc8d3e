"""Targeted against random: the planted effect stands out, one random draw among others does not."""

from dataclasses import replace

import numpy as np
import pytest

from backtracking.core.errors import InputError
from backtracking.measures.conditions import compare_conditions
from backtracking.measures.random_draws import targeted_against_random
from tests.measures.test_conditions import random_study

DRAWS = [f"random {i}" for i in range(20)]
EVENTS = random_study(0, baseline=(0.7, 0.5), mlp27=(0.2, 0.5), **dict.fromkeys(DRAWS, (0.65, 0.5)))


def test_a_planted_effect_is_beyond_all_draws():
    found = targeted_against_random(EVENTS, targeted="mlp27", draws=DRAWS)
    assert found.targeted.backtracking.value == pytest.approx(-0.5, abs=0.1)
    assert (found.backtracking.p_value, found.backtracking.as_extreme, found.draws) == (1 / 21, 0, 20)
    assert found.backtracking.effect < found.backtracking.low < found.backtracking.high
    assert found.accuracy.p_value > 0.05
    effects = [row.backtracking.value for row in found.random]
    assert (found.backtracking.low, found.backtracking.high) == pytest.approx(np.quantile(effects, [0.025, 0.975]))


def test_effects_are_those_of_the_comparison_of_conditions():
    found = targeted_against_random(EVENTS, targeted="mlp27", draws=DRAWS)
    paired = {row.condition: row for row in compare_conditions(EVENTS).paired}
    for row in (found.targeted, *found.random):
        assert (row.backtracking, row.accuracy) == (paired[row.condition].backtracking, paired[row.condition].accuracy)


def test_a_draw_put_in_the_place_of_the_targeted_one_does_not_stand_out():
    swapped = targeted_against_random(EVENTS, targeted="random 0", draws=["mlp27", *DRAWS[1:]])
    assert swapped.backtracking.p_value > 0.05
    order = targeted_against_random(EVENTS, targeted="mlp27", draws=DRAWS[::-1])
    assert order.random[::-1] == targeted_against_random(EVENTS, targeted="mlp27", draws=DRAWS).random


def test_when_no_arm_does_anything_everything_is_zero_and_p_is_one():
    baseline = [row for row in EVENTS if row.condition == "baseline"]
    same = [replace(row, condition=name) for name in ("baseline", "mlp27", *DRAWS) for row in baseline]
    found = targeted_against_random(same, targeted="mlp27", draws=DRAWS)
    assert (found.backtracking.effect, found.backtracking.p_value, found.accuracy.p_value) == (0, 1, 1)


def test_the_tables():
    found = targeted_against_random(EVENTS, targeted="mlp27", draws=DRAWS)
    frame = found.to_pandas()
    assert list(frame["role"]) == ["targeted"] + ["random"] * 20
    assert {"backtracking", "backtracking_low", "accuracy_high", "accuracy_flag", "pairs"} <= set(frame.columns)
    ranks = found.ranks_to_pandas().set_index("outcome")
    assert ranks.loc["backtracking", ["p_value", "draws", "side"]].tolist() == [1 / 21, 20, "both"]


def test_draws_that_go_as_far_the_same_way_are_marked():
    """Half of the draws raise the rate further than the targeted condition lowers it, one lowers it further."""
    arms = dict.fromkeys(DRAWS[:10], (0.95, 0.5)) | {DRAWS[10]: (0.05, 0.5)} | dict.fromkeys(DRAWS[11:], (0.5, 0.5))
    found = targeted_against_random(
        random_study(1, baseline=(0.5, 0.5), off=(0.2, 0.5), **arms), targeted="off", draws=DRAWS
    )
    frame = found.to_pandas().set_index("condition")
    assert list(frame.index[frame["as_far_same_direction"]]) == ["off", DRAWS[10]]
    assert (found.backtracking.as_extreme, found.backtracking.same_direction) == (11, 1)
    assert found.ranks_to_pandas().set_index("outcome").loc["backtracking", "same_direction"] == 1


def test_a_draw_has_the_shares_that_say_whether_its_text_is_broken():
    broken = [replace(e, verdict="truncated", degenerate=True) if e.condition == DRAWS[3] else e for e in EVENTS]
    found = targeted_against_random(broken, targeted="mlp27", draws=DRAWS)
    rows = {row.condition: row for row in compare_conditions(broken).rows}
    for row in (found.targeted, *found.random):
        own = rows[row.condition]
        assert (row.right, row.unparsed, row.truncated, row.degenerate) == (
            own.right, own.unparsed, own.truncated, own.degenerate
        )  # fmt: skip
    assert (found.random[3].truncated.value, found.random[3].degenerate.value) == (1, 1)


def test_what_cannot_be_ranked_is_refused():
    def of(events=EVENTS, targeted="mlp27", draws=DRAWS):
        return targeted_against_random(events, targeted=targeted, draws=draws)

    with pytest.raises(InputError, match="19 random draws"):
        of(draws=DRAWS[:19])
    with pytest.raises(InputError, match="named twice"):
        of(draws=[*DRAWS, DRAWS[0]])
    with pytest.raises(InputError, match="named twice"):
        of(draws=[*DRAWS, "mlp27"])
    with pytest.raises(InputError, match="no condition is called 'mlp9'"):
        of(targeted="mlp9")
    with pytest.raises(InputError, match="what the others are compared with"):
        of(draws=[*DRAWS[1:], "baseline"])
    with pytest.raises(InputError, match="only .*sample the baseline too"):
        of([row for row in EVENTS if row.condition != "baseline"])
    with pytest.raises(InputError, match="'baseline' has problem 0, sample 0 twice"):
        of([*EVENTS, replace(EVENTS[-120], condition="baseline")])
    with pytest.raises(InputError, match="within one variant"):
        of([*EVENTS, replace(EVENTS[0], variant="w")])
    with pytest.raises(InputError, match="'random 19' and the baseline do not hold the same sample keys"):
        of(EVENTS[:-1])
