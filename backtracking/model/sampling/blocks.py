"""Shorter forwards of a block, its attention and its MLP, for passes of one token per row on a CPU in float32.

With few rows most of a step goes into the small operations and the Python between the matrix products. Here each of
three parts that most architectures share does what its own forward does in as few operations as possible. The modules
inside them are called as before where anything is hooked on them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from backtracking.core.errors import InputError
from backtracking.model.sampling.compiled import serves
from backtracking.model.sampling.fused import gated, rotated
from backtracking.model.sampling.trials import inside, numbers

BLOCK = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
"""What transformers calls the parts of a block with norms before its attention and before its MLP,"""
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
"""those of an attention without norms of its own,"""
MLP = ("gate_proj", "up_proj", "down_proj", "act_fn")
"""and those of a gated MLP."""
Forward = Callable[..., Any]
_ROWS, _TOLERANCE = 2, 2e-5
_USUAL: dict[str, Any] = {"position_ids": torch.tensor([[3], [100_000]]), "past_key_values": None, "use_cache": False}
"""What else a model hands to its blocks, and they to their attention."""
_KNOWN = {"hidden_states", "attention_mask", "position_embeddings", "packed", *_USUAL}
_OTHERWISE = (TypeError, RuntimeError, ValueError, AttributeError, LookupError, InputError)
"""What a part raises that takes or does something else."""


def shorter(part: nn.Module) -> Forward | None:
    """The shorter forward of a block, an attention or an MLP, if the part is shown to be one of the known kind.

    To be called without gradients.
    """
    find = _KINDS.get(frozenset(part._modules))
    if find is None or not all(map(serves, part.parameters())):
        return None
    try:
        return find(part)
    except _OTHERWISE:
        return None


def _block(block: nn.Module) -> Forward | None:
    """`h = x + attention(norm(x))`, then `h + mlp(norm(h))`."""
    start, before = numbers(_ROWS, 1, 8), block.forward
    seen: list[dict[str, Any]] = []
    usual = {"attention_mask": None, "position_embeddings": "angles", "packed": "cache", **_USUAL}

    def attends(**named: Any) -> tuple[Tensor, None]:
        seen.append(named)
        return named["hidden_states"].cos(), None

    parts = {"input_layernorm": torch.exp, "self_attn": attends, "post_attention_layernorm": torch.sin}
    with inside(block, **parts, mlp=torch.tanh):
        found = before(start, **usual)
    middle = start + start.exp().cos()
    if len(seen) != 1 or not _alike(found, middle + middle.sin().tanh()):
        return None
    handed_on = seen[0].keys() - {"hidden_states"}
    if not {"position_embeddings", "packed"} <= handed_on <= usual.keys():
        return None
    if any(seen[0][name] is not usual[name] for name in handed_on):
        return None
    first, attention, second, mlp = (block._modules[name] for name in BLOCK)
    assert first is not None and attention is not None and second is not None and mlp is not None

    def forward(*given: Any, **named: Any) -> Any:
        if (hidden := _one_token(given, named)) is None:
            return before(*given, **named)
        handed = {name: named[name] for name in handed_on if name in named}
        hidden = hidden + attention(hidden_states=first(hidden), **handed)[0]
        added = mlp(second(hidden))
        return hidden + (added[0] if isinstance(added, tuple) else added)  # as of a mixture of experts

    return forward


def _attention(attention: Any) -> Forward | None:
    """Rotary embeddings on queries and keys, attention, and the output projection."""
    width, before = attention.head_dim, attention.forward
    query, key, value = (
        numbers(_ROWS, 1, attention._modules[name].out_features) + shift for shift, name in enumerate(ATTENTION[:3])
    )
    hidden, out, read = numbers(_ROWS, 1, 4), numbers(_ROWS, 1, 6), query.view(_ROWS, 1, -1, width).exp()
    cos, sin = numbers(_ROWS, 1, width) * 2, numbers(_ROWS, 1, width) + 1
    given: list[Tensor] = []

    def projected(numbers_: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda input_: given.append(input_) or numbers_

    probe = _Probe(read)
    stand_ins = zip(ATTENTION, map(projected, (query, key, value, out)), strict=True)
    with inside(attention, **dict(stand_ins)):
        angles = {"position_embeddings": (cos, sin), "attention_mask": None}
        found = before(hidden_states=hidden, packed=probe, **angles, **_USUAL)
    if probe.asked is None or not isinstance(found, tuple) or len(found) != 2 or found[1] is not None:
        return None
    turned = rotated(_heads(query, width), _heads(key, width), cos, sin)
    same = all(map(_alike, probe.asked, (*turned, _heads(value, width))))
    same = same and all(map(_alike, given, (hidden, hidden, hidden, read.flatten(2)))) and len(given) == len(ATTENTION)
    if not same or not _alike(found[0], out):
        return None
    layer, options = probe.layer, probe.options
    to_query, to_key, to_value, to_out = (_product(attention._modules[name]) for name in ATTENTION)

    def forward(*given: Any, **named: Any) -> Any:
        hidden, angles = _one_token(given, named), named.get("position_embeddings", ())
        if hidden is None or any(angle.shape != (len(hidden), 1, width) for angle in angles):
            return before(*given, **named)
        query, key = rotated(_heads(to_query(hidden), width), _heads(to_key(hidden), width), *angles)
        read = named["packed"].attend(layer, query, key, _heads(to_value(hidden), width), **options)
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


def _mlp(mlp: nn.Module) -> Forward | None:
    """`down(silu(gate(x)) * up(x))`."""
    start, gate, up, given = numbers(_ROWS, 1, 4), numbers(_ROWS, 1, 24) * 5, numbers(_ROWS, 1, 24) + 1, []
    before, activation = mlp.forward, mlp._modules["act_fn"]
    assert activation is not None
    stand_ins = {
        "gate_proj": lambda input_: given.append(input_) or gate,
        "up_proj": lambda input_: given.append(input_) or up,
        "down_proj": torch.tanh,
        "act_fn": activation.forward,  # without its hooks, which see no trial
    }
    with inside(mlp, **stand_ins):
        found = before(start)
    if not all(each is start for each in given) or not _alike(found, (silu(gate) * up).tanh()):
        return None
    to_gate, to_up, to_out = (_product(mlp._modules[name]) for name in MLP[:3])

    def forward(hidden: Tensor) -> Tensor:
        if not serves(hidden) or _hooked(activation):
            return before(hidden)
        return to_out(gated(to_gate(hidden), to_up(hidden)))

    return forward


_KINDS = {frozenset(BLOCK): _block, frozenset(ATTENTION): _attention, frozenset(MLP): _mlp}


def _one_token(given: tuple[Any, ...], named: dict[str, Any]) -> Tensor | None:
    """What goes through, if it is one token per row with the engine's cache, and nothing else matters."""
    hidden = named.get("hidden_states", *given[:1])
    unknown = len(given) > 1 or not named.keys() <= _KNOWN
    if unknown or named.get("packed") is None or named.get("position_embeddings") is None:
        return None
    if named.get("attention_mask") is not None or named.get("past_key_values") is not None:
        return None
    return hidden if hidden is not None and hidden.ndim == 3 and hidden.shape[1] == 1 and serves(hidden) else None


def _heads(projected: Tensor, width: int) -> Tensor:
    """`row 1 head*d_head` as `row head 1 d_head`."""
    return projected.view(len(projected), -1, 1, width)


def _product(layer: Any) -> Callable[[Tensor], Tensor]:
    """A linear layer, without the way through its module where nothing is hooked on it."""
    if type(layer) is not nn.Linear or "forward" in layer.__dict__:
        return layer
    weight, bias = layer.weight, layer.bias
    return lambda input_: layer(input_) if _hooked(layer) else linear(input_, weight, bias)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _alike(found: Any, expected: Tensor) -> bool:
    same = isinstance(found, Tensor) and found.shape == expected.shape
    return same and bool((found - expected).abs().max() < _TOLERANCE)
