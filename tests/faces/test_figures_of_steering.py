"""Figures of steering and features show the numbers of their results."""

import numpy as np
import pandas as pd
import pytest

from backtracking.core.errors import InputError
from backtracking.core.null_draws import measured_rank, null_rank
from backtracking.core.statistics import Estimate
from backtracking.faces.figures.steering import feature_scatter, lead_time_curve, steering_curve, sweep_grid
from backtracking.measures.lead_time import LeadRow, LeadTime
from backtracking.measures.steering import CellRank, Chosen, SteeringSweep
from backtracking.measures.steering_outcomes import OutcomeRow


def estimate(value: float) -> Estimate:
    return Estimate(value, value - 0.1, value + 0.1, 20, 10)


def row(half, role, magnitude, share) -> OutcomeRow:
    return OutcomeRow(half, f"{role} {magnitude}", role, "d at resid_post.1", "resid_post.1", "w", "m", magnitude, 1.0,
                      "backtracking", 20, estimate(share), estimate(share - 0.5), 0.01, 0.02)  # fmt: skip


def test_the_steering_curve_holds_the_shares_in_order_and_the_grid_the_changes():
    cells = [("baseline", float("nan"), 0.5), ("direction", 1.0, 0.8), ("direction", -1.0, 0.2)]
    rows = tuple(row(half, *cell) for half in ("selection", "report") for cell in cells)
    ranks = tuple(
        CellRank("backtracking", m, null_rank(0.3 * m, [0.01 * i - 0.1 for i in range(20)])) for m in (1.0, -1.0)
    )
    sweep = SteeringSweep(
        "backtracking", "both", rows, Chosen("d at resid_post.1", 1.0, -1.0), ranks, 20, ("a",), ("b",)
    )
    line = next(trace for trace in steering_curve(sweep).data if trace.name == "backtracking")
    assert list(line.x) == [-1, 0, 1] and list(line.y) == pytest.approx([20, 50, 80])
    assert "20 random directions" in steering_curve(sweep).layout.title.text
    (heat,) = sweep_grid(sweep).data
    assert heat.z[0].tolist() == pytest.approx([-30, 30])


def test_a_magnitude_without_a_range_is_no_corner_of_the_band():
    cells = [("baseline", float("nan"), 0.5), ("direction", 1.0, 0.6), ("direction", 2.0, 0.8)]
    rows = tuple(row(half, *cell) for half in ("selection", "report") for cell in cells)
    draws = [0.01 * i - 0.1 for i in range(20)]
    ranks = (
        CellRank("backtracking", 1.0, measured_rank(0.1, [float("nan"), *draws[1:]])),
        CellRank("backtracking", 2.0, measured_rank(0.3, draws)),
    )
    assert [each.beyond for each in ranks] == [None, True]
    sweep = SteeringSweep("backtracking", "raise", rows, Chosen("d at resid_post.1", 2.0, None), ranks, 20, (), ())
    band = [trace for trace in steering_curve(sweep).data if trace.name == "random directions, 95 %"][-1]
    assert list(band.x) == [0, 2, 2, 0] and np.isfinite(np.array(band.y, dtype=float)).all()


def test_a_sweep_that_chose_nothing_says_so_and_has_an_empty_table_of_ranks():
    rows = tuple(row("selection", role, m, 0.5) for role, m in (("baseline", float("nan")), ("direction", 1.0)))
    sweep = SteeringSweep("backtracking", "both", rows, None, (), 20, ("a",), ("b",))
    assert not len(sweep.ranks_to_pandas()) and "beyond" in sweep.ranks_to_pandas()
    with pytest.raises(InputError, match="chose no direction"):
        steering_curve(sweep)


def test_the_lead_curve_shows_probe_rivals_and_null():
    rows = tuple(
        LeadRow(lead, 5, 5, 5, estimate(0.9 - lead / 10), estimate(0.6), estimate(0.5), estimate(0.6), estimate(0.3),
                0.5, 0.4, 0.6, 0.04, (1, 2)) for lead in range(3)
    )  # fmt: skip
    traces = {trace.name: trace for trace in lead_time_curve(LeadTime(rows, 20, 0, 0, 2)).data}
    assert list(traces["probe"].y) == pytest.approx([0.9, 0.8, 0.7])
    assert list(traces["shuffled labels, 95 %"].y) == [0.6] * 3 + [0.4] * 3


def test_significant_features_are_filled():
    table = pd.DataFrame({"feature": [3, 7, 9], "event": [2.0, 1.0, 0.5], "control": [0.1, 1.0, 0.6], "auc": [0.9] * 3,
                          "difference": [1.9, 0.0, -0.1], "q": [0.01, 0.9, 0.4], "events": 4, "controls": 4,
                          "problems": 2})  # fmt: skip
    figure = feature_scatter(table, named=1)
    traces = {trace.name: trace for trace in figure.data}
    assert list(traces["q ≤ 0.05 (Benjamini and Hochberg)"].y) == [2.0] and len(traces["q > 0.05"].y) == 2
    assert [note.text for note in figure.layout.annotations] == ["3"]
