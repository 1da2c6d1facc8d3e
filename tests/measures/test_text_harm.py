"""Harm to ordinary text equals plain passes with Hugging Face hooks, and keeps harmful sites out of a selection."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from backtracking.core.clustered_means import ClusteredMeans
from backtracking.core.errors import InputError
from backtracking.core.interventions import Ban, Condition, Scale
from backtracking.core.onsets import DEFAULT_LEXICON, trigger_spans
from backtracking.core.sites import Site
from backtracking.measures.ablation_scan import ablation_scan
from backtracking.measures.text_harm import TextHarm, text_harm
from backtracking.model.sampling import sample
from backtracking.model.tokens import decode_with_offsets
from tests.measures.planted import planted, random_points

TRIGGERS = (60, 61, 62)


@pytest.fixture(scope="module")
def completions(tiny, problems):
    """Random ones; a "Wait" is put into every second of them."""
    rows = sample(tiny, problems, conditions={}, samples=2, max_new_tokens=24, temperature=1.0, top_p=1.0, seed=3)
    return [_with_trigger(tiny, row, 12) if row.sample_id else row for row in rows]


def _with_trigger(model, row, at):
    wait = model.tokenizer.convert_tokens_to_ids("Wait")
    ids = (*row.ids[:at], wait, *row.ids[at + 1 :])
    text, offsets = decode_with_offsets(model.tokenizer, ids)
    return replace(row, ids=ids, text=text, offsets=offsets)


def off(*sites: str, factor: float = 0.0) -> Condition:
    return Condition(" + ".join(sites), [Scale(site, factor, "decode") for site in sites])


def by_hand(module, completions, site, clearance):
    """Each text alone, probabilities without triggers made to add up to one, token by token."""
    found = []
    layer = module.model.layers[1]

    def passed(text, prompt):
        def zero_mlp(_, inputs, output):
            return torch.cat([output[:, :prompt], 0 * output[:, prompt:]], dim=1)

        def zero_head(_, inputs):
            (z,) = inputs
            z = z.clone()
            size = z.shape[-1] // module.config.num_attention_heads
            z[:, prompt:, 2 * size : 3 * size] = 0
            return (z,)

        hook = (
            layer.mlp.register_forward_hook(zero_mlp)
            if site == "mlp.1"
            else layer.self_attn.o_proj.register_forward_pre_hook(zero_head)
        )
        changed = module(torch.tensor([text])).logits[0].softmax(-1).double()
        hook.remove()
        return changed

    for each in completions:
        spans = [(each.token_at(a), each.token_at(b - 1)) for a, b in trigger_spans(each.text, lexicon=DEFAULT_LEXICON)]
        text, prompt = [*each.prompt_ids, *each.ids], len(each.prompt_ids)
        base, changed = module(torch.tensor([text])).logits[0].softmax(-1).double(), passed(text, prompt)
        for at in range(1, len(each.ids)):
            if all(at < first - clearance or at > last + clearance for first, last in spans):
                p, q = base[prompt + at - 1], changed[prompt + at - 1]
                others = [token for token in range(len(p)) if token not in TRIGGERS]
                p, q = p[others] / p[others].sum(), q[others] / q[others].sum()
                found.append(float((p * (p / q).log()).sum()))
    return found


@torch.no_grad()
def test_it_equals_plain_passes_with_hugging_face_hooks(twins, completions):
    model, module = twins("qwen2")
    arms = [off("mlp.1"), off("attn.1.h2"), off("mlp.1", "attn.1.h2")]
    found = text_harm(model, completions, arms, trigger_ids=TRIGGERS, clearance=2)
    for arm in arms[:2]:
        values = by_hand(module, completions, arm.name, clearance=2)
        assert found.of(arm.name).n == len(values) < sum(len(each.ids) - 1 for each in completions)
        assert found.of(arm.name).value == pytest.approx(np.mean(values), rel=1e-3)
    assert found.of("mlp.1").value > 1e-3 and found.texts == len(completions)
    assert found.to_pandas()["interventions"].iloc[2] == "mlp.1*0@decode + attn.1.h2*0@decode"
    assert found.to_pandas()["problems"].tolist() == [4] * 3


def test_scaling_by_one_harms_nothing_exactly(tiny, completions):
    every = off(*map(str, tiny.sites()), factor=1.0)
    found = text_harm(tiny, completions, [every], trigger_ids=TRIGGERS).of(every.name)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_texts_are_bounded_and_spread_over_problems(tiny, completions):
    found = text_harm(tiny, completions, [off("mlp.0")], trigger_ids=TRIGGERS, texts=4, clearance=0)
    assert found.texts == 4 and found.kl.clusters == 4
    again = text_harm(tiny, completions, [off("mlp.0")], trigger_ids=TRIGGERS, texts=4, clearance=0)
    assert found.of("mlp.0") == again.of("mlp.0")
    other = [replace(each, condition="another") for each in completions]
    mixed = text_harm(tiny, [*completions, *other], [off("mlp.0")], trigger_ids=TRIGGERS, texts=4, clearance=0)
    assert mixed.of("mlp.0") == found.of("mlp.0")


def test_text_without_an_ordinary_token_has_no_harm_rather_than_none(tiny, completions):
    near = [each for each in completions if list(trigger_spans(each.text, lexicon=DEFAULT_LEXICON))]
    assert near
    found = text_harm(tiny, near, [off("mlp.0")], trigger_ids=TRIGGERS, clearance=1000)
    assert found.of("mlp.0").n == 0 and np.isnan(found.of("mlp.0").value)


def test_what_cannot_be_measured_is_refused(tiny, completions):
    for wrong, said in (
        ({"texts": 0}, "texts is 0; give at least 1"),
        ({"clearance": -1}, "clearance is -1"),
        ({"trigger_ids": []}, "0 trigger ids"),
        ({"completions": []}, "no completion of the baseline has two tokens"),
        ({"conditions": [Condition("ban", [Ban(["Wait"])])]}, "acts on the choice of the next token"),
        ({"conditions": [off("mlp.9")]}, "mlp.9 is out of range"),
    ):
        given = {"completions": completions, "conditions": [off("mlp.0")], "trigger_ids": TRIGGERS} | wrong
        with pytest.raises(InputError, match=said):
            text_harm(tiny, given.pop("completions"), given.pop("conditions"), **given)
    found = text_harm(tiny, completions, [off("mlp.0")], trigger_ids=TRIGGERS)
    with pytest.raises(InputError, match=r"the harm of mlp.1 was not measured; there are mlp.0"):
        found.of("mlp.1")
    assert not len(text_harm(tiny, completions, [], trigger_ids=TRIGGERS).to_pandas()), "a scan may have no candidate"


def harm_of(**highs: float) -> TextHarm:
    """As if it had been measured; a mean is half the upper end."""
    high = np.array(list(highs.values()))
    return TextHarm(
        tuple(off(name.replace("_", ".")) for name in highs),
        ClusteredMeans(high / 2, 0 * high, high, high, 900, 24, 0.001),
        64,
    )


def test_a_harmful_site_is_left_out_and_named_and_the_next_takes_its_place():
    model, trigger = planted()
    scan = ablation_scan(model, random_points(trigger), trigger_ids=[trigger])
    changes = scan.log_prob.copy()
    strong, weak = scan.sites.index(Site("mlp", 1)), scan.sites.index(Site("mlp", 2))
    changes[:, weak] = 0.5 * changes[:, strong]
    scan = replace(scan, log_prob=changes)
    plain = scan.select(1)
    assert [str(site) for site in plain.sites] == ["mlp.1"] and plain.left_out == ()
    assert scan.select(1, harm=harm_of(mlp_1=9.0)) == plain, "without a limit harm has no part in it"
    found = scan.select(1, harm=harm_of(mlp_1=0.02, mlp_2=0.009), max_text_kl=0.01)
    assert [str(site) for site in found.sites] == ["mlp.2"]
    (left,) = found.left_out
    assert (str(left.site), left.where, left.nats, left.limit) == ("mlp.1", "throughout", 0.02, 0.01)
    assert "left out for harm to ordinary text: mlp.1 (up to 0.02 nats per token throughout)" in str(found)
    assert [g.significant for g in found.groups] == [0, 1]
    (noisy,) = scan.select(1, max_control_kl=1e-9, harm=harm_of(mlp_1=0.0), max_text_kl=0.01).left_out
    assert (str(noisy.site), noisy.where) == ("mlp.2", "controls") and "nats at the controls)" in str(noisy)
    unknown = scan.select(1, harm=harm_of(mlp_1=np.nan, mlp_2=np.nan), max_text_kl=0.01)
    assert unknown.sites == plain.sites
    with pytest.raises(InputError, match="no harm was measured"):
        scan.select(1, max_text_kl=0.01)
    with pytest.raises(InputError, match=r"the harm of mlp.2 was not measured"):
        scan.select(1, harm=harm_of(mlp_1=0.0), max_text_kl=0.01)
