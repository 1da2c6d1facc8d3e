"""A shorter forward of a block and of its gated MLP: see `shorter`."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from backtracking.model.sampling.compiled import serves
from backtracking.model.sampling.fused import added_and_normed, gated
from backtracking.model.sampling.linears import Linear
from backtracking.model.sampling.norms import RootMeanSquare
from backtracking.model.sampling.parts import (
    LARGE,
    ROWS,
    USUAL,
    Forward,
    alike,
    children,
    giving,
    hooked,
    one_token,
    plainly,
    product,
)
from backtracking.model.sampling.trials import inside, numbers

BLOCK = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
"""What transformers calls the parts of a block with norms before its attention and before its MLP,"""
MLP = ("gate_proj", "up_proj", "down_proj", "act_fn")
"""and those of a gated MLP."""


def block_tried(block: nn.Module) -> tuple[frozenset[str], bool] | None:
    """Whether it is `h = x + attention(norm(x))`, then `h + mlp(norm(h))`.

    Returns:
        What it hands on to its attention, and whether its MLP may give a tuple, as a mixture of experts does.
    """
    usual = {"attention_mask": None, "position_embeddings": "angles", "packed": "cache", **USUAL}
    handed: set[str] = set()
    tuples = True
    bounded = (torch.exp, torch.cos, torch.sin, torch.tanh)
    unbounded = (lambda x: x + 1, lambda x: -2 * x, lambda x: x / 2, lambda x: 3 * x - 1)
    for start, (first, attention, second, mlp) in (
        (numbers(ROWS, 1, 8), bounded),
        (numbers(ROWS, 1, 8) * LARGE, unbounded),
    ):
        seen: list[dict[str, Any]] = []

        def attends(seen: list[Any] = seen, attention: Any = attention, **named: Any) -> tuple[Tensor, None]:
            seen.append(named)
            return attention(named["hidden_states"]), None

        parts = {"input_layernorm": first, "self_attn": attends, "post_attention_layernorm": second}
        with inside(block, **parts, mlp=mlp):
            found = block.forward(start, **usual)
        tuples = _takes_a_tuple(block, start, found, usual, parts, mlp) and tuples
        middle = start + attention(first(start))
        if len(seen) != 2:
            return None
        handed = seen[0].keys() - {"hidden_states"}
        if not {"position_embeddings", "packed"} <= handed <= usual.keys():
            return None
        if any(seen[0][name] is not usual[name] for name in handed):
            return None
        if not alike(found, middle + mlp(second(middle))):
            return None
    return frozenset(handed), tuples


def _takes_a_tuple(
    block: nn.Module, start: Tensor, expected: Any, usual: Mapping[str, Any], parts: Mapping[str, Any], mlp: Any
) -> bool:
    """Whether the block gives the same where its MLP gives something besides."""
    with inside(block, **parts, mlp=lambda x: (mlp(x), None)):
        try:
            return alike(block.forward(start, **usual), expected)
        except TypeError:  # it adds what it is given
            return False


def block_shortened(block: nn.Module, found: tuple[frozenset[str], bool]) -> Forward:
    """The shorter forward of such a block."""
    before, (handed, tuples) = block.forward, found
    first, attention, second, mlp = children(block, BLOCK)

    def forward(*given: Any, **named: Any) -> Any:
        hidden = one_token(given, named)
        if hidden is None or not handed <= named.keys():
            return before(*given, **named)
        passed = {name: named[name] for name in handed}
        read = plainly(attention)(hidden_states=plainly(first)(hidden), **passed)
        if not isinstance(read, tuple) or len(read) != 2:
            raise TypeError(f"a hook has made {type(read).__name__} of the tuple that an attention gives")
        attended, _ = read
        hidden, normed = _onward(hidden, attended, second)
        added = plainly(mlp)(normed)
        return hidden + (added[0] if tuples and isinstance(added, tuple) else added)

    return forward


def _onward(hidden: Tensor, attended: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """The residual stream behind the attention, and what the MLP is given of it."""
    known = norm.forward
    ordinary = isinstance(attended, Tensor) and (attended.shape, attended.dtype) == (hidden.shape, hidden.dtype)
    ordinary = ordinary and serves(attended, torch.bfloat16)
    if ordinary and isinstance(known, RootMeanSquare) and known.takes(hidden) and not hooked(norm):
        return added_and_normed(hidden, attended, known.weight, known.epsilon)
    hidden = hidden + attended
    return hidden, norm(hidden)


def mlp_tried(mlp: nn.Module) -> bool | None:
    """Whether it is `down(silu(gate(x)) * up(x))`."""
    (activation,) = children(mlp, MLP[3:])
    for scale in (1.0, 8.0, LARGE):
        start, gate, up = (
            numbers(ROWS, 1, 4),
            numbers(ROWS, 1, 24) * scale,
            (numbers(ROWS, 1, 24) + 0.1).flip(2) * scale,
        )
        given: list[Tensor] = []
        with inside(
            mlp,
            gate_proj=giving(gate, given),
            up_proj=giving(up, given),
            down_proj=torch.neg,
            act_fn=activation.forward,  # without its hooks, which see no trial
        ):
            found = mlp.forward(start)
        if len(given) != 2 or not all(alike(each, start) for each in given) or not alike(found, -(silu(gate) * up)):
            return None
    return True


def _all_lying(*projections: nn.Module) -> tuple[Linear, Linear, Linear] | None:
    """The three of an MLP, if what is in between need not be turned."""
    gate, up, down = map(Linear.of, projections)
    if gate is None or up is None or down is None:
        return None
    return (gate, up, down) if len(gate.weight) == len(up.weight) == down.weight.shape[1] else None


def _through(hidden: Tensor, gate: Linear, up: Linear, down: Linear) -> Tensor:
    """`down(silu(gate(x)) * up(x))`."""
    rows = hidden.reshape(-1, hidden.shape[-1])
    # Gates are cut into vectors as if they were not lying, so that each goes the same way, however many rows there are.
    lying = (each.lying(rows).view(len(rows), -1) for each in (gate, up))
    return down.of_lying(gated(*lying).view(-1, len(rows))).view(*hidden.shape[:-1], -1)


def mlp_shortened(mlp: nn.Module, _: bool) -> Forward:
    """The shorter forward of such an MLP."""
    before = mlp.forward
    gate_proj, up_proj, down_proj, activation = children(mlp, MLP)
    projections = gate_proj, up_proj, down_proj
    to_gate, to_up, to_out = map(product, projections)
    lying = _all_lying(*projections)

    def forward(*given: Tensor, **named: Tensor) -> Tensor:
        if len(given) != 1 or named or not serves(given[0], torch.bfloat16) or hooked(activation):
            return before(*given, **named)
        (hidden,) = given
        if lying is not None and lying[0].takes(hidden) and not any(map(hooked, projections)):
            return _through(hidden, *lying)
        gate, up = to_gate(hidden), to_up(hidden)
        alike = (gate.shape, gate.dtype) == (up.shape, up.dtype)
        if alike and serves(gate, torch.bfloat16) and serves(up, torch.bfloat16):
            return to_out(gated(gate, up))
        return to_out(activation(gate) * up)  # a hook has made something else of them

    return forward
