"""Contributions add up to the logit, agree with TransformerLens's own attribution, and name a planted layer."""

import numpy as np
import pytest
import torch

from backtracking.core.errors import InputError
from backtracking.measures.attribution import logit_attribution
from backtracking.measures.decision_points import DecisionPoints, Skipped
from tests.measures.planted import planted, random_points


@pytest.fixture(scope="module")
def found():
    model, trigger = planted()
    return logit_attribution(model, random_points(trigger)), model


def test_contributions_add_up_to_the_logit(twin):
    model = twin[0]
    points = random_points([5, 7, 11], problems=3)
    got = logit_attribution(model, points)
    np.testing.assert_allclose(got.contribution.sum(1), got.total, atol=2e-3, rtol=2e-3)
    if model.name == "tiny-gemma2":
        return  # its logits are softcapped after the unembedding
    constant = 0.0
    for index, point in enumerate(points.all[:4]):
        logits = model.logits(point.context)[0, -1]
        expected = float(logits[point.token_id] - logits.mean())
        norm = model.bridge.ln_final.original_component
        if getattr(norm, "bias", None) is not None:
            weight = model.plain.module.get_output_embeddings().weight
            constant = float(norm.bias @ (weight[point.token_id] - weight.mean(0)))
        assert got.total[index] + constant == pytest.approx(expected, abs=5e-3, rel=5e-3)


def test_a_planted_layer_is_named_and_no_other(found):
    got, _ = found
    table = got.to_pandas().set_index("component")
    assert table["difference"].idxmax() == "mlp.1"
    others = table.drop(index="mlp.1")["difference"].abs()
    assert table.loc["mlp.1", "difference"] > 5 * others.max()
    assert table.loc["mlp.1", "q"] < 0.01
    assert table.loc["mlp.1", "control"] == pytest.approx(0, abs=0.05)


def test_it_agrees_with_a_plain_reading_of_the_cache(found):
    """RMSNorm at a fixed scale, written out."""
    got, model = found
    point = got.points.events[0]
    _, cache = model.run_with_cache(list(point.context))
    module = model.plain.module
    residual = cache["blocks.2.hook_out"][0, -1]
    scale = (residual.pow(2).mean() + module.config.rms_norm_eps).sqrt()
    row = module.lm_head.weight[point.token_id] - module.lm_head.weight.mean(0)
    expected = (cache["blocks.1.hook_mlp_out"][0, -1] / scale * module.model.norm.weight) @ row
    place = got.components.index("mlp.1")
    torch.testing.assert_close(
        torch.tensor(got.contribution[0, place]).float(), expected.detach(), atol=1e-3, rtol=1e-3
    )


def test_without_points_there_is_nothing_to_attribute(found):
    with pytest.raises(InputError, match="no decision points"):
        logit_attribution(found[1], DecisionPoints((), (), (), Skipped(0, 0, 0)))
