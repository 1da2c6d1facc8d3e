"""Shorter forwards of a block, its attention and its MLP, for passes of one token per row on a CPU in float32.

With few rows most of a step goes into the small operations and the Python between the matrix products. Here each of
three parts that most architectures share does what its own forward does in as few operations as possible. A part is
tried on numbers of ours, ordinary and large ones, with stand-ins for the modules inside it, whenever one of its
settings has changed. The modules inside are called as before where anything is hooked on them.
"""

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu
from torch.nn.modules import module as modules

from backtracking.core.errors import InputError
from backtracking.model.sampling.compiled import serves
from backtracking.model.sampling.fused import gated, rotated, turned
from backtracking.model.sampling.trials import inside, numbers

BLOCK = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
"""What transformers calls the parts of a block with norms before its attention and before its MLP,"""
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
"""those of an attention without norms of its own,"""
MLP = ("gate_proj", "up_proj", "down_proj", "act_fn")
"""and those of a gated MLP."""
Forward = Callable[..., Any]
_ROWS, _TOLERANCE, _LARGE = 2, 2e-5, 1e4
_USUAL: dict[str, Any] = {"position_ids": torch.tensor([[3], [10**9]]), "past_key_values": None, "use_cache": False}
"""What else a model hands to its blocks, and they to their attention."""
_KNOWN = {"hidden_states", "attention_mask", "position_embeddings", "packed", *_USUAL}
_COMMON = vars(nn.Module()).keys() - {"training"}
"""What every module has, and what does not decide what it does."""
_OTHERWISE = (
    *(TypeError, RuntimeError, ValueError, AttributeError, LookupError, AssertionError, ArithmeticError, NameError),
    InputError,
)
"""What a part raises that takes or does something else."""
_tried: WeakKeyDictionary[nn.Module, tuple[Any, Any]] = WeakKeyDictionary()
"""What a trial of a part found, and the settings it was found under."""


def shorter(part: nn.Module) -> Forward | None:
    """The shorter forward of a block, an attention or an MLP, if the part is shown to be one of the known kind.

    To be called without gradients. A part whose forward somebody has replaced is left alone, as are all parts where
    hooks are on every module.
    """
    trial, shortened = _KINDS.get(frozenset(part._modules), (None, None))
    if trial is None or shortened is None or "forward" in part.__dict__ or part._parameters or part._buffers:
        return None
    if modules._global_forward_hooks or modules._global_forward_pre_hooks or not all(map(serves, part.parameters())):
        return None
    settings = _settings(part)
    if part not in _tried or _tried[part][0] != settings:
        try:
            _tried[part] = settings, trial(part)
        except _OTHERWISE:
            _tried[part] = settings, None
    found = _tried[part][1]
    return None if found is None else shortened(part, found)


def _settings(part: nn.Module) -> Any:
    """All that decides what a part does, but for the modules inside it, which are stood in for."""
    activation, config = part._modules.get("act_fn"), getattr(part, "config", None)
    own = [_plain(vars(each)) for each in (part, activation, config) if each is not None]
    return type(part).forward, type(activation), getattr(type(activation), "forward", None), own


def _plain(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    kinds = (bool, int, float, str, list, tuple, dict, type(None))
    return [(name, repr(value)) for name, value in values.items() if isinstance(value, kinds) and name not in _COMMON]


def _block_tried(block: nn.Module) -> frozenset[str] | None:
    """Whether it is `h = x + attention(norm(x))`, then `h + mlp(norm(h))`: what it hands on to its attention."""
    usual = {"attention_mask": None, "position_embeddings": "angles", "packed": "cache", **_USUAL}
    handed: set[str] = set()
    bounded = (torch.exp, torch.cos, torch.sin, torch.tanh)
    unbounded = (lambda x: x + 1, lambda x: -2 * x, lambda x: x / 2, lambda x: 3 * x - 1)
    for start, (first, attention, second, mlp) in (
        (numbers(_ROWS, 1, 8), bounded),
        (numbers(_ROWS, 1, 8) * _LARGE, unbounded),
    ):
        seen: list[dict[str, Any]] = []

        def attends(seen: list[Any] = seen, attention: Any = attention, **named: Any) -> tuple[Tensor, None]:
            seen.append(named)
            return attention(named["hidden_states"]), None

        with inside(block, input_layernorm=first, self_attn=attends, post_attention_layernorm=second, mlp=mlp):
            found = block.forward(start, **usual)
        middle = start + attention(first(start))
        if len(seen) != 1:
            return None
        handed = seen[0].keys() - {"hidden_states"}
        if not {"position_embeddings", "packed"} <= handed <= usual.keys():
            return None
        if any(seen[0][name] is not usual[name] for name in handed):
            return None
        if not _alike(found, middle + mlp(second(middle))):
            return None
    return frozenset(handed)


def _block(block: nn.Module, handed: frozenset[str]) -> Forward:
    before = block.forward
    first, attention, second, mlp = _children(block, BLOCK)

    def forward(*given: Any, **named: Any) -> Any:
        hidden = _one_token(given, named)
        if hidden is None or not handed <= named.keys():
            return before(*given, **named)
        hidden = hidden + attention(hidden_states=first(hidden), **{name: named[name] for name in handed})[0]
        added = mlp(second(hidden))
        return hidden + (added[0] if isinstance(added, tuple) else added)  # as of a mixture of experts

    return forward


def _attention_tried(attention: Any) -> tuple[int, int, dict[str, Any]] | None:
    """Whether it turns queries and keys, attends, and projects: width of a head, layer, and what it asks for."""
    width, found = attention.head_dim, None
    for scale in (1.0, _LARGE):
        query, key, value = (
            (numbers(_ROWS, 1, attention._modules[name].out_features) + shift) * scale
            for shift, name in enumerate(ATTENTION[:3])
        )
        hidden, out, read = numbers(_ROWS, 1, 4), numbers(_ROWS, 1, 6), query.view(_ROWS, 1, -1, width) * 2 + 1
        cos, sin = numbers(_ROWS, 1, width) * 2, numbers(_ROWS, 1, width) + 1
        given: list[Tensor] = []
        probe = _Probe(read.clone())
        stand_ins = zip(ATTENTION, (_giving(each, given) for each in (query, key, value, out)), strict=True)
        with inside(attention, **dict(stand_ins)):
            options = {"position_embeddings": (cos, sin), "attention_mask": None, "packed": probe, **_USUAL}
            got = attention.forward(hidden_states=hidden, **options)
        if probe.asked is None or not isinstance(got, tuple) or len(got) != 2 or got[1] is not None:
            return None
        rotary = rotated(_heads(query, width), _heads(key, width), cos, sin)
        asked = zip(probe.asked, (*rotary, _heads(value, width)), strict=True)
        inputs = zip(given, (hidden, hidden, hidden, read.flatten(2)), strict=True)
        if not all(_alike(one, other) for one, other in (*asked, *inputs, (got[0], out))):
            return None
        if found not in (None, (width, probe.layer, probe.options)):
            return None
        found = width, probe.layer, probe.options
    return found


def _attention(attention: Any, found: tuple[int, int, dict[str, Any]]) -> Forward:
    before, (width, layer, options) = attention.forward, found
    to_query, to_key, to_value, to_out = map(_product, _children(attention, ATTENTION))

    def forward(*given: Any, **named: Any) -> Any:
        hidden, angles = _one_token(given, named), named.get("position_embeddings", ())
        if hidden is None or any(angle.shape != (len(hidden), 1, width) or not serves(angle) for angle in angles):
            return before(*given, **named)
        query, key, value = (
            project(hidden).view(len(hidden), -1, 1, width) for project in (to_query, to_key, to_value)
        )
        if serves(query) and serves(key):
            query, key = rotated(query, key, *angles)
        else:  # a hook has made other numbers of them
            query, key = turned(query, *angles), turned(key, *angles)
        read = named["packed"].attend(layer, query, key, value, **options)
        return to_out(read.flatten(2)), None

    return forward


class _Probe:
    """Stands for the engine's cache, and keeps what it is asked."""

    def __init__(self, read: Tensor) -> None:
        self._read = read
        self.layer, self.options = -1, {}
        self.asked: tuple[Tensor, Tensor, Tensor] | None = None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        """See `Attending.attend`."""
        self.layer, self.options, self.asked = layer, options, (query, key, value)
        return self._read


def _mlp_tried(mlp: nn.Module) -> bool | None:
    """Whether it is `down(silu(gate(x)) * up(x))`."""
    (activation,) = _children(mlp, MLP[3:])
    for scale in (1.0, 8.0, _LARGE):
        start, gate, up = (
            numbers(_ROWS, 1, 4),
            numbers(_ROWS, 1, 24) * scale,
            (numbers(_ROWS, 1, 24) + 0.1).flip(2) * scale,
        )
        given: list[Tensor] = []
        with inside(
            mlp,
            gate_proj=_giving(gate, given),
            up_proj=_giving(up, given),
            down_proj=torch.neg,
            act_fn=activation.forward,  # without its hooks, which see no trial
        ):
            found = mlp.forward(start)
        if len(given) != 2 or not all(_alike(each, start) for each in given) or not _alike(found, -(silu(gate) * up)):
            return None
    return True


def _mlp(mlp: nn.Module, _: bool) -> Forward:
    before = mlp.forward
    gate_proj, up_proj, down_proj, activation = _children(mlp, MLP)
    to_gate, to_up, to_out = map(_product, (gate_proj, up_proj, down_proj))

    def forward(hidden: Tensor) -> Tensor:
        if not serves(hidden) or _hooked(activation):
            return before(hidden)
        gate, up = to_gate(hidden), to_up(hidden)
        if serves(gate) and serves(up) and gate.shape == up.shape:
            return to_out(gated(gate, up))
        return to_out(activation(gate) * up)  # a hook has made something else of them

    return forward


_KINDS: dict[frozenset[str], tuple[Callable[[Any], Any], Callable[[Any, Any], Forward]]] = {
    frozenset(BLOCK): (_block_tried, _block),
    frozenset(ATTENTION): (_attention_tried, _attention),
    frozenset(MLP): (_mlp_tried, _mlp),
}


def _one_token(given: tuple[Any, ...], named: dict[str, Any]) -> Tensor | None:
    """What goes through, if it is one token per row with the engine's cache, and nothing else matters."""
    hidden = named.get("hidden_states", *given[:1])
    unknown = len(given) > 1 or not named.keys() <= _KNOWN
    if unknown or named.get("packed") is None or named.get("position_embeddings") is None:
        return None
    if named.get("attention_mask") is not None or named.get("past_key_values") is not None:
        return None
    return hidden if hidden is not None and hidden.ndim == 3 and hidden.shape[1] == 1 and serves(hidden) else None


def _children(part: nn.Module, names: tuple[str, ...]) -> list[nn.Module]:
    return [part.get_submodule(name) for name in names]


def _giving(number: Tensor, given: list[Tensor]) -> Callable[[Tensor], Tensor]:
    """Gives a copy of the number, and keeps what it is given."""

    def give(received: Tensor) -> Tensor:
        given.append(received.clone())
        return number.clone()

    return give


def _heads(projected: Tensor, width: int) -> Tensor:
    """`row 1 head*d_head` as `row head 1 d_head`."""
    return projected.view(len(projected), -1, 1, width)


def _product(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """A linear layer, without the way through its module where nothing is hooked on it."""
    if type(layer) is not nn.Linear or "forward" in layer.__dict__:
        return layer
    weight, bias = layer.weight, layer.bias
    return lambda given: layer(given) if _hooked(layer) else linear(given, weight, bias)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _alike(found: Any, expected: Tensor) -> bool:
    if not isinstance(found, Tensor) or found.shape != expected.shape:
        return False
    return bool((found - expected).abs().max() <= _TOLERANCE * expected.abs().max().clamp(min=1))
