"""What shorter forwards of a model's parts share: see `shorter`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.modules import module as modules

from backtracking.model.sampling.compiled import serves
from backtracking.model.sampling.linears import Linear, is_plain

Forward = Callable[..., Any]
ROTARY = "apply_rotary_pos_emb"
"""What transformers' modules call the function that turns queries and keys."""
ROWS, LARGE = 2, 1e4
"""Rows that a part is tried on, and by what numbers are multiplied that only large ones show."""
USUAL: dict[str, Any] = {"position_ids": torch.tensor([[3], [10**9]]), "past_key_values": None, "use_cache": False}
"""What else a model hands to its blocks, and they to their attention."""
_KNOWN = {"hidden_states", "attention_mask", "position_embeddings", "packed", *USUAL}
_TOLERANCE = 2e-5


def one_token(given: tuple[Any, ...], named: dict[str, Any]) -> Tensor | None:
    """What goes through, if it is one token per row with the engine's cache, and nothing else matters."""
    hidden = named.get("hidden_states", *given[:1])
    unknown = len(given) > 1 or not named.keys() <= _KNOWN
    if unknown or named.get("packed") is None or named.get("position_embeddings") is None:
        return None
    if named.get("attention_mask") is not None or named.get("past_key_values") is not None:
        return None
    return (
        hidden
        if hidden is not None and hidden.ndim == 3 and hidden.shape[1] == 1 and serves(hidden, torch.bfloat16)
        else None
    )


def children(part: nn.Module, names: tuple[str, ...]) -> list[nn.Module]:
    """The modules inside a part, by name."""
    return [part.get_submodule(name) for name in names]


def giving(number: Tensor, given: list[Tensor]) -> Callable[[Tensor], Tensor]:
    """Gives a copy of the number, and keeps what it is given."""

    def give(received: Tensor) -> Tensor:
        given.append(received.clone())
        return number.clone()

    return give


def heads_of(projected: Tensor, width: int) -> Tensor:
    """`row 1 head*d_head` as `row head 1 d_head`."""
    return projected.view(len(projected), -1, 1, width)


def plainly(part: nn.Module) -> Callable[..., Any]:
    """A part, without the way through its module where its forward is a replaced one and nothing is hooked on it."""
    return part.forward if "forward" in part.__dict__ and not hooked(part) else part


def product(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """A linear layer, without the way through its module where nothing is hooked on it."""
    if not is_plain(layer):
        return layer
    parameters = layer._parameters

    def multiply(given: Tensor) -> Tensor:
        return linear(given, parameters["weight"], parameters["bias"])  # pyright: ignore[reportArgumentType]

    direct = Linear.of(layer) or multiply
    return lambda given: layer(given) if hooked(layer) else direct(given)


def hooked(module: nn.Module) -> bool:
    """Whether somebody listens to what goes in or comes out, of this or of every module."""
    own = module._forward_hooks or module._forward_pre_hooks
    return bool(own or modules._global_forward_hooks or modules._global_forward_pre_hooks)


def alike(found: Any, expected: Tensor) -> bool:
    """Whether a part has given what was expected, but for rounding."""
    if not isinstance(found, Tensor) or (found.shape, found.dtype) != (expected.shape, expected.dtype):
        return False
    return bool((found - expected).abs().max() <= _TOLERANCE * expected.abs().max().clamp(min=1))
