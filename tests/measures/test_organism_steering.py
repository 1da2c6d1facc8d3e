"""On the organism one direction raises and, negated, lowers justified backtracking by 20 points each."""

import pytest

from backtracking.core.completions import Completion
from backtracking.measures.organism_steering import (
    JUSTIFIED,
    checked,
    justified,
    organism_directions,
    steer_organism,
    unjustified,
    well_formed,
)
from backtracking.model.loading import load_model


def completion(text: str) -> Completion:
    return Completion("p", 0, "v", "baseline", (1,), (2,), text, (0,), "stop")


def test_outcomes_are_read_off_the_truth_of_each_step():
    text = (
        "<think>\nFirst, 40 + 3 = 42. Check, 40 + 3 gives 43. Wait, 40 + 3 = 43. Then 43 - 5 = 37. Now 37 + 2 = 39. "
        "Actually, 37 + 2 = 39. So the answer is 39.\n</think>\nFinal: 39"
    )
    row = completion(text)
    assert (justified(row).hits, justified(row).of) == (1, 2)
    assert (unjustified(row).hits, unjustified(row).of) == (1, 1)
    assert (checked(row).hits, checked(row).of) == (1, 3)
    assert well_formed(row).hits == 1 and well_formed(completion(text + " more")).hits == 0


@pytest.fixture(scope="module")
def sweep():
    model = load_model("organism")
    found = organism_directions(model, problems=90, samples=2, layers=(5,), plain_layers=())
    return steer_organism(model, found, problems=90, samples=1, magnitudes=(0.6,), most_broken=0.2)


def test_it_raises_and_negated_lowers_justified_backtracking_by_20_points_on_problems_not_used(sweep):
    assert sweep.chosen is not None and (sweep.chosen.raising, sweep.chosen.lowering) == (0.6, -0.6)
    up, down = sweep.row(0.6), sweep.row(-0.6)
    assert up.change.value >= 0.20 and down.change.value <= -0.20
    assert up.p < 0.05 and down.p < 0.05
    assert not set(sweep.report_problems) & set(sweep.selection_problems)


def test_both_are_beyond_the_range_of_random_directions_of_the_same_length(sweep):
    ranks = {each.magnitude: each for each in sweep.ranks if each.outcome == JUSTIFIED}
    assert ranks[0.6].rank.effect > ranks[0.6].rank.high and ranks[-0.6].rank.effect < ranks[-0.6].rank.low
    assert ranks[0.6].rank.draws == 20
