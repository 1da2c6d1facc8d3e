"""Figures of the mechanism show the numbers of their results, and blank what is missing."""

import numpy as np
import pytest

from backtracking.faces.figures.mechanism import (
    attention_bands,
    attribution_scatter,
    faithfulness_curve,
    patching_map,
    path_map,
)
from backtracking.measures.activation_patching import activation_patching
from backtracking.measures.attention_patterns import attention_patterns
from backtracking.measures.attribution_patching import attribution_patching
from backtracking.measures.circuits import find_circuit
from backtracking.measures.path_patching import path_patching
from tests.measures.planted_head import head_points, planted_head


@pytest.fixture(scope="module")
def planted():
    model, trigger = planted_head()
    return model, head_points(trigger, problems=8), {"trigger_ids": [trigger]}


def test_the_patching_map_holds_every_effect_and_stars_the_planted_head(planted):
    model, points, triggers = planted
    found = activation_patching(model, points, **triggers, offsets=(0, -2))
    table = found.to_pandas().set_index(["site", "offset"])
    heat = patching_map(found).data[0]
    assert list(heat.x) == ["2", "0"] and len(heat.y) == 12
    row = list(heat.y).index("attn.1.h2")
    assert heat.z[row][1] == pytest.approx(table.loc[("attn.1.h2", 0), "effect"])
    assert heat.zmax == -heat.zmin >= np.abs(np.array(heat.z)).max()
    stream = patching_map(found, component="resid_post").data[0]
    assert list(stream.y) == ["0", "1", "2"]
    assert stream.z[0][0] == pytest.approx(table.loc[("resid_post.0", -2), "effect"])
    by_head = patching_map(activation_patching(model, points, **triggers, direction="noise"))
    assert list(by_head.data[0].x) == list("0123") and "the trigger goes" in by_head.layout.title.text
    assert "16 pairs of 8 problems" in by_head.layout.title.text


def test_the_scatter_has_a_point_for_every_sampled_cell(planted):
    model, points, triggers = planted
    found = attribution_patching(model, points, **triggers, sample=4)
    figure = attribution_scatter(found)
    shown = {trace.name: len(trace.x) for trace in figure.data if trace.mode == "markers"}
    assert shown == {"residual stream": 4 * 6, "attention": 4 * 3, "MLP": 4 * 3, "heads": 4 * 12}
    assert f"{found.error.correlation:.2f}" in figure.layout.title.text


def test_paths_that_cannot_be_are_blank(planted):
    model, points, triggers = planted
    figure = path_map(path_patching(model, points, **triggers, senders=["attn.0.h1", "attn.1.h2"]))
    heat = figure.data[0]
    assert list(heat.x) == ["attn.0.h1", "attn.1.h2"] and heat.y[-1] == "logits"
    row = list(heat.y).index("attn.1.h0")
    assert heat.z[row][1] is None and heat.z[row][0] is not None
    assert heat.z[-1][1] > 5


def test_the_curve_and_its_bands_are_those_of_the_table(planted):
    model, points, triggers = planted
    found = find_circuit(model, points, **triggers, sizes=[1, 15], pool=1)
    table, figure = found.to_pandas(), faithfulness_curve(found)
    curve = next(trace for trace in figure.data if trace.name == "circuit")
    assert list(curve.x) == [1, 15] and list(curve.y) == pytest.approx((100 * table["faithfulness"]).tolist())
    assert "measured on 8 onsets of 4 others" in figure.layout.title.text


def test_the_bars_of_each_head_add_up_to_all_its_attention(planted):
    model, points, _ = planted
    figure = attention_bands(attention_patterns(model, points, bands="distance"), top=3)
    total = np.sum([trace.x for trace in figure.data], axis=0)
    assert total.tolist() == pytest.approx([100] * 6, abs=0.1)
    assert figure.data[0].y[0][0] == "1.2"
