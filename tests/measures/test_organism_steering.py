"""On the organism one direction raises and, negated, lowers justified backtracking, beyond random directions."""

import pytest

from backtracking.core.completions import Completion
from backtracking.measures.organism_steering import (
    CHECKED,
    JUSTIFIED,
    OUTCOMES,
    WELL_FORMED,
    checked,
    justified,
    organism_directions,
    steer_organism,
    unjustified,
    well_formed,
)
from backtracking.measures.steering_arms import NO_STEERING, direction_arms
from backtracking.measures.steering_outcomes import measure_half
from backtracking.model.loading import load_model
from backtracking.model.organism.problems import organism_problems
from backtracking.model.sampling import sample


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
def organism():
    model = load_model("organism")
    return model, organism_directions(model, layers=(5,), plain_layers=())


def test_it_raises_and_negated_lowers_justified_backtracking_on_problems_it_was_not_found_on(organism):
    model, found = organism
    problems = organism_problems(150)
    assert not {problem.id for problem in problems} & set(found.doubts[0].fitted_on)
    arms = [NO_STEERING, *direction_arms(found.doubts[0], (0.5,))]
    conditions = [arm.condition for arm in arms]
    completions = sample(model, problems, conditions=conditions, samples=2, max_new_tokens=220, top_p=1.0)
    rows = measure_half("report", completions, problems, arms, outcomes=OUTCOMES, seed=0)
    change = {(row.outcome, row.magnitude): row.change for row in rows if row.role == "direction"}
    # The rate without steering is about 0.75 and its ceiling 0.9 (what a check that errs too does not show).
    assert change[JUSTIFIED, 0.5].low > 0.05 and change[JUSTIFIED, -0.5].value < -0.3
    assert change[CHECKED, 0.5].low > 0 and change[CHECKED, -0.5].high < 0
    assert abs(change[WELL_FORMED, 0.5].value) < 0.05 and abs(change[WELL_FORMED, -0.5].value) < 0.05


@pytest.mark.slow
def test_both_are_beyond_the_range_of_random_directions_of_the_same_length(organism):
    model, found = organism
    sweep = steer_organism(model, found, problems=300, samples=1, magnitudes=(0.5,))
    assert sweep.chosen is not None
    ranks = {each.magnitude: each.rank for each in sweep.ranks if each.outcome == JUSTIFIED}
    assert ranks[0.5].effect > ranks[0.5].high and ranks[-0.5].effect < ranks[-0.5].low
    assert ranks[0.5].draws == 20
