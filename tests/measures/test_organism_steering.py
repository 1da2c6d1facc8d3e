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
    return Completion("p", 0, "v", "baseline", (1,), (2,), text, "stop", (0,))


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
    return model, organism_directions(model, problems=40, samples=2, layers=(5,), plain_layers=())


def test_one_direction_raises_and_negated_lowers_justified_backtracking_by_20_points_on_problems_it_has_not_seen(
    organism,
):
    model, found = organism
    problems = organism_problems(160)
    assert not {problem.id for problem in problems} & set(found.doubts[0].fitted_on)
    arms = [NO_STEERING, *direction_arms(found.doubts[0], (0.35,))]
    conditions = [arm.condition for arm in arms]
    completions = sample(model, problems, conditions=conditions, max_new_tokens=220, temperature=1.0, top_p=1.0)
    rows = measure_half("report", completions, problems, arms, outcomes=OUTCOMES, seed=0)
    change = {(row.outcome, row.magnitude): row.change for row in rows if row.role == "direction"}
    assert change[JUSTIFIED, 0.35].value >= 0.2 and change[JUSTIFIED, 0.35].low > 0.1
    assert change[JUSTIFIED, -0.35].value <= -0.3 and change[JUSTIFIED, -0.35].high < -0.2
    assert change[CHECKED, 0.35].low > 0.1 and change[CHECKED, -0.35].high < -0.2
    assert abs(change[WELL_FORMED, 0.35].value) < 0.1 and abs(change[WELL_FORMED, -0.35].value) < 0.1


@pytest.mark.slow
def test_both_are_beyond_the_range_of_random_directions_of_the_same_length():
    model = load_model("organism")
    sweep = steer_organism(model, organism_directions(model), problems=800, samples=1, magnitudes=(0.35,))
    assert sweep.chosen is not None and "resid_post.5" in sweep.chosen.label
    assert sweep.row(0.35).change.value >= 0.2 and sweep.row(-0.35).change.value <= -0.2
    ranks = {each.magnitude: each.rank for each in sweep.ranks if each.outcome == JUSTIFIED}
    assert ranks[0.35].effect > ranks[0.35].high and ranks[-0.35].effect < ranks[-0.35].low
    assert ranks[0.35].draws == 20
