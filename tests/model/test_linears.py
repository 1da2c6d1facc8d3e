"""Linear layers in bfloat16 with the weights on the left: what `linear` gives, of the same weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import silu

from backtracking.model.sampling import blocks, linears
from backtracking.model.sampling.fused import gated, upright
from backtracking.model.sampling.linears import Linear
from backtracking.model.sampling.replaced import Replaced
from tests.tiny import tiny_hf

STEP = 2.0**-8
"""By how much a number of bfloat16 may be beside what it stands for, as a share of it."""


@pytest.fixture(autouse=True)
def processor(monkeypatch):
    """One with instructions for bfloat16, for which every layer is large enough."""
    monkeypatch.setattr(linears, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(linears, "_LEAST", 0)


def layer_of(inputs, outputs, *, bias=False, kind=torch.bfloat16):
    torch.manual_seed(inputs + outputs)
    return nn.Linear(inputs, outputs, bias=bias).to(kind).requires_grad_(False)


def close(found, layer, given):
    """Whether that is the product, rounded once."""
    exact = given.double() @ layer.weight.double().T + (0 if layer.bias is None else layer.bias.double())
    scale = given.double().abs() @ layer.weight.double().abs().T
    assert found.shape == exact.shape
    assert found.is_contiguous()
    assert ((found.double() - exact).abs() <= STEP * exact.abs() + 1e-5 * scale).all()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 70),
    inputs=st.integers(1, 90),
    outputs=st.integers(1, 150),
    bias=st.booleans(),
    at_once=st.sampled_from([1, 3000, 2**20]),
)
@torch.inference_mode()
def test_it_is_the_product_rounded_once(rows, inputs, outputs, bias, at_once):
    layer, rows_in = layer_of(inputs, outputs, bias=bias), torch.randn(rows, 1, inputs).bfloat16()
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(linears, "_AT_ONCE", at_once)
        changed.setattr(linears, "multiplies_bfloat16", lambda: True)
        changed.setattr(linears, "_LEAST", 0)
        for each in (rows_in, rows_in.transpose(0, 1)):
            close(Linear.of(layer)(input=each), layer, each)
            close(Linear.of(layer)(each), layer, each)


@torch.inference_mode()
def test_what_is_found_lying_is_the_same():
    layer, rows = layer_of(48, 40, bias=True), torch.randn(21, 48).bfloat16()
    linear = Linear.of(layer)
    assert torch.equal(linear.lying(rows).t(), linear(rows))
    assert torch.equal(linear.of_lying(rows.t().contiguous()), linear(rows))


@torch.inference_mode()
def test_the_weights_are_those_of_the_layer():
    layer = layer_of(16, 32, bias=True)
    linear = Linear.of(layer)
    assert linear.weight.data_ptr() == layer.weight.data_ptr()
    layer.weight.zero_()
    given = torch.randn(3, 16).bfloat16()
    assert torch.equal(linear(given), layer.bias.expand(3, -1))
    layer.weight = nn.Parameter(torch.eye(32, 16).bfloat16(), requires_grad=False)
    layer.bias = None
    assert torch.equal(linear(given)[:, :16], given)
    layer.weight = nn.Parameter(layer.weight.float(), requires_grad=False)
    with pytest.raises(RuntimeError, match="dtype"):
        linear(given)


class Quantized(torch.Tensor):
    """Numbers that may know no other product than `linear`."""


class Larger(nn.Linear):
    """Somebody's own."""


@torch.inference_mode()
def test_other_layers_are_left_alone(monkeypatch):
    assert Linear.of(layer_of(8, 8, kind=torch.float32)) is None
    assert Linear.of(Larger(8, 8).bfloat16()) is None
    assert Linear.of(nn.LayerNorm(8).bfloat16()) is None
    odd = layer_of(8, 8)
    odd.weight = nn.Parameter(torch.randn(8, 16).bfloat16()[:, ::2], requires_grad=False)
    assert Linear.of(odd) is None
    changed = layer_of(8, 8)
    changed.forward = lambda given: given
    assert Linear.of(changed) is None
    with monkeypatch.context() as everywhere:
        everywhere.setattr(nn.Linear, "forward", lambda _, given: given)
        assert Linear.of(layer_of(8, 8)) is None
    computed = layer_of(8, 8)
    weight = computed._parameters.pop("weight")
    computed.weight = weight.data  # as a hook of `weight_norm` does
    assert Linear.of(computed) is None
    with monkeypatch.context() as other:
        other.setattr(linears, "multiplies_bfloat16", lambda: False)
        assert Linear.of(layer_of(8, 8)) is None
    biased = layer_of(8, 8, bias=True)
    nn.utils.weight_norm(biased, "bias", dim=None)
    assert Linear.of(biased) is None
    quantized = layer_of(8, 8)
    quantized.weight = nn.Parameter(quantized.weight.data.as_subclass(Quantized), requires_grad=False)
    assert Linear.of(quantized) is None
    monkeypatch.setattr(linears, "_LEAST", 65)
    assert Linear.of(layer_of(8, 8)) is None
    assert Linear.of(layer_of(8, 9)) is not None


@torch.inference_mode()
def test_what_it_does_not_take_goes_the_layers_own_way():
    layer = layer_of(8, 8)
    linear = Linear.of(layer)
    assert linear(torch.zeros(0, 1, 8).bfloat16()).shape == (0, 1, 8)
    for wrong in (torch.zeros(3, 8), torch.zeros(3, 7).bfloat16()):
        with pytest.raises(RuntimeError, match="mat1|shape|dtype") as own:
            layer(wrong)
        with pytest.raises(RuntimeError) as found:
            linear(wrong)
        assert str(found.value) == str(own.value)


@torch.inference_mode()
def test_under_autocast_a_layer_goes_its_own_way():
    layer, given = layer_of(8, 8), torch.randn(3, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.float16):
        assert Linear.of(layer)(given).dtype is layer(given).dtype is torch.float16


@torch.inference_mode()
def test_an_mlp_takes_no_rows_and_refuses_what_it_refused():
    mlp = tiny_hf("llama").bfloat16().model.layers[0].mlp
    width, short = mlp.down_proj.out_features, blocks.mlp_shortened(mlp, True)
    assert short(torch.zeros(0, 1, width).bfloat16()).shape == (0, 1, width)
    for wrong in (torch.zeros(2, 1, width), torch.zeros(2, 1, width + 1).bfloat16()):
        with pytest.raises(RuntimeError):
            mlp(wrong)
        with pytest.raises(RuntimeError):
            short(wrong)


@torch.inference_mode()
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_gate_is_the_same_in_a_vector_and_behind_the_last_one(kind):
    """Also where e to its power is cut off."""
    gates = torch.cat([torch.linspace(-110, 110, 997), torch.tensor([float("-inf"), -1e38, float("inf")])]).to(kind)
    alone = torch.cat([gated(one[None], torch.ones(1, 1, dtype=kind))[0] for one in gates.split(1)])
    together = gated(gates.repeat(1, 2)[:, :1008], torch.ones(1, 1008, dtype=kind))[0, :1000]
    torch.testing.assert_close(alone, together, rtol=1e-5 if kind is torch.float32 else 0, atol=0)


@torch.inference_mode()
def test_a_hook_on_a_layer_sees_rows_one_after_another():
    module, seen = tiny_hf("llama").bfloat16(), {}
    mlp = module.model.layers[1].mlp
    given = torch.randn(5, 1, module.config.hidden_size).bfloat16()
    expected = mlp.down_proj(silu(mlp.gate_proj(given)) * mlp.up_proj(given))
    for name in blocks.MLP[:3]:
        part = mlp.get_submodule(name)
        part.register_forward_hook(lambda _, inputs, out, name=name: seen.update({name: (inputs[0], out)}))
    with Replaced.of(module).installed():
        found = mlp(given)
    assert list(seen) == [*blocks.MLP[:3]]
    for inputs, out in seen.values():
        assert inputs.is_contiguous()
        assert out.is_contiguous()
    torch.testing.assert_close(found, expected, atol=2 * STEP * expected.abs().max().item(), rtol=2 * STEP)


@torch.inference_mode()
@pytest.mark.parametrize("family", ["llama", "qwen2", "neox", "gemma2"])
def test_every_linear_layer_of_a_model_is_replaced_and_put_back(family):
    module = tiny_hf(family).bfloat16()
    layers = {name: part for name, part in module.named_modules() if type(part) is nn.Linear}
    found = Replaced.of(module)
    assert layers.keys() <= set(found.names)
    with found.installed():
        assert all(isinstance(part.forward, Linear) for part in layers.values())
    assert not any("forward" in part.__dict__ for part in layers.values())


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 70), rows=st.integers(1, 70), before=st.integers(0, 9), after=st.integers(0, 9))
def test_upright_is_the_transpose_and_nothing_else_is_touched(kind, width, rows, before, after):
    lying = torch.randn(width, rows).to(kind)
    found = torch.full((rows, before + width + after), 7.0, dtype=kind)
    upright(lying, found, before)
    assert torch.equal(found[:, before : before + width], lying.t())
    assert (found[:, :before] == 7).all()
    assert (found[:, before + width :] == 7).all()
