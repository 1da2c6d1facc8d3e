"""Contributions add up to the logit difference, agree with TransformerLens's own, and name a planted layer or head."""

import numpy as np
import pytest
import torch
from transformer_lens.tools.analysis import direct_logit_attribution

from backtracking.core.errors import InputError
from backtracking.measures.attribution import logit_attribution
from backtracking.measures.decision_points import DecisionPoints, Skipped
from backtracking.model.reasoner import HookedReasoner
from tests.measures.planted import planted, random_points
from tests.measures.planted_head import HEAD, LAYER, NEIGHBOUR, head_points, planted_head
from tests.tiny import ARCHITECTURES, tiny_hf, tiny_tokenizer

TRIGGERS = (5, 7, 11)


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


def test_contributions_of_the_trigger_set_add_up_to_its_logit_difference(twin):
    """Weights are the triggers' shares at the event, also at its control; the logits come from plain forward passes."""
    model = twin[0]
    points = random_points(list(TRIGGERS), problems=3)
    got = logit_attribution(model, points, trigger_ids=TRIGGERS)
    np.testing.assert_allclose(got.contribution.sum(1), got.total, atol=2e-3, rtol=2e-3)
    if model.name == "tiny-gemma2":
        return  # its logits are softcapped after the unembedding
    others = [token for token in range(model.cfg.d_vocab) if token not in TRIGGERS]
    weight = model.plain.module.get_output_embeddings().weight
    bias = getattr(model.bridge.ln_final.original_component, "bias", None)
    for index, point in enumerate(points.all):
        at_event = model.logits(points.events[point.event].context)[0, -1]
        shares = at_event[list(TRIGGERS)].softmax(-1)
        logits = model.logits(point.context)[0, -1]
        expected = float(shares @ logits[list(TRIGGERS)] - logits[others].mean())
        if bias is not None:
            expected -= float(bias @ (shares @ weight[list(TRIGGERS)] - weight[others].mean(0)))
        assert got.total[index] == pytest.approx(expected, abs=5e-3, rel=5e-3)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_heads_add_up_to_their_layer_where_the_output_has_no_bias(name):
    """Also with grouped keys and values, and with a norm between the heads and the stream."""
    module = tiny_hf(name)
    with torch.no_grad():
        for own, parameter in module.named_parameters():
            if own.endswith(("o_proj.bias", "attn.c_proj.bias", "attention.dense.bias")):
                parameter.zero_()
    model, points = (
        HookedReasoner.from_hf(module, tiny_tokenizer(), name=name),
        random_points(list(TRIGGERS), problems=2),
    )
    got = logit_attribution(model, points, trigger_ids=TRIGGERS)
    by_layer = got.head_contribution.reshape(len(points.all), model.cfg.n_layers, model.cfg.n_heads).sum(2)
    attention = [got.components.index(f"attn.{layer}") for layer in range(model.cfg.n_layers)]
    np.testing.assert_allclose(by_layer, got.contribution[:, attention], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["qwen2", "gpt2", "neox", "qwen3"])
def test_it_agrees_with_the_attribution_of_transformer_lens_by_component_and_by_head(name):
    """Its own needs the norm folded into the weights, ours does not; grouped heads, biases, both kinds of norm."""
    points = random_points([TRIGGERS[0]], problems=2)
    model = HookedReasoner.from_hf(tiny_hf(name), tiny_tokenizer(), name=name)
    got = logit_attribution(model, points)
    folded = HookedReasoner.from_hf(tiny_hf(name), tiny_tokenizer(), name=name).bridge
    folded.enable_compatibility_mode(fold_value_biases=False)
    for index, point in enumerate(points.all):
        options = {"answer_tokens": torch.tensor([point.token_id]), "pos": -1}
        ids = torch.tensor([point.context])
        with torch.no_grad():
            heads = direct_logit_attribution(folded, ids, unit="head", **options)
            parts = direct_logit_attribution(folded, ids, unit="component", **options)
        expected = heads.attribution.flatten()[: len(got.heads)]
        assert [f"L{head.layer}H{head.head}" for head in got.heads] == heads.labels[: len(got.heads)]
        np.testing.assert_allclose(got.head_contribution[index], expected, atol=1e-4)
        expected = dict(zip(parts.labels, parts.attribution.flatten().tolist(), strict=True))
        expected["embed"] += expected.pop("pos_embed", 0.0)
        np.testing.assert_allclose(got.contribution[index, :-1], list(expected.values()), atol=1e-4)


def test_the_planted_head_is_named_and_neither_its_neighbour_nor_any_other():
    model, trigger = planted_head()
    table = logit_attribution(model, head_points(trigger), trigger_ids=[trigger]).to_pandas().set_index("component")
    named, layer = f"attn.{LAYER}.h{HEAD}", f"attn.{LAYER}"
    assert set(table.sort_values(by="difference").index[-2:]) == {named, layer}
    others = table.drop(index=[named, layer])["difference"].abs()
    assert table.loc[named, "difference"] > 5 * others.max()
    assert table.loc[named, "q"] < 0.01
    assert table.loc[f"attn.{LAYER}.h{NEIGHBOUR}", "difference"] == pytest.approx(0, abs=0.05)
    assert (table.loc[named, "part"], table.loc[named, "layer"], table.loc[named, "head"]) == ("head", LAYER, HEAD)


def test_events_without_controls_have_no_difference(tiny):
    points = random_points(list(TRIGGERS), problems=2, controls=False)
    table = logit_attribution(tiny, points, trigger_ids=TRIGGERS).to_pandas()
    assert bool(table["event"].notna().all())
    assert table[["control", "difference", "q"]].isna().to_numpy().all()
    assert table["pairs"].max() == 0


def test_a_trigger_id_outside_the_vocabulary_is_refused(tiny):
    with pytest.raises(InputError, match="do not fit a vocabulary"):
        logit_attribution(tiny, random_points(5, problems=2), trigger_ids=[10**6])
