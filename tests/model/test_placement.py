"""Models spread over devices or quantized: what works on a CPU, and what is refused where it cannot be had."""

import importlib.util
from types import SimpleNamespace

import pytest
import torch

from backtracking.core.errors import InputError
from backtracking.core.interventions import BASELINE, Condition, Scale
from backtracking.core.sites import Site
from backtracking.experiments.config import Config
from backtracking.model.loading import load_model
from backtracking.model.placement import require_no_offload
from backtracking.model.sampling import next_logits, sample
from backtracking.model.self_check import self_check

ARMS = (BASELINE, Condition("off", [Scale(Site("mlp", 1), 0.0, "decode")]))
OPTIONS = {"conditions": ARMS, "samples": 2, "max_new_tokens": 8, "seed": 1}


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}])
def test_a_model_that_accelerate_placed_is_the_model(tiny_folder, problems, device_map):
    if device_map == "auto" and torch.cuda.is_available():
        pytest.skip("auto takes the GPU here")
    plain = load_model(str(tiny_folder), device="cpu")
    placed = load_model(str(tiny_folder), device_map=device_map)
    assert placed.devices == (torch.device("cpu"),)
    assert placed.weights_hash == plain.weights_hash
    ids = [[3, 4, 5, 6]]
    assert torch.equal(placed.logits(ids), plain.logits(ids))
    assert all(check.ok for check in self_check(placed))
    for engine in ("packed", "bridge"):
        assert sample(placed, problems, engine=engine, **OPTIONS) == sample(plain, problems, engine=engine, **OPTIONS)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"device_map": "auto", "device": "cpu"}, "device cpu and device_map 'auto' both say where"),
        ({"device_map": "spread"}, "unknown device_map 'spread'; use auto"),
        ({"device_map": {"model": "cpu", "lm_head": "disk"}}, "unknown device_map 'disk'"),
        ({"device_map": {"": 0}}, "device_map 0 was asked for, but torch sees no GPU"),
        ({"device_map": "cuda:1"}, "device_map cuda:1 was asked for, but torch sees no GPU"),
        ({"quantization": "4bit"}, "quantization 4bit needs bitsandbytes; run: pip install bitsandbytes"),
    ],
)
def test_a_placement_that_cannot_be_had_is_refused(tiny_folder, options, reason, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else real(name, *rest)
    )
    with pytest.raises(InputError, match=reason):
        load_model(str(tiny_folder), **options)


def test_quantization_needs_a_gpu(tiny_folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: SimpleNamespace(origin="there"))
    with pytest.raises(InputError, match="quantization 8bit needs a GPU, and torch sees none here"):
        load_model(str(tiny_folder), quantization="8bit")


def test_a_model_of_which_a_part_was_put_away_is_refused():
    away = SimpleNamespace(hf_device_map={"model.embed_tokens": 0, "model.layers.2": "cpu"})
    with pytest.raises(InputError, match=r"big does not fit on the GPUs: model.layers.2 was put on the cpu"):
        require_no_offload(away, "big")
    require_no_offload(SimpleNamespace(hf_device_map={"model": 0, "lm_head": 1}), "big")


def test_the_packed_engine_refuses_a_model_on_several_devices(tiny, problems, monkeypatch):
    split = property(lambda self: (torch.device("cuda:0"), torch.device("cuda:1")))
    monkeypatch.setattr(type(tiny), "devices", split)
    with pytest.raises(InputError, match=r"spread over cuda:0, cuda:1.* engine=.bridge."):
        sample(tiny, problems, **OPTIONS)
    with pytest.raises(InputError, match=r"spread over cuda:0, cuda:1"):
        list(next_logits(tiny, [[1, 2, 3]], [BASELINE]))


def test_the_config_takes_a_placement():
    config = Config.model_validate({"model": {"hf_id": "organism", "device_map": {"model": 0}, "quantization": "8bit"}})
    assert Config.model_validate(config.model_dump()) == config
