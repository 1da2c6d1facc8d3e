"""The lens norms and unembeds once: its last layer is the model's logits, its others Hugging Face's hidden states."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformer_lens.tools.analysis import logit_readout

from backtracking.core.errors import InputError
from backtracking.measures import logit_lens as lens_module
from backtracking.measures.logit_lens import LensError, logit_lens
from backtracking.model.last_position import last_positions
from tests.measures.planted import LAYER, planted, random_points


def by_hugging_face(module, point):
    """Logits per layer from hidden states; Hugging Face's last one is normed already."""
    out = module(torch.tensor([point.context]), output_hidden_states=True)
    inner = module.get_decoder()
    norm = getattr(inner, "norm", None) or getattr(inner, "ln_f", None) or inner.final_layer_norm
    states = [norm(h[0, -1]) for h in out.hidden_states[1:-1]] + [out.hidden_states[-1][0, -1]]
    logits = torch.stack([module.get_output_embeddings()(state) for state in states])
    cap = getattr(module.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def test_every_layer_equals_hugging_faces_hidden_states(twin):
    model, module = twin
    points = random_points([60, 7], problems=3)
    lens = logit_lens(model, points)
    assert lens.logit.shape == (12, 3) and lens.largest_difference < 1e-3
    with torch.no_grad():
        for row, point in enumerate(points.all):
            logits = by_hugging_face(module, point)
            token = point.token_id
            np.testing.assert_allclose(lens.logit[row], logits[:, token], atol=1e-3)
            np.testing.assert_allclose(lens.log_prob[row], logits.log_softmax(-1)[:, token], atol=1e-3)
            order = logits.argsort(-1, descending=True)
            assert lens.rank[row].tolist() == [order[layer].tolist().index(token) for layer in range(3)]
            np.testing.assert_allclose(lens.logit[row, -1], model.logits(list(point.context))[0, -1, token], atol=1e-3)


@pytest.mark.parametrize("name", ["qwen2", "gemma2", "gpt2"])
def test_a_lens_that_norms_twice_is_refused(twins, name, monkeypatch):
    """What the published study's last layer did."""
    model = twins(name)[0]

    def twice(model, resid):
        return logit_readout(model.bridge, model.bridge.ln_final(resid)).values.float()

    points = random_points(60, problems=2)
    logit_lens(model, points)
    monkeypatch.setattr(lens_module, "lens_logits", twice)
    with pytest.raises(LensError, match="the last layer of the lens differs"):
        logit_lens(model, points)


def test_a_lens_without_the_softcap_is_refused(twins, monkeypatch):
    model = twins("gemma2")[0]
    raw = lambda model, resid: model.bridge.ln_final(resid) @ model.bridge.W_U + model.bridge.b_U  # noqa: E731
    monkeypatch.setattr(lens_module, "lens_logits", raw)
    with pytest.raises(LensError):
        logit_lens(model, random_points(60, problems=4))


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_batches_and_padding_change_nothing(tiny, batch):
    points = random_points([60, 61], problems=4)
    contexts = [p.context for p in points.all]
    assert sorted(i for b in last_positions(tiny, contexts, batch=batch) for i in b.indices) == list(range(16))
    found, alone = (logit_lens(tiny, points, batch=b) for b in (batch, 1))
    np.testing.assert_allclose(found.log_prob, alone.log_prob, atol=1e-4)
    assert (found.rank == alone.rank).all()


def test_the_small_chunks_of_a_large_vocabulary_change_nothing(tiny, monkeypatch):
    points = random_points([60, 61], problems=4)
    whole = logit_lens(tiny, points)
    monkeypatch.setattr(lens_module, "_VALUES_AT_ONCE", 2000)
    np.testing.assert_allclose(logit_lens(tiny, points).log_prob, whole.log_prob, atol=1e-5)


def test_permuting_the_points_permutes_the_result(tiny):
    points = random_points([60, 61], problems=3)
    order = [3, 0, 5, 1, 4, 2]
    moved = replace(
        points,
        events=tuple(replace(points.events[old], event=new) for new, old in enumerate(order)),
        controls=tuple(replace(points.controls[old], event=new) for new, old in enumerate(order)),
    )
    lens, other = logit_lens(tiny, points), logit_lens(tiny, moved)
    rows = [*order, *(6 + old for old in order)]
    for name in ("logit", "log_prob", "rank"):
        np.testing.assert_allclose(getattr(other, name), getattr(lens, name)[rows], atol=1e-4)
    values = ["event", "control", "difference"]
    np.testing.assert_allclose(other.to_pandas()[values], lens.to_pandas()[values], atol=1e-4)


def test_a_planted_layer_is_where_the_trigger_appears():
    model, trigger = planted()
    table = logit_lens(model, random_points(trigger)).to_pandas()
    rows = table[table["quantity"] == "log_prob"].set_index("layer")
    assert abs(rows["difference"][LAYER - 1]) < 0.5 and rows["q"][LAYER - 1] > 0.05
    for layer in (LAYER, LAYER + 1):
        assert rows["difference_low"][layer] > 2 and rows["q"][layer] < 0.01
    ranks = table[table["quantity"] == "rank"].set_index("layer")
    assert ranks["event"][LAYER] < 3 < ranks["event"][LAYER - 1]
    assert set(table["events"]) == set(table["controls"]) == set(table["pairs"]) == {48}
    assert set(table["problems"]) == {24}


def test_a_control_is_read_for_its_events_token_and_no_other(tiny):
    points = random_points([60, 7], problems=4)
    lens = logit_lens(tiny, points)
    table = lens.to_pandas()
    expected = [tiny.logits(list(c.context))[0, -1].log_softmax(-1)[points.events[c.event].token_id].item()
                for c in points.controls]  # fmt: skip
    last = table[(table["quantity"] == "log_prob") & (table["layer"] == 2)].iloc[0]
    assert last["control"] == pytest.approx(np.mean(expected), abs=1e-4)
    wrong = tuple(replace(c, token_id=points.events[c.event ^ 1].token_id) for c in points.controls)
    other = logit_lens(tiny, replace(points, controls=wrong)).to_pandas()
    assert (other["event"] == table["event"]).all()
    changed = (
        other[other["quantity"] == "log_prob"]["control_low"] - table[table["quantity"] == "log_prob"]["control_low"]
    )
    assert changed.abs().max() > 1e-3


def test_an_event_without_control_counts_as_an_event_and_not_as_a_pair(tiny):
    points = random_points(60, problems=4)
    fewer = replace(points, controls=points.controls[1:])
    table = logit_lens(tiny, fewer).to_pandas()
    assert set(table["events"]) == {8} and set(table["controls"]) == set(table["pairs"]) == {7}
    lens = logit_lens(tiny, points)
    expected = (lens.logit[1:8] - lens.logit[9:]).mean(0)
    np.testing.assert_allclose(table[table["quantity"] == "logit"]["difference"], expected, atol=1e-4)
    none = logit_lens(tiny, replace(points, controls=())).to_pandas()
    assert none[["control", "difference", "p", "q"]].isna().all().all() and none["event"].notna().all()


def test_the_frame_of_points_is_long(tiny):
    points = random_points(60, problems=2)
    lens = logit_lens(tiny, points)
    frame = lens.points_to_pandas()
    assert len(frame) == 8 * 3
    row = frame[(frame["kind"] == "control") & (frame["event"] == 2) & (frame["layer"] == 1)].iloc[0]
    assert row["log_prob"] == lens.log_prob[4 + 2, 1] and row["context_tokens"] == len(points.controls[2].context)


def test_what_cannot_be_read_is_refused(tiny):
    points = random_points(60, problems=1)
    with pytest.raises(InputError, match="no decision points"):
        logit_lens(tiny, replace(points, events=(), controls=()))
    with pytest.raises(InputError, match="token 9999"):
        logit_lens(tiny, random_points(9999, problems=1))
    with pytest.raises(InputError, match="batch of 0"):
        logit_lens(tiny, points, batch=0)
