"""What a report says first of a scale sweep, and of a null distribution that is missing, is true of the run."""

from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from backtracking.core.sites import Site
from backtracking.experiments.phase1 import TARGETED, Phase1
from backtracking.experiments.phase2 import Phase2
from backtracking.faces import phase_findings
from backtracking.measures.conditions import compare_conditions
from backtracking.measures.tradeoff import tradeoff
from tests.measures.test_tradeoff import FACTORS, sweep


@pytest.fixture
def first():
    """A phase 1 whose model had too few sets of sites for random draws."""
    arms = [replace(e, condition=TARGETED) if e.condition == "off" else e for e in sweep()]
    asked = SimpleNamespace(random_draws=20)
    return Mock(
        spec=Phase1,
        comparison=compare_conditions(arms),
        targeted=None,
        selection=SimpleNamespace(sites=(Site("mlp", 1),)),
        study=SimpleNamespace(config=SimpleNamespace(ablation_generation=asked)),
    )


def test_a_null_distribution_that_the_model_has_no_room_for_is_not_called_unasked(first, monkeypatch):
    monkeypatch.setattr(phase_findings, "_silent", lambda first: "")
    said = phase_findings._what(first)
    assert said.endswith(
        " No null distribution: the model has too few other sets of sites of this shape for the 20 random draws asked "
        "for."
    )


def test_the_trend_of_the_sweep_stands_beside_the_best_trade_off(first):
    trade = tradeoff(compare_conditions(sweep()), factors=FACTORS)
    said = phase_findings._cost(first, Mock(spec=Phase2, trade=trade))
    assert said.endswith(f"({trade.reason}; {trade.trend}).")
    assert "rho = +1.00" in said
