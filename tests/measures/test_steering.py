"""The sweep: cells equal plain comparisons, the better half is not the reported one, and what is chosen is the best."""

from dataclasses import replace

import numpy as np
import pytest

from backtracking.core.errors import InputError
from backtracking.core.events import detect_events
from backtracking.core.interventions import Condition
from backtracking.core.paired_shares import Counted
from backtracking.core.problems import Problem
from backtracking.core.sites import Site
from backtracking.core.statistics import Estimate
from backtracking.core.vectors import FixedVector
from backtracking.measures.conditions import compare_conditions
from backtracking.measures.steering import SteeringSampling, steering_sweep
from backtracking.measures.steering_choice import choose
from backtracking.measures.steering_directions import Direction
from backtracking.measures.steering_outcomes import OutcomeRow
from backtracking.model.sampling import sample
from tests.measures.planted import WRITES, planted

SAMPLING = SteeringSampling(samples=2, max_new_tokens=6, temperature=1.0, top_p=1.0)
PROBLEMS = tuple(Problem(f"q{i}", "abcdefgh"[i] * (1 + i), str(i)) for i in range(8))


def axis(width: int, at: int, *, layer: int = 1, fitted_on=(), window=(-1, -1)) -> Direction:
    """A direction along one coordinate."""
    values = tuple(2.0 * (index == at) for index in range(width))
    return Direction(
        FixedVector(values, f"axis {at}"), Site("resid_post", layer), window, "mean_difference", "m", 5, 5, fitted_on,
        None, 4.0,
    )  # fmt: skip


def says_wait(completion):
    """Wait, out of the tokens that are sampled under steering: all but the first."""
    texts = [completion.token_text(index) for index in range(1, len(completion.ids))]
    return Counted(texts.count("Wait"), len(texts))


@pytest.fixture(scope="module")
def model():
    return planted()[0]


@pytest.fixture(scope="module")
def swept(model):
    directions = [axis(32, WRITES), axis(32, 9, window=(-2, -2))]
    return steering_sweep(
        model, PROBLEMS, directions, magnitudes=(1, 4), target="wait", outcomes={"wait": says_wait},
        controls=[replace(axis(32, 20), method="other")], aim="raise", most_broken=1.0, sampling=SAMPLING, seed=3,
    )  # fmt: skip


def test_the_direction_that_writes_the_word_is_chosen_and_beyond_the_random_ones(swept):
    assert swept.chosen.label == "mean_difference at resid_post.1, onset-1:onset-1"
    assert (swept.chosen.raising, swept.chosen.lowering) == (4, None)
    row = swept.row(4)
    assert row.change.low > 0.3 and row.half == "report"
    assert row.p < 0.15  # the least that four problems can give is 1/8
    rank = next(each for each in swept.ranks if (each.outcome, each.magnitude) == ("wait", 4))
    assert rank.beyond and rank.rank.draws == 20 and rank.rank.p_value == 1 / 21
    random = [r for r in swept.rows if (r.role, r.outcome, r.magnitude) == ("random", "wait", 4)]
    effects = [r.change.value for r in random]
    assert (rank.rank.low, rank.rank.high) == pytest.approx(np.quantile(effects, [0.025, 0.975]))


def test_halves_share_no_problem_and_every_arm_holds_all_of_its_half(swept):
    first, second = set(swept.selection_problems), set(swept.report_problems)
    assert not first & second and first | second == {p.id for p in PROBLEMS} and len(first) == 4
    assert {row.completions for row in swept.rows} == {8}
    roles = {row.role for row in swept.rows if row.half == "report"}
    assert roles == {"baseline", "direction", "random", "noise", "control", "ablation"}
    assert {row.role for row in swept.rows if row.half == "selection"} == {"baseline", "direction"}


def test_built_in_outcomes_equal_the_comparison_of_conditions(model, swept):
    problems = [p for p in PROBLEMS if p.id in swept.report_problems]
    arm = Condition("up", [axis(32, WRITES).intervention(4)])
    completions = sample(model, problems, conditions=[Condition("baseline"), arm], seed=3, **vars(SAMPLING))
    events, _ = detect_events(completions, problems)
    expected = compare_conditions(events, seed=3)
    row = swept.row(4, outcome="backtracking")
    assert row.share == expected.row("up").backtracking
    assert row.change.value == pytest.approx(expected.paired[0].backtracking.value)
    own = [says_wait(c) for c in completions if c.condition == "up"]
    assert swept.row(4).share.value == pytest.approx(sum(c.hits for c in own) / sum(c.of for c in own))


def test_noise_is_made_of_the_random_arms(swept):
    table = swept.to_pandas("report")
    waits = table[(table["outcome"] == "wait") & (table["magnitude"] == 4)]
    noise = waits[waits["role"] == "noise"].iloc[0]
    random = waits[waits["role"] == "random"]["share"]
    assert random.min() - 1e-9 <= noise["share"] <= 1 and noise["completions"] == 8
    ranks = swept.ranks_to_pandas()
    assert {"outcome", "magnitude", "effect", "low", "high", "p_value", "beyond"} <= set(ranks.columns)


def test_a_cell_that_some_random_direction_leaves_unmeasured_is_a_row_without_a_rank(model):
    """Under two random directions of twenty no completion counts for the outcome."""
    unmeasured = ("random 3.3 ", "random 3.7 ")

    def reader(completion):
        counted = not completion.condition.startswith(unmeasured)
        return Counted(int(says_wait(completion).hits > 0), int(counted))

    swept = steering_sweep(
        model, PROBLEMS, [axis(32, WRITES)], magnitudes=(1, 4), target="wait",
        outcomes={"wait": says_wait, "sparse": reader}, aim="raise", most_broken=1.0, sampling=SAMPLING, seed=3,
    )  # fmt: skip
    cells = {(each.outcome, each.magnitude) for each in swept.ranks}
    assert {("sparse", magnitude) for magnitude in (1, 4, -1, -4)} <= cells
    table = swept.ranks_to_pandas().set_index(["outcome", "magnitude"])
    sparse, whole = table.loc[("sparse", 4)], table.loc[("wait", 4)]
    assert sparse["draws"] == 18 and np.isfinite(sparse["effect"])
    assert sparse[["p_value", "low", "high", "median", "as_extreme", "beyond"]].isna().all()
    assert whole["draws"] == 20 and whole["beyond"] and whole["p_value"] == 1 / 21


def rows(**effects):
    """Selection rows: label -> {magnitude: (effect, broken)}."""

    def row(label, magnitude, outcome, value):
        estimate = Estimate(value, value, value, 1, 1)
        return OutcomeRow("selection", f"{label} {magnitude}", "direction", label, "s", "w", "m", magnitude, 1.0,
                          outcome, 1, estimate, estimate, 0.5, 0.5)  # fmt: skip

    return [
        row(label, magnitude, outcome, value)
        for label, cells in effects.items()
        for magnitude, pair in cells.items()
        for outcome, value in zip(("t", "broken"), pair, strict=True)
    ]


def test_the_choice_is_the_largest_smaller_effect_of_cells_that_stay_whole():
    found = rows(
        one={1: (0.3, 0), 2: (0.9, 0.5), -1: (-0.1, 0), -2: (-0.2, 0)},
        two={1: (0.25, 0), 2: (0.25, 0), -1: (-0.3, 0), -2: (-0.1, 0)},
    )
    chosen = choose(found, target="t", aim="both", most_broken=0.1)
    assert (chosen.label, chosen.raising, chosen.lowering) == ("two", 1, -1)
    assert choose(found, target="t", aim="both", most_broken=0.6).label == "two"
    up = choose(found, target="t", aim="raise", most_broken=0.6)
    assert (up.label, up.raising, up.lowering) == ("one", 2, None)
    down = choose(found, target="t", aim="lower", most_broken=0.1)
    assert (down.label, down.raising, down.lowering) == ("two", None, -1)
    assert choose(rows(one={1: (0.3, 0.5), -1: (-0.3, 0)}), target="t", aim="both", most_broken=0.1) is None
    assert choose(rows(one={1: (-0.3, 0), -1: (0.3, 0)}), target="t", aim="both", most_broken=0.1) is None


def test_what_cannot_be_swept_is_refused(model):
    def of(problems=PROBLEMS, directions=None, **options):
        return steering_sweep(model, problems, directions or [axis(32, 3)], sampling=SAMPLING, **options)

    with pytest.raises(InputError, match="problem 'q2' served to make"):
        of(directions=[axis(32, 3, fitted_on=("q2",))])
    with pytest.raises(InputError, match="needs different directions"):
        of(directions=[axis(32, 3), axis(32, 4)])
    with pytest.raises(InputError, match="magnitudes are"):
        of(magnitudes=(-1, 2))
    with pytest.raises(InputError, match="5 random directions"):
        of(draws=5)
    with pytest.raises(InputError, match="3 problems cannot be halved"):
        of(problems=PROBLEMS[:3])
    with pytest.raises(InputError, match="'right' exists already"):
        of(outcomes={"right": says_wait}, magnitudes=(1,))
