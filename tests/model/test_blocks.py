"""Laws of the shorter forwards: only what gives the same is shortened, hooks see and change what they did before."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import OlmoConfig, OlmoForCausalLM
from transformers.models.qwen2 import modeling_qwen2

from backtracking.core.interventions import BASELINE, Condition
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling import blocks, fused, passes, stacks, turning
from backtracking.model.sampling.attention import use_packed_attention
from backtracking.model.sampling.packed_cache import KeyValues, PackedCache
from backtracking.model.sampling.passes import Decode
from backtracking.model.sampling.replaced import Replaced
from backtracking.model.sampling.scoring import next_logits
from backtracking.model.sampling.seating import Seating
from backtracking.model.sampling.shorter import shorter
from tests.tiny import tiny_hf, tiny_tokenizer

SHORTENED = {
    "llama": {"", "self_attn", "mlp"},
    "qwen2": {"", "self_attn", "mlp"},
    "mistral": {"", "self_attn", "mlp"},
    "qwen3": {"", "mlp"},  # its attention has norms of its own
    "gemma2": {"self_attn"},  # its blocks have four norms, and its gates are not SiLU
    "neox": set(),
    "gpt2": set(),
}
ROWS = 5


@pytest.fixture
def qwen2():
    module = tiny_hf("qwen2")
    use_packed_attention(module)
    return module


def a_step(module):
    """The logits of a step in the middle of decoding, and what was kept of it."""
    torch.manual_seed(0)
    cfg = module.config
    width = getattr(cfg, "head_dim", None) or cfg.hidden_size // cfg.num_attention_heads
    like = torch.zeros(1, cfg.num_key_value_heads, 1, width, dtype=module.dtype)
    cache = PackedCache(seats=ROWS, entries=2, width=6, columns=4, filled=2)
    for layer in range(cfg.num_hidden_layers):
        for rooms, entries, columns in ((cache.prefixes, 2, 6), (cache.added, ROWS, 4)):
            rooms[layer] = KeyValues.room(entries, columns, like)
            rooms[layer].keys.normal_()
            rooms[layer].values.normal_()
    prefix, length, start = (
        torch.arange(ROWS) % 2,
        torch.tensor([6, 4])[torch.arange(ROWS) % 2],
        torch.zeros(ROWS).long(),
    )
    positions = length + cache.filled
    passing = Decode(cache, Seating.of(prefix, length, start), positions)
    with torch.inference_mode():
        options = {"position_ids": positions[:, None], "use_cache": False, "packed": passing}
        logits = module(input_ids=torch.arange(3, 3 + ROWS)[:, None], **options).logits
    return torch.cat([logits.flatten(), *(added.keys.flatten() for added in cache.added.values())])


def shortened(part):
    """Whether it is."""
    with torch.inference_mode():
        return "" in shorter(part)


def parts_of(module):
    """Which parts of the first block are shortened."""
    return {
        name.split("layers.0")[1].lstrip(".")
        for name, part in module.named_modules()
        if "layers.0" in name and shortened(part)
    }


@pytest.mark.parametrize("family", SHORTENED)
def test_which_parts_are_shortened(family):
    module = tiny_hf(family)
    use_packed_attention(module)
    assert parts_of(module) == SHORTENED[family]
    if SHORTENED[family]:
        expected = a_step(module)
        replaced = Replaced.of(module)
        assert {f"model.layers.0.{part}".rstrip(".") for part in SHORTENED[family]} <= set(replaced.names)
        with replaced.installed():
            torch.testing.assert_close(a_step(module), expected, atol=2e-5, rtol=1e-4)


def a_block(**changed):
    """A block of Qwen 2 with another forward, or other parts."""
    module = tiny_hf("qwen2")
    use_packed_attention(module)
    block = module.model.layers[0]
    for name, value in changed.items():
        setattr(block, name, value)
    return block


def test_a_block_that_does_something_else_is_left_alone(monkeypatch):
    assert shortened(a_block())
    real = modeling_qwen2.Qwen2DecoderLayer.forward
    for other in (
        lambda self, hidden, **named: real(self, hidden, **named) * 1.001,  # a multiplier, as Granite has
        lambda self, hidden, **named: hidden + 0.9 * (real(self, hidden, **named) - hidden),
        lambda self, hidden, **named: (real(self, hidden, **named),),
        lambda self, hidden, **named: real(self, hidden, **named | {"packed": None}),
        lambda self, hidden: hidden,
        lambda self, hidden, **named: (  # attention and MLP side by side
            hidden
            + self.self_attn(hidden_states=self.input_layernorm(hidden), **named)[0]
            + self.mlp(self.post_attention_layernorm(hidden))
        ),
    ):
        monkeypatch.setattr(modeling_qwen2.Qwen2DecoderLayer, "forward", other)
        assert not shortened(a_block())


def test_an_attention_that_does_something_else_is_left_alone(monkeypatch):
    assert shortened(a_block().self_attn)
    kind, rotary = modeling_qwen2.Qwen2Attention, modeling_qwen2.apply_rotary_pos_emb
    real = kind.forward

    def by_position(self, hidden_states, position_ids=None, **named):  # as Llama 4 scales queries far into a text
        far = 1 + 0.1 * (position_ids[..., None] / 8192).floor().log1p()
        return real(self, hidden_states=hidden_states * far, position_ids=position_ids, **named)

    for other in (
        by_position,
        lambda self, hidden_states, **named: real(self, hidden_states=hidden_states * 2, **named),
        lambda self, **named: (real(self, **named)[0] * 2, None),
        lambda self, **named: real(self, **named)[0],
    ):
        monkeypatch.setattr(kind, "forward", other)
        assert not shortened(a_block().self_attn)
    monkeypatch.setattr(kind, "forward", real)
    monkeypatch.setattr(modeling_qwen2, "apply_rotary_pos_emb", lambda q, k, *_: (q, k))
    assert not shortened(a_block().self_attn)
    monkeypatch.setattr(modeling_qwen2, "apply_rotary_pos_emb", lambda q, k, cos, sin: (rotary(q, q, cos, sin)[0], k))
    assert not shortened(a_block().self_attn)
    monkeypatch.undo()
    attention = a_block().self_attn
    attention.config._attn_implementation = "eager"
    assert not shortened(attention)


def test_an_mlp_that_does_something_else_is_left_alone(monkeypatch):
    assert shortened(a_block().mlp)
    block = a_block()
    block.mlp.act_fn = nn.GELU()
    assert not shortened(block.mlp)
    for other in (
        lambda self, x: self.down_proj(self.act_fn(self.up_proj(x)) * self.gate_proj(x)),
        lambda self, x: self.down_proj(self.act_fn(self.gate_proj(2 * x)) * self.up_proj(x)),
        lambda self, x: x + self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x)),
    ):
        monkeypatch.setattr(modeling_qwen2.Qwen2MLP, "forward", other)
        assert not shortened(a_block().mlp)


@pytest.mark.parametrize("limit", [0.5, 8.0, 100.0])
def test_limits_that_only_large_numbers_meet_are_seen(monkeypatch, limit):
    """As OLMo has on queries, keys and values, and DeepSeek on gates."""
    mlp, block = modeling_qwen2.Qwen2MLP, modeling_qwen2.Qwen2DecoderLayer
    rotary, real = modeling_qwen2.apply_rotary_pos_emb, block.forward

    def clamped(q, k, cos, sin):
        return rotary(q.clamp(-limit, limit), k, cos, sin)

    monkeypatch.setattr(modeling_qwen2, "apply_rotary_pos_emb", clamped)
    assert not shortened(a_block().self_attn)
    for own in (
        lambda self, x: self.down_proj(self.act_fn(self.gate_proj(x).clamp(max=limit)) * self.up_proj(x)),
        lambda self, x: self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x).clamp(-limit, limit)),
        lambda self, x: self.down_proj((self.act_fn(self.gate_proj(x)) * self.up_proj(x)).clamp(-limit, limit)),
    ):
        monkeypatch.setattr(mlp, "forward", own)
        assert not shortened(a_block().mlp)
    monkeypatch.setattr(
        block, "forward", lambda self, hidden, **named: real(self, hidden.clamp(-limit, limit), **named)
    )
    assert not shortened(a_block())


def test_a_part_that_cannot_be_tried_is_left_alone_and_as_it_was(monkeypatch):
    def own(self, x):
        assert x.shape[-1] == self.hidden_size
        return self.down_proj(x)

    block = a_block()
    parts = dict(block.mlp._modules)
    for other in (
        own,
        lambda self, x: x / 0,
        lambda self, x: 1 // 0,
        lambda self, x: self.nothing,
        lambda self, x: {}[x],
    ):
        monkeypatch.setattr(modeling_qwen2.Qwen2MLP, "forward", other)
        assert not shortened(block.mlp)
        assert block.mlp._modules == parts


def test_what_somebody_has_put_in_the_place_of_a_forward_is_called(qwen2):
    calls = []
    for name in ("", "self_attn", "mlp"):
        part = qwen2.model.layers[0].get_submodule(name)
        real = part.forward

        def own(*given, real=real, name=name, **named):
            calls.append(name)
            return real(*given, **named)

        part.forward = own
    replaced = Replaced.of(qwen2)
    assert not calls
    with replaced.installed():
        a_step(qwen2)
    assert calls == ["", "self_attn", "mlp"]


def test_hooks_on_every_module_see_every_module(qwen2):
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, _given, _found: seen.append(type(module)))
    try:
        expected = a_step(qwen2)
        count = len(seen)
        replaced = Replaced.of(qwen2)
        assert len(seen) == count
        with replaced.installed():
            torch.testing.assert_close(a_step(qwen2), expected, atol=2e-5, rtol=1e-4)
        assert seen[count:] == seen[:count]
    finally:
        handle.remove()


@pytest.mark.parametrize("name", ["mlp.gate_proj", "mlp.up_proj", "self_attn.q_proj", "self_attn.k_proj"])
@pytest.mark.parametrize("change", ["of another kind", "for all rows", "as they are not in memory"])
def test_hooks_may_make_something_else_of_a_product(qwen2, name, change):
    def after(_module, _given, found):
        if change == "of another kind":
            return found.double()
        return (
            found.mean(0, keepdim=True)
            if change == "for all rows"
            else found.transpose(0, 2).contiguous().transpose(0, 2)
        )

    layer = qwen2.model.layers[1]
    layer.mlp.down_proj.register_forward_pre_hook(lambda _module, given_: given_[0].float())
    layer.self_attn.o_proj.register_forward_pre_hook(lambda _module, given_: given_[0].float())
    layer.get_submodule(name).register_forward_hook(after)
    try:
        expected = a_step(qwen2)
    except RuntimeError:
        expected = None
    with Replaced.of(qwen2).installed():
        if expected is None:
            with pytest.raises(RuntimeError):
                a_step(qwen2)
        else:
            torch.testing.assert_close(a_step(qwen2), expected, atol=2e-5, rtol=1e-4)


def test_trials_are_not_run_again_while_nothing_has_changed(qwen2, monkeypatch):
    tried = []
    real = blocks.inside
    for source in (blocks, stacks, turning):
        monkeypatch.setattr(source, "inside", lambda part, **others: tried.append(part) or real(part, **others))
    Replaced.of(qwen2)
    assert tried
    tried.clear()
    Replaced.of(qwen2)
    assert not tried
    qwen2.model.layers[1].self_attn.scaling *= 2
    Replaced.of(qwen2)
    assert set(tried) == {qwen2.model.layers[1].self_attn}


def test_other_kinds_of_numbers_are_left_alone():
    for dtype in (torch.float16, torch.float64):
        module = tiny_hf("qwen2").to(dtype)
        use_packed_attention(module)
        assert parts_of(module) == set()


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "qwen3", "gemma2"])
def test_a_step_in_bfloat16_is_no_further_from_float32_than_transformers_own(family, monkeypatch):
    module = tiny_hf(family).bfloat16()
    use_packed_attention(module)
    assert parts_of(module) == SHORTENED[family]
    with Replaced.of(module).installed():
        found = a_step(module).float()
    wide = a_step(module.float())
    with monkeypatch.context() as changed:
        changed.setattr(passes, "serves", lambda *_: False)
        own = a_step(module.bfloat16()).float()
    assert 0 < (found - wide).norm() < 1.1 * (own - wide).norm()


def test_angles_of_float32_turn_queries_of_bfloat16_that_stay_so():
    """As OLMo has them; a pass over contexts needs queries, keys and values of one kind."""
    sizes = {"hidden_size": 48, "intermediate_size": 72, "num_attention_heads": 6, "num_key_value_heads": 2}
    torch.manual_seed(0)
    module = OlmoForCausalLM(OlmoConfig(vocab_size=len(tiny_tokenizer()), num_hidden_layers=2, **sizes)).eval()
    contexts, arms = [[1, 5, 6, 7, 8], [1, 5, 9]], [BASELINE, Condition("off", ["mlp.1*0"])]

    def logits(kind):
        one = copy.deepcopy(module).to(kind)
        use_packed_attention(one)
        assert "self_attn" in parts_of(one)
        reasoner = HookedReasoner.from_hf(one, tiny_tokenizer(), name="olmo")
        return torch.stack([each for _, each in sorted(next_logits(reasoner, contexts, arms), key=lambda one: one[0])])

    half, wide = logits(torch.bfloat16), logits(torch.float32)
    torch.testing.assert_close(half, wide, atol=0.02 * wide.abs().max().item(), rtol=0)


def test_what_is_changed_between_two_runs_counts(qwen2):
    before = a_step(qwen2)
    for layer in qwen2.model.layers:
        layer.self_attn.scaling *= 3
    expected = a_step(qwen2)
    assert (expected - before).abs().max() > 1e-3
    with Replaced.of(qwen2).installed():
        torch.testing.assert_close(a_step(qwen2), expected, atol=2e-5, rtol=1e-4)


INNER = [
    "",
    *blocks.BLOCK,
    *(f"self_attn.{name}" for name in turning.ATTENTION),
    *(f"mlp.{name}" for name in blocks.MLP),
]


@pytest.mark.parametrize("name", INNER)
def test_hooks_see_and_change_what_they_did_before(qwen2, name):
    part = qwen2.model.layers[1].get_submodule(name)
    seen = []

    def after(_module, _inputs, output):
        first = output[0] if isinstance(output, tuple) else output
        seen.append(first.clone())
        return (first * 1.5, *output[1:]) if isinstance(output, tuple) else first * 1.5

    def before(_module, inputs, named):
        given_ = inputs[0] if inputs else named["hidden_states"]
        seen.append(given_.clone())
        changed = given_ + 0.25
        return ((changed, *inputs[1:]), named) if inputs else ((), named | {"hidden_states": changed})

    plain = a_step(qwen2)
    for hook in (part.register_forward_hook, part.register_forward_pre_hook):
        handle = hook(after) if hook == part.register_forward_hook else hook(before, with_kwargs=True)
        expected = a_step(qwen2)
        assert (expected - plain).abs().max() > 1e-3
        with Replaced.of(qwen2).installed():
            found = a_step(qwen2)
        handle.remove()
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
        assert len(seen) == 2
        torch.testing.assert_close(seen[1], seen[0], atol=2e-5, rtol=1e-4)
        seen.clear()


def test_layers_that_are_no_plain_linear_ones_are_called(qwen2):
    class Adapted(nn.Linear):
        def forward(self, input):  # noqa: A002 - as nn.Linear calls it
            return super().forward(input) + input.sum(-1, keepdim=True)

    attention = qwen2.model.layers[0].self_attn
    adapted = Adapted(attention.q_proj.in_features, attention.q_proj.out_features)
    adapted.load_state_dict(attention.q_proj.state_dict())
    plain = a_step(qwen2)
    attention.q_proj = adapted
    expected = a_step(qwen2)
    assert (expected - plain).abs().max() > 1e-3
    with Replaced.of(qwen2).installed():
        torch.testing.assert_close(a_step(qwen2), expected, atol=2e-5, rtol=1e-4)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 5), width=st.integers(1, 70), scale=st.sampled_from([0.1, 1.0, 30.0, 200.0]))
def test_gates_are_pytorchs(rows, width, scale):
    torch.manual_seed(width)
    gate, up = torch.randn(rows, 1, width) * scale, torch.randn(rows, 1, width)
    expected = nn.functional.silu(gate.double()) * up.double()
    torch.testing.assert_close(fused.gated(gate, up).double(), expected, rtol=1e-6, atol=1e-30)
    alone = torch.cat([fused.gated(gate[row : row + 1], up[row : row + 1]) for row in range(rows)])
    assert torch.equal(fused.gated(gate, up), alone)


def test_large_numbers_in_gates_are_what_they_are_in_pytorch():
    gate = torch.tensor([[-90.0, -1e4, -3e38, -3e38, 90.0, 3e38] * 3])
    up = torch.tensor([[1.0, 1e30, 1.0, 1e10, 1e30, 0.5] * 3])
    torch.testing.assert_close(fused.gated(gate, up), nn.functional.silu(gate) * up, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 17])
def test_a_gate_that_is_not_finite_does_not_come_out_finite(bad, place):
    gate, up = torch.zeros(1, 1, 18), torch.ones(1, 1, 18)
    gate[0, 0, place] = bad
    found = fused.gated(gate, up)
    assert not torch.isfinite(found[0, 0, place])
    assert torch.isfinite(found).sum() == 17
