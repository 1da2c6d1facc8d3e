"""What the bridge holds at the last position of many contexts: the residual stream after every layer."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from backtracking.core.errors import InputError
from backtracking.core.sites import Site
from backtracking.model.reasoner import HookedReasoner

TOKENS_AT_ONCE = {"cpu": 4096, "cuda": 65536}


@dataclass(frozen=True)
class LastPosition:
    """A batch of contexts, read at the last token of each."""

    indices: tuple[int, ...]
    """Of the contexts, in the order given."""
    resid_post: Float[Tensor, "layer context d_model"]
    logits: Float[Tensor, "context vocab"]
    """The model's own, of the same forward pass, in float32."""


def last_logits_only(model: HookedReasoner) -> dict[str, Any]:
    """Options that spare the model the logits nobody reads, where the architecture can."""
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.module.forward).parameters else {}


def last_positions(
    model: HookedReasoner, contexts: Sequence[Sequence[int]], *, batch: int | None = None
) -> Iterator[LastPosition]:
    """Run contexts through the bridge and keep the last position.

    Contexts of like length run together, padded on the left: padding is masked and positions follow the
    mask, so it changes nothing (`self_check` tries that on every model).

    Args:
        model: The reasoner.
        contexts: Token ids.
        batch: Contexts run together; as many as `TOKENS_AT_ONCE` allows if not given.

    Yields:
        Batches, shortest contexts first; each context is in one of them.

    Raises:
        InputError: An empty or too long context, or a batch below 1.
    """
    if batch is not None and batch < 1:
        raise InputError(f"a batch of {batch} contexts runs nothing; give at least 1")
    for context in contexts:
        if not 1 <= len(context) <= model.context:
            raise InputError(f"a context has {len(context)} tokens; {model.name} takes 1 to {model.context}")
    order = sorted(range(len(contexts)), key=lambda index: len(contexts[index]), reverse=True)
    at_once = TOKENS_AT_ONCE["cuda" if model.device.type == "cuda" else "cpu"]
    while order:
        # The longest sets the width. Taken from the end, the shortest run first and memory grows with them.
        count = batch or 1
        while batch is None and count < len(order) and (count + 1) * len(contexts[order[-count - 1]]) <= at_once:
            count += 1
        chosen, order = order[-count:][::-1], order[:-count]
        yield _run(model, [list(contexts[index]) for index in chosen], tuple(chosen))


def _run(model: HookedReasoner, contexts: Sequence[list[int]], indices: tuple[int, ...]) -> LastPosition:
    width = max(map(len, contexts))
    ids = torch.tensor([[model.pad_id] * (width - len(c)) + c for c in contexts], device=model.device)
    mask = torch.tensor([[0] * (width - len(c)) + [1] * len(c) for c in contexts], device=model.device)
    names = [Site("resid_post", layer).hook_name for layer in range(model.cfg.n_layers)]
    logits, cache = model.run_with_cache(
        ids, attention_mask=mask, names_filter=names, pos_slice=-1, **last_logits_only(model)
    )
    resid = torch.stack([cache[name].reshape(len(contexts), -1) for name in names])
    return LastPosition(indices, resid, logits[:, -1].float())
