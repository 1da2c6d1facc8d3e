"""Laws of the shorter way through a model: only what gives the same is shortened, and hooks are heeded everywhere."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers.models.qwen2 import modeling_qwen2

from backtracking.model.sampling.attention import use_packed_attention
from backtracking.model.sampling.replaced import Replaced
from backtracking.model.sampling.shorter import shorter
from tests.model.test_blocks import a_step
from tests.tiny import tiny_hf

SHORTENED = {
    "llama": True,
    "qwen2": True,
    "mistral": True,
    "qwen3": True,
    "gemma2": False,  # it scales what is embedded, and squeezes its logits
    "neox": False,
    "gpt2": False,
}
MODEL, STACK = modeling_qwen2.Qwen2ForCausalLM, modeling_qwen2.Qwen2Model


def a_model(family="qwen2"):
    """One that could be decoded."""
    module = tiny_hf(family)
    use_packed_attention(module)
    return module


def shortened(module):
    """Whether it is."""
    with torch.inference_mode():
        return "" in shorter(module)


@pytest.mark.parametrize("family", SHORTENED)
def test_which_models_are_shortened(family):
    module = a_model(family)
    assert shortened(module) == SHORTENED[family]
    expected = a_step(module) if SHORTENED[family] else None
    replaced = Replaced.of(module)
    assert ("" in replaced.names) == SHORTENED[family]
    if expected is not None:
        with replaced.installed():
            torch.testing.assert_close(a_step(module), expected, atol=2e-5, rtol=1e-4)


def test_a_model_that_does_something_else_is_left_alone(monkeypatch):
    real_model, real_stack = MODEL.forward, STACK.forward

    def model_with(change):
        def forward(self, **named):
            found = real_model(self, **named)
            found.logits = change(found.logits)
            return found

        return forward

    def stack_with(change):
        def forward(self, **named):
            found = real_stack(self, **named)
            found.last_hidden_state = change(found.last_hidden_state)
            return found

        return forward

    for change in (
        lambda x: x * 1.001,
        lambda x: 30 * torch.tanh(x / 30),  # as of Gemma 2
        lambda x: x.clamp(-100, 100),
        lambda x: x + 1,
    ):
        for kind, forward in ((MODEL, model_with(change)), (STACK, stack_with(change))):
            with monkeypatch.context() as changed:
                changed.setattr(kind, "forward", forward)
                assert not shortened(a_model())
    assert shortened(a_model())


@pytest.mark.parametrize("what", ["ids", "angles", "blocks", "mask", "twice", "ours"])
def test_a_stack_that_calls_its_modules_otherwise_is_left_alone(monkeypatch, what):
    def forward(self, input_ids, position_ids, packed, **_):
        hidden = self.embed_tokens(input_ids + 1 if what == "ids" else input_ids)
        angles = self.rotary_emb(hidden, position_ids + 1 if what == "angles" else position_ids)
        for index, layer in enumerate(self.layers):
            if what == "blocks" and index == 1:
                continue
            for _ in range(1 + (what == "twice")):
                mask = torch.zeros(1) if what == "mask" else None
                cache = None if what == "ours" and index else packed
                hidden = layer(hidden, attention_mask=mask, position_embeddings=angles, packed=cache)
        return modeling_qwen2.BaseModelOutputWithPast(last_hidden_state=self.norm(hidden))

    monkeypatch.setattr(STACK, "forward", forward)
    assert not shortened(a_model())
    what = "nothing else"
    assert shortened(a_model())


def test_what_has_changed_since_is_heeded():
    module = a_model()
    assert shortened(module)
    module.config.num_hidden_layers -= 1
    assert not shortened(module)
    module.config.num_hidden_layers += 1
    assert shortened(module)
    module.model.forward = lambda **named: STACK.forward(module.model, **named)
    assert not shortened(module)


@pytest.mark.parametrize("name", ["", "model", "model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head"])
def test_hooks_see_and_change_what_they_did_before(name):
    module, seen = a_model(), []

    def after(_module, _given, found):
        if name == "model.rotary_emb":
            seen.append(found[0].clone())
            return found[1], found[0]
        field = {"": "logits", "model": "last_hidden_state"}.get(name)
        if field is None:
            seen.append(found.clone())
            return found * 1.5
        seen.append(found[field].clone())
        found[field] = found[field] * 1.5
        return found

    plain = a_step(module)
    handle = module.get_submodule(name).register_forward_hook(after)
    expected = a_step(module)
    assert (expected - plain).abs().max() > 1e-3
    with Replaced.of(module).installed():
        torch.testing.assert_close(a_step(module), expected, atol=2e-5, rtol=1e-4)
    handle.remove()
    assert len(seen) == 2
    torch.testing.assert_close(seen[1], seen[0], atol=2e-5, rtol=1e-4)


def test_passes_of_other_kinds_go_the_models_own_way():
    module, ids = a_model(), torch.tensor([[3, 4, 5]])
    module.set_attn_implementation("sdpa")
    options = {"input_ids": ids, "position_ids": torch.arange(3)[None], "use_cache": True}
    with torch.inference_mode():
        expected = module(**options)
        use_packed_attention(module)
        replaced = Replaced.of(module)
        assert "" in replaced.names
        with replaced.installed():
            module.config._attn_implementation = "sdpa"
            found = module(**options)
    torch.testing.assert_close(found.logits, expected.logits, atol=2e-5, rtol=1e-4)
    assert found.past_key_values.get_seq_length() == 3
    assert "forward" not in module.__dict__


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_hooks_on_angles_are_called_as_the_model_calls_them(family):
    """Llama names its positions, Qwen 2 does not."""
    module, seen = a_model(family), []

    def tripled(_module, given, named):
        seen.append((len(given), sorted(named)))
        if "position_ids" in named:
            return given, named | {"position_ids": named["position_ids"] * 3}
        return (given[0], given[1] * 3), named

    plain = a_step(module)
    module.model.rotary_emb.register_forward_pre_hook(tripled, with_kwargs=True)
    expected = a_step(module)
    assert (expected - plain).abs().max() > 1e-3
    with Replaced.of(module).installed():
        torch.testing.assert_close(a_step(module), expected, atol=2e-5, rtol=1e-4)
    assert seen[0] == seen[1]


def test_a_stack_with_a_configuration_of_its_own_is_tried_anew_when_that_changes():
    module = a_model()
    module.config = copy.deepcopy(module.config)
    assert shortened(module)
    module.model.config.num_hidden_layers = 2
    assert not shortened(module)


@pytest.mark.parametrize("kind", ["a tensor", "a number of numpy", "an object", "something new"])
def test_what_a_forward_refers_to_may_change(monkeypatch, kind):
    """As a model that is steered by hand does."""
    real = MODEL.forward

    def scaled(self, **named):
        found = real(self, **named)
        own = getattr(self, "own", 1.0)
        found.logits = found.logits * (own.scale if isinstance(own, SimpleNamespace) else own)
        return found

    monkeypatch.setattr(MODEL, "forward", scaled)
    module = a_model()
    if kind != "something new":
        ones = {"a tensor": torch.tensor(1.0), "a number of numpy": np.float32(1)}
        module.own = ones.get(kind, SimpleNamespace(scale=1))
    assert shortened(module)
    if kind == "a tensor":
        module.own += 0.7
    elif kind == "an object":
        module.own.scale = 1.7
    else:
        module.own = np.float32(1.7)
    assert not shortened(module)


def test_a_function_that_is_exchanged_is_tried_anew(monkeypatch):
    module = a_model()
    expected = a_step(module)
    with Replaced.of(module).installed():
        torch.testing.assert_close(a_step(module), expected, atol=2e-5, rtol=1e-4)
    monkeypatch.setattr(modeling_qwen2, "apply_rotary_pos_emb", lambda q, k, *_: (q, k))
    changed = a_step(module)
    assert (changed - expected).abs().max() > 1e-3
    with Replaced.of(module).installed():
        torch.testing.assert_close(a_step(module), changed, atol=2e-5, rtol=1e-4)


def test_hooks_on_every_module_that_come_later_see_every_module():
    module, seen = a_model(), []
    with Replaced.of(module).installed():
        handle = nn.modules.module.register_module_forward_hook(lambda part, *_: seen.append(type(part)))
        try:
            a_step(module)
            count = len(seen)
        finally:
            handle.remove()
    seen.clear()
    handle = nn.modules.module.register_module_forward_hook(lambda part, *_: seen.append(type(part)))
    try:
        a_step(module)
    finally:
        handle.remove()
    assert count == len(seen)


def test_a_hook_that_makes_nonsense_of_an_attention_is_an_error():
    module = a_model()
    module.model.layers[1].self_attn.register_forward_hook(lambda _part, _given, found: found[0])
    with pytest.raises((TypeError, ValueError)):
        a_step(module)
    with Replaced.of(module).installed(), pytest.raises(TypeError, match="tuple that an attention gives"):
        a_step(module)
