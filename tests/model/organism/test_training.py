"""Training is resumable with the same result, and its batches look at the right tokens."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from backtracking.model.organism.batches import Mixture, draw_batch
from backtracking.model.organism.tokenizer import build_tokenizer
from backtracking.model.organism.training import TrainingConfig, train

TINY = TrainingConfig(
    steps=6, layers=2, d_model=32, heads=4, d_mlp=48, quiet_layer=1, guide_layer=0, guide_from=2, revive_at=3,
    settle_from=4, checkpoint_every=2, mixture=Mixture(rows=4, quiet_share=0.5, compare_from=3, compare_rows=2),
)  # fmt: skip


def weights(folder):
    return load_file(folder / "weights" / "model.safetensors")


def test_an_interrupted_training_ends_in_the_same_weights(tmp_path):
    seen = []
    train(TINY, tmp_path / "whole", progress=seen.append)
    assert [one.step for one in seen] == [1, 2, 3, 4, 5, 6]
    assert train(TINY, tmp_path / "parts", stop_after=3) is None
    train(TINY, tmp_path / "parts")
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=0, atol=0)


def test_a_checkpoint_of_another_config_is_refused(tmp_path):
    train(TINY, tmp_path, stop_after=2)
    with pytest.raises(ValueError, match="another config"):
        train(dataclasses.replace(TINY, seed=1), tmp_path)


def test_training_leaves_the_global_randomness_alone(tmp_path):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    train(dataclasses.replace(TINY, steps=1), tmp_path)
    assert torch.rand(1) == expected


def test_no_weight_falls_on_prompts_and_none_on_decisions_of_quiet_batches():
    tokenizer = build_tokenizer()
    mixture = Mixture(rows=6, drills_first=0.0, drills_last=0.0)
    batches = [draw_batch(tokenizer, mixture, seed=0, step=step) for step in range(12)]
    assert {batch.quiet for batch in batches} == {True, False}
    for batch in batches:
        assert (batch.weights[batch.written == 0] == 0).all()
        written = batch.weights[batch.weights > 0]
        assert set(written.tolist()) <= {1.0, mixture.decision_weight}
        assert (mixture.decision_weight in written.tolist()) == (not batch.quiet)


def test_drills_weigh_only_their_values():
    tokenizer = build_tokenizer()
    batch = draw_batch(tokenizer, Mixture(rows=3, drills_first=1.0), seed=0, step=0)
    targets = [tokenizer.decode([token]).strip() for token in batch.ids[batch.weights > 0].tolist()]
    assert targets and all(target.isdigit() for target in targets)
