"""Attention over keys and values that the engine keeps, as an attention function of transformers.

transformers lets a model's attention be replaced by name (`AttentionInterface`) and hands keyword
arguments of the forward pass on to it; the engine sends its cache along as `packed`. Its own caches
are not used: `DynamicCache` concatenates at every step, `StaticCache` holds one length for all rows,
and neither knows a prefix that many rows share.
"""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from backtracking.core.errors import InputError
from backtracking.model.sampling.refusals import SLOWER

NAME = "backtracking_packed"
_HARMLESS = {
    *("position_ids", "use_cache", "is_causal", "cache_position"),
    *("output_attentions", "output_hidden_states", "output_router_logits"),
}


@runtime_checkable
class Attending(Protocol):
    """A forward pass that knows what its queries attend to."""

    def attend(
        self,
        layer: int,
        query: Float[Tensor, "row head pos d_head"],
        key: Float[Tensor, "row kv_head pos d_head"],
        value: Float[Tensor, "row kv_head pos d_head"],
        *,
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> Float[Tensor, "row pos head d_head"]:
        """Keep the new keys and values, and return what the heads read (before the output projection)."""
        ...


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    packed: Attending | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls; see `Attending.attend`.

    Raises:
        InputError: The architecture asks for something this attention does not compute.
    """
    unknown = [name for name, value in others.items() if name not in _HARMLESS and value is not None]
    if packed is None or attention_mask is not None or dropout or unknown:
        asked = ", ".join(unknown) or "a mask, dropout, or no cache of ours"
        raise InputError(
            f"{type(module).__name__} asks of its attention what the packed engine does not compute ({asked}); {SLOWER}"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    layer = module.layer_idx
    assert isinstance(layer, int)
    read = packed.attend(layer, query, key, value, scaling=scale, window=sliding_window, softcap=softcap)
    return read, None


def use_packed_attention(module: PreTrainedModel) -> None:
    """Let a model's attention run through the engine.

    Raises:
        InputError: The architecture has no attention that can be replaced, or no key-value cache.
    """
    if not module._supports_attention_backend:
        raise InputError(
            f"{type(module).__name__} has no attention that transformers lets one replace, so the packed engine "
            f"cannot run it; {SLOWER}"
        )
    AttentionInterface.register(NAME, packed_attention)
    if module.config._attn_implementation != NAME:
        module.set_attn_implementation(NAME)


def softcapped(scores: Tensor, cap: float | None) -> Tensor:
    """Attention scores squeezed into the range of the cap, where the architecture has one (Gemma 2)."""
    return scores if cap is None else torch.tanh_(scores.div_(cap)).mul_(cap)
