"""Direct paths equal TransformerLens's own and the closed form at the logits; impossible ones are missing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformer_lens.patching import get_act_patch_direct_path

from backtracking.core.errors import InputError
from backtracking.core.sites import Site
from backtracking.measures.activation_patching import activation_patching
from backtracking.measures.path_patching import path_patching
from tests.measures.planted import random_points
from tests.measures.planted_head import HEAD, LAYER, head_points, planted_head

TRIGGERS = (60, 61, 62)


@pytest.fixture(scope="module")
def planted():
    model, trigger = planted_head()
    points = head_points(trigger, problems=16)
    return model, points, trigger


def one_pair(length=7):
    points = random_points(60, problems=1)
    events = [replace(e, context=(*range(20, 20 + length - 6), *e.context[-6:])) for e in points.events]
    control = replace(points.controls[0], context=events[1].context)
    return replace(points, events=(events[0],), controls=(control,))


@pytest.mark.parametrize(
    ("name", "into"),
    [("llama", "q"), ("qwen2", "q"), ("qwen3", "q"), ("gpt2", "q"), ("gpt2", "k"), ("gpt2", "v"), ("neox", "v")],
)
def test_paths_between_heads_equal_transformer_lens(twins, name, into):
    model, points = twins(name)[0], one_pair()
    everywhere = range(-6, 1)
    found = path_patching(model, points, senders=["attn.0.h1"], trigger_ids=TRIGGERS, into=into, offsets=everywhere)
    onset, control = list(points.events[0].context), list(points.controls[0].context)
    (_, clean), (base, corrupt) = model.run_with_cache(onset), model.run_with_cache(control)

    def reading(logits):
        row = logits[0, -1]
        others = torch.tensor([i for i in range(len(row)) if i not in TRIGGERS])
        return row[list(TRIGGERS)].logsumexp(0) - row[others].max()

    tokens = torch.tensor([control])
    with torch.no_grad():
        expected = get_act_patch_direct_path(
            model.bridge, tokens, clean, corrupt, reading, 0, 1, component=into, verbose=False
        )
    heads = [Site.parse(receiver) for receiver in found.receivers[:-1]]
    assert len(heads) == 8 and found.receivers[-1] == "logits"
    for column, head in enumerate(heads):
        wanted = float(expected[head.layer, head.head] - reading(base))
        assert found.effect[0, 0, column] == pytest.approx(wanted, abs=1e-4), str(head)
    assert np.abs(found.effect[0, 0, :-1]).max() > 1e-3
    assert not model.bridge.cfg.use_split_qkv_input


def test_the_path_to_the_logits_is_what_the_head_adds_before_the_final_norm(tiny):
    points = random_points(60, problems=2)
    found = path_patching(tiny, points, senders=["attn.1.h3"], trigger_ids=TRIGGERS, receivers=["logits"])
    module = tiny.plain.module
    output = module.model.layers[1].self_attn.o_proj.weight[:, 3 * 8 : 4 * 8]
    for row, pair in enumerate(found.pairs):
        onset, control = (tiny.run_with_cache(list(p.context))[1] for p in (pair.event, pair.control))
        change = output @ (onset["blocks.1.attn.hook_z"] - control["blocks.1.attn.hook_z"][:, -1:])[0, -1, 3]
        stream = control["blocks.2.hook_resid_post"][0, -1]
        odds = []
        for each in (stream, stream + change):
            logits = module.lm_head(module.model.norm(each[None, None]))[0, 0].tolist()
            others = max(value for index, value in enumerate(logits) if index not in TRIGGERS)
            odds.append(float(np.log(np.exp([logits[index] for index in TRIGGERS]).sum())) - others)
        assert found.effect[row, 0, 0] == pytest.approx(odds[1] - odds[0], abs=1e-4)


def test_heads_of_the_last_layer_reach_the_logits_by_the_direct_path_alone(tiny):
    """There patching the head and patching its path to the logits differ only by the MLP between them."""
    points = random_points(60, problems=3)
    silent = tiny.module.model.layers[2].mlp.down_proj.weight
    kept = silent.detach().clone()
    silent.data.zero_()
    try:
        paths = path_patching(tiny, points, senders=["attn.2.h0", "attn.2.h1"], trigger_ids=TRIGGERS)
        whole = activation_patching(tiny, points, trigger_ids=TRIGGERS, components=[], layers=[2])
    finally:
        silent.data.copy_(kept)
    assert paths.receivers == ("logits",)
    np.testing.assert_allclose(paths.effect[:, :, 0], whole.effect[:, :2, 0], atol=1e-4)
    assert np.abs(paths.effect).max() > 0.01


def test_a_planted_head_writes_straight_to_the_logits(planted):
    model, points, trigger = planted
    for direction, sign in (("denoise", 1), ("noise", -1)):
        found = path_patching(
            model, points, senders=[f"attn.{LAYER}.h{HEAD}", "attn.1.h3", "attn.0.h0"], trigger_ids=[trigger],
            direction=direction,
        )  # fmt: skip
        table = found.to_pandas().set_index(["sender", "receiver"])
        straight = table.loc[(f"attn.{LAYER}.h{HEAD}", "logits")]
        assert sign * straight["effect"] > 5 and straight["share"] > 0.9 and straight["q"] < 0.05
        rest = table.drop(index=(f"attn.{LAYER}.h{HEAD}", "logits"))["effect"]
        assert rest.abs().max() < 0.1


def test_paths_that_cannot_be_are_missing_not_zero(planted):
    model, points, trigger = planted
    receivers = ["attn.0.h0", "attn.1.h3", "attn.2.h1", "logits"]
    found = path_patching(model, points, senders=["attn.1.h2"], trigger_ids=[trigger], receivers=receivers)
    assert np.isnan(found.effect[:, 0, :2]).all() and np.isfinite(found.effect[:, 0, 2:]).all()
    table = found.to_pandas().set_index("receiver")
    assert table.loc[["attn.0.h0", "attn.1.h3"], ["effect", "effect_low", "p", "q", "share"]].isna().all().all()
    earlier = path_patching(model, points, senders=["attn.1.h2"], trigger_ids=[trigger], offsets=[-1])
    assert np.isnan(earlier.effect[:, 0, -1]).all() and np.isfinite(earlier.effect[:, 0, 4:-1]).all()
    far = path_patching(model, points, senders=["attn.1.h2"], trigger_ids=[trigger], offsets=[0, -9])
    lengths = [min(len(p.event.context), len(p.control.context)) for p in far.pairs]
    assert far.too_short == sum(length < 10 for length in lengths) > 0
    assert set(far.to_pandas()["pairs"]) == {32 - far.too_short}


def test_patching_from_itself_is_zero(tiny):
    points = random_points(60, problems=2)
    own = replace(points, controls=tuple(replace(e, kind="control") for e in points.events))
    found = path_patching(tiny, own, senders=["attn.0.h2"], trigger_ids=TRIGGERS)
    assert (found.effect[:, 0, 4:] == 0).all() and (found.gap == 0).all()


def test_what_has_no_direct_path_is_refused(twins, tiny):
    points = random_points(60, problems=1)
    for words, options in (
        ("mlp.1 is no head", {"senders": ["mlp.1"]}),
        ("attn.1 is no head", {"senders": ["attn.0.h0"], "receivers": ["attn.1"]}),
        ("no senders", {"senders": []}),
        ("share keys and values", {"senders": ["attn.0.h0"], "into": "v"}),
        ("heads 0 to 3", {"senders": ["attn.0.h4"]}),
    ):
        with pytest.raises(InputError, match=words):
            path_patching(tiny, points, trigger_ids=TRIGGERS, **options)
    with pytest.raises(InputError, match="changes what heads write"):
        path_patching(twins("gemma2")[0], points, senders=["attn.0.h0"], trigger_ids=TRIGGERS)
