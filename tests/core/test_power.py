"""Announced power, intervals and tests against simulated studies whose truth is planted."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from backtracking.core.errors import InputError
from backtracking.core.power import (
    PairedDesign,
    design_effect,
    intra_correlation,
    minimum_detectable,
    power,
    standard_error,
)
from benchmarks.intervals import SETTINGS, Setting, simulate

DESIGN = PairedDesign(60, 4, 0.6, intra=0.3, pairing=0.5)


def tolerance(share: float, studies: int) -> float:
    """Three standard errors of a share of simulated studies."""
    return 3 * (share * (1 - share) / studies) ** 0.5


def check(setting: Setting, studies: int) -> None:
    found = simulate(setting, studies=studies, seed=1)
    slack = tolerance(0.95, studies)
    for coverage in (found.rate_coverage, found.difference_coverage, found.null_difference_coverage):
        assert 0.93 - slack <= coverage <= 0.97 + slack
    assert found.family_wise_error <= 0.05 + tolerance(0.05, studies)
    assert abs(found.power_found - found.power_announced) <= 0.05 + tolerance(0.5, studies)


@pytest.mark.parametrize("setting", [SETTINGS[0], SETTINGS[4], SETTINGS[8]], ids=str)
def test_simulated_studies_behave_as_announced(setting):
    check(setting, 200)


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_simulated_studies_behave_as_announced_closely(setting):
    check(setting, 2000)


def test_the_committed_benchmark_meets_its_requirements():
    stored = json.loads((Path(__file__).parents[2] / "data/benchmarks/intervals.json").read_text())
    assert {"cpu", "cores", "scipy"} <= set(stored["machine"])
    for row in stored["results"]:
        assert row["studies"] >= 1000
        covered = [row[f"{name}coverage"] for name in ("rate_", "difference_", "null_difference_")]
        assert min(covered) >= 0.92 and row["family_wise_error"] <= 0.06
        if row["setting"]["problems"] >= 16 and row["setting"]["baseline"] >= 0.2:  # neither few nor rare
            assert min(covered) >= 0.93 and max(covered) <= 0.98
            assert abs(row["power_found"] - row["power_announced"]) <= 0.05


def test_the_standard_error_is_that_of_independent_arms_where_nothing_is_shared():
    alone = PairedDesign(50, 3, 0.4, intra=0, pairing=0)
    assert standard_error(alone, 0.1) == pytest.approx(((0.4 * 0.6 + 0.5 * 0.5) / 150) ** 0.5)
    assert design_effect(alone) == 1
    assert design_effect(PairedDesign(50, 5, 0.4, intra=0.25)) == 2


def test_sharing_noise_helps_uneven_effects_hurt_and_more_samples_then_do_not_save():
    assert standard_error(replace(DESIGN, pairing=0.7)) < standard_error(DESIGN)
    uneven = replace(DESIGN, across=0.1)
    assert standard_error(uneven) > standard_error(DESIGN)
    floor = (2 * (0.3 - 0.1) * 0.24 / 60) ** 0.5
    assert standard_error(replace(uneven, samples=100_000)) == pytest.approx(floor, rel=1e-3)
    assert standard_error(replace(DESIGN, samples=16)) == pytest.approx(standard_error(DESIGN) / 2)


def test_perfectly_paired_arms_still_vary_by_the_difference_itself():
    paired = PairedDesign(100, 1, 0.5, intra=1, pairing=1)
    assert standard_error(paired, 0.1) == pytest.approx((0.1 * 0.9 / 100) ** 0.5)


def test_power_is_that_of_the_t_test_up_to_one_row():
    big = PairedDesign(2000, 4, 0.6, intra=0.3, pairing=0.5)
    effect = 0.015 / (standard_error(big, 0.015) * 2000**0.5)
    assert power(big, 0.015) == pytest.approx(TTestPower().power(effect, 2000, 0.05), abs=0.01)
    beyond = 0.1 - 1 / 240
    exact = TTestPower().power(beyond / (standard_error(DESIGN, 0.1) * 60**0.5), 60, 0.05)
    assert power(DESIGN, 0.1) == pytest.approx(exact, abs=1e-4)
    assert power(DESIGN, -0.59) == pytest.approx(1)
    assert power(DESIGN, 0.0) == 0.05
    assert power(DESIGN, 0.0, comparisons=5) == pytest.approx(0.01)
    assert power(DESIGN, 0.1, comparisons=6) < power(DESIGN, 0.1)


@pytest.mark.parametrize("direction", ["down", "up"])
@pytest.mark.parametrize("comparisons", [1, 6])
def test_the_minimum_detectable_difference_has_the_power_asked_for(direction, comparisons):
    found = minimum_detectable(DESIGN, comparisons=comparisons, direction=direction)
    sign = -1 if direction == "down" else 1
    assert power(DESIGN, sign * found, comparisons=comparisons) == pytest.approx(0.8, abs=1e-3)
    assert minimum_detectable(replace(DESIGN, problems=240), comparisons=comparisons, direction=direction) < found


def test_what_no_study_of_this_size_can_find_is_missing():
    five = PairedDesign(5, 8, 0.6)  # whose smallest p-value is 2 of 32
    assert power(five, -0.5) == power(replace(five, problems=6), -0.5, comparisons=2) == 0
    assert power(replace(five, problems=6), -0.5) > 0.5
    assert minimum_detectable(PairedDesign(4, 1, 0.1)) != minimum_detectable(PairedDesign(4, 1, 0.1))


def test_impossible_designs_are_refused():
    with pytest.raises(InputError, match="1 problems x 4 samples"):
        PairedDesign(1, 4, 0.5)
    with pytest.raises(InputError, match="baseline rate is 1.5"):
        PairedDesign(10, 4, 1.5)
    with pytest.raises(InputError, match="pairing is 2"):
        PairedDesign(10, 4, 0.5, pairing=2)
    with pytest.raises(InputError, match="make the rate 1.100"):
        standard_error(DESIGN, 0.5)
    with pytest.raises(InputError, match="level 0"):
        power(DESIGN, 0.1, level=0)
    with pytest.raises(InputError, match="target power is 0.01"):
        minimum_detectable(DESIGN, target=0.01)


def test_the_correlation_of_a_pilot_is_the_planted_one():
    """Beta(2, 2) rates: the correlation is 1 / (2 + 2 + 1)."""
    rng = np.random.default_rng(2)
    rates = rng.beta(2, 2, 3000).repeat(4)
    outcomes = (rng.random(len(rates)) < rates).tolist()
    assert intra_correlation(outcomes, np.arange(3000).repeat(4).tolist()) == pytest.approx(0.2, abs=0.03)
    assert intra_correlation([True, True, False, False], [1, 1, 2, 2]) == pytest.approx(1)
    assert np.isnan(intra_correlation([True, False], [1, 2]))
    with pytest.raises(InputError, match="2 outcomes, but 1 cluster"):
        intra_correlation([True, False], [1])
