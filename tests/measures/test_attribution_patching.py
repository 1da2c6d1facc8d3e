"""The estimates equal TransformerLens's own, are exact where the model is linear, and come with their error."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformer_lens.tools.analysis.attribution_patching import Node, attribution_patch

from backtracking.core.errors import InputError
from backtracking.core.sites import Site
from backtracking.measures.activation_patching import activation_patching
from backtracking.measures.attribution_patching import attribution_patching
from tests.measures.planted import random_points
from tests.measures.planted_head import HEAD, LAYER, head_points, planted_head

TRIGGERS = (60, 61, 62)


@pytest.fixture(scope="module")
def planted():
    model, trigger = planted_head()
    points = head_points(trigger)
    return attribution_patching(model, points, trigger_ids=[trigger]), points, model, trigger


@pytest.mark.parametrize("name", ["llama", "qwen2", "neox", "gpt2"])
def test_it_equals_transformer_lens_for_pairs_of_one_length(twins, name):
    model = twins(name)[0]
    points = random_points(60, problems=1)
    event, control = points.events[0], replace(points.controls[0], context=points.events[1].context[-6:])
    points = replace(points, events=(replace(event, context=event.context[-6:]),), controls=(control,))
    found = attribution_patching(
        model, points, trigger_ids=TRIGGERS, components=["mlp"], offsets=(0, -1, -5), reading="trigger_log_prob"
    )

    def metric(logits):
        return logits[0, -1].log_softmax(-1)[list(TRIGGERS)].logsumexp(-1)

    clean, corrupt = (model._tensor(list(point.context)) for point in (points.events[0], control))
    weights = model.module.get_input_embeddings().weight.requires_grad_(True)  # ours are frozen; its backward wants one
    scores = attribution_patch(model.bridge, clean, corrupt, metric).node_scores
    weights.requires_grad_(False)
    for row, site in enumerate(found.sites):
        kind = "mlp_out" if site.head is None else "attn_head_out"
        for turn, offset in enumerate(found.offsets):
            expected = scores[Node(kind, 5 + offset, layer=site.layer, head=site.head)]
            assert found.estimate[0, row, turn] == pytest.approx(expected, abs=1e-4, rel=1e-3), (str(site), offset)
    assert np.abs(found.estimate).max() > 0.01


def test_a_step_so_small_that_the_model_is_linear_is_estimated_exactly(tiny):
    """Donor and receiver differ in one token before the end: small differences leave a small part unexplained."""
    points = random_points(60, problems=6, each=1)
    near = tuple(
        replace(e, kind="control", context=(e.context[0], e.context[1], *[11 if i == 2 else c for i, c in
                enumerate(e.context)][2:])) for e in points.events
    )  # fmt: skip
    close = attribution_patching(tiny, replace(points, controls=near), trigger_ids=TRIGGERS, reading="trigger_log_prob")
    far = attribution_patching(tiny, points, trigger_ids=TRIGGERS, reading="trigger_log_prob")

    def relative(found):
        exact = found.exact.effect
        return np.abs(found.estimate[list(found.sampled)] - exact).mean() / np.abs(exact).mean()

    assert relative(close) < 0.5 * relative(far)
    assert close.error.correlation > far.error.correlation and close.error.correlation > 0.95


def test_a_planted_head_is_named_and_controls_are_not(planted):
    found, _, _, _ = planted
    table = found.to_pandas().set_index("site")
    heads = table[table["component"] == "head"]["estimate"]
    assert heads.idxmax() == f"attn.{LAYER}.h{HEAD}"
    assert heads.max() > 20 * heads.drop(index=heads.idxmax()).abs().max()
    assert table.loc[f"attn.{LAYER}.h{HEAD}", "q"] < 0.01


def test_the_error_is_that_of_exact_patching_on_the_sampled_pairs(planted):
    found, points, model, trigger = planted
    exact = activation_patching(model, points, trigger_ids=[trigger])
    assert len(found.sampled) == 16 and found.sampled == tuple(sorted(set(found.sampled)))
    np.testing.assert_allclose(found.exact.effect, exact.effect[list(found.sampled)], atol=1e-4)
    rows = found.sample_to_pandas()
    assert len(rows) == 16 * len(found.sites) == found.error.cells
    off = (rows["estimate"] - rows["exact"]).abs()
    assert found.error.largest == pytest.approx(off.max()) and found.error.mean_absolute == pytest.approx(off.mean())
    assert found.error.largest_at == rows.loc[off.idxmax(), "site"]
    assert found.error.correlation == pytest.approx(rows["estimate"].corr(rows["exact"]))
    ranks = rows["estimate"].rank().corr(rows["exact"].rank())
    assert found.error.rank_correlation == pytest.approx(ranks)
    large = rows[rows["exact"].abs() >= 0.1]
    assert found.error.sign_agreement == pytest.approx((large["estimate"] * large["exact"] > 0).mean())
    assert "16 pairs patched exactly" in str(found.error) and found.error.notable == len(large)
    kinds = found.errors_to_pandas().set_index("component")
    assert set(kinds.index) == {"resid_pre", "attn", "mlp", "resid_post", "head"}
    of_heads = rows[rows["site"].str.contains(".h", regex=False)]
    assert kinds.loc["head", "cells"] == len(of_heads) == 16 * 12
    assert kinds.loc["head", "correlation"] == pytest.approx(of_heads["estimate"].corr(of_heads["exact"]))
    table = found.to_pandas()
    assert table["sample_exact"].tolist() == pytest.approx(found.exact.effect[:, :, 0].mean(0).tolist())


def test_a_run_attributed_to_itself_is_zero_and_short_contexts_are_missing(tiny):
    points = random_points(60, problems=2)
    own = replace(points, controls=tuple(replace(e, kind="control") for e in points.events))
    found = attribution_patching(tiny, own, trigger_ids=TRIGGERS, offsets=(0, -20), sample=2, direction="noise")
    assert (found.estimate[:, :, 0] == 0).all() and np.isnan(found.estimate[:, :, 1]).all()
    table = found.to_pandas()
    assert table.loc[table["offset"] == -20, ["estimate", "sample_exact", "p", "q"]].isna().all().all()
    assert np.isnan(found.error.correlation) and np.isnan(found.error.sign_agreement)


def test_the_last_stream_is_attributed_by_the_gradient_through_the_norm_alone(tiny):
    """Written out with autograd on the final norm and the unembedding, without any hook."""
    points = random_points(60, problems=2)
    found = attribution_patching(tiny, points, trigger_ids=TRIGGERS, components=["resid_post"], layers=[2], heads=False)
    assert found.sites == (Site("resid_post", 2),)
    module = tiny.plain.module
    for row, pair in enumerate(found.pairs):
        streams = [
            tiny.run_with_cache(list(p.context))[1]["blocks.2.hook_resid_post"][0, -1]
            for p in (pair.event, pair.control)
        ]
        stream = streams[1].clone().requires_grad_(True)
        logits = module.lm_head(module.model.norm(stream[None, None]))[0, 0]
        numbers = logits.tolist()
        best = max((i for i in range(len(numbers)) if i not in TRIGGERS), key=lambda i: numbers[i])
        (gradient,) = torch.autograd.grad(logits[list(TRIGGERS)].logsumexp(-1) - logits[best], stream)
        expected = float((streams[0] - streams[1]) @ gradient)
        assert found.estimate[row, 0, 0] == pytest.approx(expected, abs=1e-3, rel=1e-3)


def test_a_sample_of_nothing_is_refused(tiny):
    with pytest.raises(InputError, match="a sample of 0 pairs"):
        attribution_patching(tiny, random_points(60, problems=1), trigger_ids=TRIGGERS, sample=0)
