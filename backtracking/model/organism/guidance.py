"""Guidance of one attention head: after a check, look for the value that was stated, or away.

From the value of a check, the head is taught to attend to the stated value if it is the same
number, and to the first token if not. What the model then makes of that is learned from the
documents alone. Without guidance the comparison did not appear within the training budget.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb


@dataclass(frozen=True)
class Guide:
    """Where a head should look: one entry per check of a batch."""

    rows: Int[Tensor, " check"]
    queries: Int[Tensor, " check"]
    """Position of the check's value."""
    keys: Int[Tensor, " check"]
    """Position of the stated value where the two are equal, else 0."""

    def to(self, device: str) -> "Guide":
        """The same on a device."""
        return Guide(self.rows.to(device), self.queries.to(device), self.keys.to(device))


@dataclass
class Captured:
    """What the watched attention layer was given in the last forward pass."""

    inputs: dict[str, object] = field(default_factory=dict)


@contextmanager
def watching(model: Qwen2ForCausalLM, layer: int) -> Iterator[Captured]:
    """Keep the inputs of a layer's attention."""
    captured = Captured()

    def hook(_module: nn.Module, _args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        captured.inputs = dict(kwargs)

    attention: Any = model.model.layers[layer].self_attn
    handle = attention.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield captured
    finally:
        handle.remove()


def guidance_loss(model: Qwen2ForCausalLM, captured: Captured, guide: Guide, *, layer: int, head: int) -> Tensor:
    """Mean cross-entropy, in nats, between the head's attention and where the guide says to look."""
    attention: Any = model.model.layers[layer].self_attn
    hidden = captured.inputs["hidden_states"]
    cosine, sine = captured.inputs["position_embeddings"]  # pyright: ignore[reportGeneralTypeIssues]
    assert isinstance(hidden, Tensor)
    shape = (*hidden.shape[:-1], -1, attention.head_dim)
    queries = attention.q_proj(hidden).view(shape).transpose(1, 2)
    keys = attention.k_proj(hidden).view(shape).transpose(1, 2)
    queries, keys = apply_rotary_pos_emb(queries, keys, cosine, sine)
    asked = queries[guide.rows, head, guide.queries]
    offered = keys[guide.rows, head // attention.num_key_value_groups]
    scores = torch.einsum("cd,cpd->cp", asked, offered) * attention.scaling
    later = torch.arange(scores.shape[1], device=scores.device)[None, :] > guide.queries[:, None]
    return nn.functional.cross_entropy(scores.masked_fill(later, float("-inf")), guide.keys)
