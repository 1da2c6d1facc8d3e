"""Laws of interventions on the bridge, on every architecture."""

import pytest
import torch

from backtracking.core.errors import InputError, UnknownSiteError
from backtracking.core.interventions import At, Ban, Scale, Window
from backtracking.core.sites import COMPONENTS, Site
from tests.model.reference import ablated

IDS = torch.tensor([[5, 9, 11, 4, 30, 7, 8, 21, 6, 13, 17], [8, 6, 4, 22, 9, 10, 3, 5, 7, 12, 40]])


def test_scaling_every_site_by_one_changes_nothing_bit_for_bit(twin):
    model, _ = twin
    sites = [*model.sites(COMPONENTS), Site("attn", 1, 3), Site("attn", 0, 0)]
    before = model.logits(IDS)
    with model.intervening([Scale(site, 1.0) for site in sites], rows=2) as state:
        assert torch.equal(model.logits(IDS), before)
    assert all(receipt.positions == IDS.shape[1] for receipt in state.receipts()[0])


@pytest.mark.parametrize("site", ["mlp.0", "mlp.2", "attn.1", "attn.2"])
def test_zero_ablation_equals_the_bridges_own_hooks(twin, site):
    model, _ = twin
    name = Site.parse(site).hook_name
    expected = model.run_with_hooks(IDS, [(name, lambda activation, hook: torch.zeros_like(activation))])
    with model.intervening([Scale(site, 0.0)], rows=2):
        found = model.logits(IDS)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert not torch.equal(found, model.logits(IDS))


@pytest.mark.parametrize("text", ["mlp.1*0", "attn.1*0.5", "attn.1.h2*0", "attn.2.h3*-1.5"])
def test_scaling_equals_hugging_face_with_plain_hooks(twin, text):
    from backtracking.core.interventions import parse_intervention

    model, module = twin
    scale = parse_intervention(text)
    with ablated(module, [scale]), torch.inference_mode():
        expected = module(IDS).logits
    with model.intervening([text], rows=2):
        torch.testing.assert_close(model.logits(IDS), expected, rtol=1e-4, atol=1e-5)


def test_ablating_a_layer_does_not_change_earlier_ones(tiny):
    _, before = tiny.run_with_cache(IDS)
    with tiny.intervening([Scale("mlp.1", 0.0)], rows=2):
        _, after = tiny.run_with_cache(IDS)
    assert torch.equal(before["blocks.0.hook_resid_post"], after["blocks.0.hook_resid_post"])
    assert not torch.equal(before["blocks.1.hook_resid_post"], after["blocks.1.hook_resid_post"])


def test_rows_of_a_batch_hold_their_own_interventions(tiny):
    arms = [[Scale("mlp.0", 0.0)], [Scale("attn.2.h1", 2.0), Scale("mlp.1", 0.5)]]
    alone = []
    for row, arm in zip(IDS, arms, strict=True):
        with tiny.intervening(arm):
            alone.append(tiny.logits(row[None]))
    with tiny.intervening(arms):
        torch.testing.assert_close(tiny.logits(IDS), torch.cat(alone))


@pytest.mark.parametrize(
    ("scope", "touched"),
    [
        ("all", range(11)),
        ("prompt", range(4)),
        ("decode", range(4, 11)),
        (At([2, 7]), (2, 7)),
        (Window(3, 1), (5, 6, 7, 8, 9)),
        (Window(3, -2), (5, 6)),
    ],
)
def test_a_scope_covers_its_positions_and_no_other(tiny, scope, touched):
    scale = Scale("resid_post.0", 0.0, scope)
    with tiny.intervening([scale], prompt_lengths=[4], onsets=[8]) as state:
        _, cache = tiny.run_with_cache(IDS[:1])
    zero = (cache["blocks.1.hook_resid_pre"][0] == 0).all(-1).nonzero().flatten().tolist()
    assert zero == list(touched)
    assert state.receipts()[0][0].positions == len(touched)
    assert state.receipts()[0][0].change < 0


def test_receipts_give_the_change_of_the_norm(tiny):
    _, cache = tiny.run_with_cache(IDS[:1])
    norm = cache["blocks.1.attn.hook_z"][0, :, 2].norm(dim=-1).mean()
    with tiny.intervening([Scale("attn.1.h2", 0.25)]) as state:
        tiny.logits(IDS[:1])
    assert state.receipts()[0][0].change == pytest.approx(-0.75 * norm.item(), rel=1e-5)


def test_hooks_are_gone_after_an_exception(twin):
    model, _ = twin
    before = model.logits(IDS)
    with pytest.raises(ZeroDivisionError), model.intervening([Scale("mlp.0", 0.0)], rows=2):
        raise ZeroDivisionError
    assert torch.equal(model.logits(IDS), before)
    assert not any(point.fwd_hooks for point in model.bridge.hook_dict.values())


@pytest.mark.parametrize("site", ["mlp.3", "attn.99", "attn.0.h4", "resid_post.7"])
def test_a_site_out_of_range_is_named_with_the_valid_range(tiny, site):
    with pytest.raises(UnknownSiteError, match=rf"{site} is out of range: tiny-qwen2 has"):
        tiny.intervening([Scale(site, 0.0)]).__enter__()


def test_a_hook_point_goes_by_its_name_an_alias_or_its_site(tiny):
    ids = [5, 6, 7]
    names = ("blocks.1.hook_mlp_out", "mlp.1", Site("mlp", 1))
    zeroed = [tiny.run_with_hooks(ids, [(name, lambda act, hook: act * 0)]) for name in names]
    assert torch.equal(zeroed[0], zeroed[1]) and torch.equal(zeroed[0], zeroed[2])
    with pytest.raises(InputError, match="blocks.1.nothing"):
        tiny.run_with_hooks(ids, [("blocks.1.nothing", lambda act, hook: act)])
    with pytest.raises(InputError, match="rows of different lengths"):
        tiny.run_with_hooks([[5, 6], [5]], [])


def test_a_hook_point_the_architecture_lacks_is_refused(twins):
    model, _ = twins("neox")  # attention and MLP run in parallel: there is no middle
    with pytest.raises(UnknownSiteError, match="no hook point blocks.1.hook_resid_mid"):
        model.intervening([Scale("resid_mid.1", 0.0)]).__enter__()


def test_what_a_scope_needs_is_asked_for(tiny):
    with pytest.raises(InputError, match="needs prompt_lengths"):
        tiny.intervening([Scale("mlp.0", 0.0, "decode")]).__enter__()
    with pytest.raises(InputError, match="needs onsets"):
        tiny.intervening([Scale("mlp.0", 0.0, Window(2, 2))]).__enter__()
    with pytest.raises(InputError, match="give it to sample"):
        tiny.intervening([Ban(["Wait"])]).__enter__()


def test_a_batch_of_other_rows_than_announced_is_refused(tiny):
    with pytest.raises(InputError, match="one tuple of interventions per row"), tiny.intervening([Scale("mlp.0", 0)]):
        tiny.logits(IDS)
