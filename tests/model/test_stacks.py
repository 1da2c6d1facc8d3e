"""Laws of the shorter way through a model: only what gives the same is shortened, and hooks are heeded everywhere."""

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
    assert isinstance(module, nn.Module)
    assert "forward" not in module.__dict__
