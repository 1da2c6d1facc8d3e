"""Noise that is keyed, uniform and independent; a nucleus equal to Hugging Face's."""

import pytest
import torch
from scipy import stats
from transformers import TopPLogitsWarper

from backtracking.model.sampling import choice
from backtracking.model.sampling.choice import choose, nucleus
from backtracking.model.sampling.noise import gumbel, row_key

KNOWN = 6812424024098269737  # blake2b of "0|1|2", 8 bytes, shifted right by one


def test_keys_are_the_same_on_every_machine_and_differ_by_each_part():
    assert row_key(0, 1, 2) == row_key(0, "1", 2) == KNOWN
    parts = [(0, 1, 2), (1, 1, 2), (0, 2, 2), (0, 1, 3), (0, 12, 0), (0, 1, 20)]
    assert len({row_key(*each) for each in parts}) == len(parts)
    assert all(0 <= row_key(*each) < 2**63 for each in parts)


def test_noise_is_gumbel_over_tokens_positions_and_rows():
    keys = torch.tensor([row_key(0, problem, 0) for problem in range(40)])
    tokens = torch.arange(50).expand(40, -1)
    for noise in (
        gumbel(keys, torch.zeros(40, dtype=torch.long), tokens).flatten(),
        gumbel(keys[:1].expand(40), torch.arange(40), tokens).flatten(),
        torch.cat([gumbel(keys, torch.full((40,), p), tokens[:, :1]) for p in range(50)]).flatten(),
    ):
        assert stats.kstest(noise.numpy(), "gumbel_r").pvalue > 1e-3
    one = gumbel(keys, torch.zeros(40, dtype=torch.long), tokens)
    two = gumbel(keys, torch.ones(40, dtype=torch.long), tokens)
    assert abs(torch.corrcoef(torch.stack([one.flatten(), two.flatten()]))[0, 1]) < 0.08


def test_noise_belongs_to_the_token_not_to_its_place():
    keys, positions = torch.tensor([5, 9]), torch.tensor([3, 4])
    tokens = torch.tensor([[7, 1, 30], [2, 8, 5]])
    forward = gumbel(keys, positions, tokens)
    assert torch.equal(gumbel(keys, positions, tokens.flip(1)).flip(1), forward)
    assert torch.equal(gumbel(keys.flip(0), positions.flip(0), tokens.flip(0)).flip(0), forward)


@pytest.mark.parametrize("candidates", [4, 10, 300])
@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 5.0])
def test_the_nucleus_is_hugging_faces_or_not_settled(candidates, top_p, sharpness):
    torch.manual_seed(0)
    logits = sharpness * torch.randn(20, max(candidates, 30)).double()
    logits[:, 7] = logits[:, 3]
    warped = torch.isfinite(TopPLogitsWarper(top_p)(torch.zeros(20, 1).long(), logits / 0.8))
    best = logits.max(-1).values
    share = ((logits - best[:, None]) / 0.8).exp().sum(-1)
    options = {"temperature": 0.8, "top_p": top_p, "candidates": candidates}
    values, tokens, settled = nucleus(logits, best, share, **options)
    found = torch.zeros_like(warped)
    rows, places = torch.isfinite(values).nonzero(as_tuple=True)
    found[rows, tokens[rows, places]] = True
    assert (found[:, 3] | ~found[:, 7]).all()  # of two equals at the end the first is inside, where theirs may differ
    found[:, 3] = found[:, 7] = warped[:, 3] = warped[:, 7] = True
    assert (found == warped)[settled].all()
    assert settled.all() or candidates < logits.shape[1]
    assert settled.any() or sharpness < 5
    assert (found.sum(1) <= warped.sum(1)).all()


@pytest.mark.parametrize("top_p", [0.3, 0.95, 1.0])
@pytest.mark.parametrize("at_once", [1, 2000, 2**26])
def test_what_a_row_takes_does_not_depend_on_how_many_are_worked_on_at_once(top_p, at_once, monkeypatch):
    """Wide rows beside narrow ones: of some the nucleus is one token, of others most of the vocabulary."""
    torch.manual_seed(1)
    logits = (torch.tensor([0.01, 0.5, 3.0, 30.0]).repeat(5)[:, None] * torch.randn(20, 600)).double()
    keys, positions = torch.arange(20) * 7919, torch.arange(20)
    options = {"temperature": 0.7, "top_p": top_p}
    expected = choose(logits, **options, keys=keys, positions=positions)
    monkeypatch.setattr(choice, "CACHED", at_once)
    assert torch.equal(choose(logits, **options, keys=keys, positions=positions), expected)
    alone = [choose(logits[[i]], **options, keys=keys[[i]], positions=positions[[i]]) for i in range(20)]
    assert torch.equal(torch.cat(alone), expected)


def test_greedy_ignores_noise_and_sampling_follows_probabilities():
    logits = torch.tensor([[0.0, 2.0, 1.0]], dtype=torch.float64).expand(4000, -1)
    keys = torch.tensor([row_key(0, i, 0) for i in range(4000)])
    positions = torch.zeros(4000, dtype=torch.long)
    options = {"keys": keys, "positions": positions}
    assert (choose(logits, temperature=0, top_p=1.0, **options) == 1).all()
    counts = torch.bincount(choose(logits, temperature=1.0, top_p=1.0, **options), minlength=3)
    assert stats.chisquare(counts.numpy(), 4000 * logits[0].softmax(0).numpy()).pvalue > 1e-3
    assert set(choose(logits, temperature=1.0, top_p=0.6, **options).tolist()) == {1}


def test_a_forbidden_token_is_never_chosen_and_nan_is_an_error():
    logits = torch.tensor([[0.0, float("-inf"), 1.0]]).expand(200, -1)
    options = {"keys": torch.arange(200), "positions": torch.zeros(200, dtype=torch.long)}
    assert 1 not in choose(logits, temperature=5.0, top_p=1.0, **options)
    with pytest.raises(FloatingPointError):
        choose(logits * float("nan"), temperature=1.0, top_p=1.0, **options)
