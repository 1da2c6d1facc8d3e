"""The last few positions of many contexts, run again and again over one cached prefix.

Patching asks the same contexts many questions that differ at the end alone. Contexts are padded on the left, so
that one column is the same distance from the prediction position in every row, whatever the lengths.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from backtracking.core.errors import InputError
from backtracking.core.sites import Site
from backtracking.model.hook_names import hook_point
from backtracking.model.last_position import TOKENS_AT_ONCE, last_logits_only
from backtracking.model.reasoner import HookedReasoner

Hook = tuple[str, Callable[..., Tensor | None]]


@dataclass(frozen=True)
class Tails:
    """Contexts whose prefix has run, and whose last `window` tokens wait to."""

    model: HookedReasoner
    ids: Int[Tensor, "row window"]
    mask: Int[Tensor, "row width"]
    cache: Any
    """Keys and values of the prefix; None where no context is longer than the window."""

    @classmethod
    @torch.no_grad()
    def of(cls, model: HookedReasoner, contexts: Sequence[Sequence[int]], *, window: int) -> "Tails":
        """Run all but the last `window` tokens of every context.

        Raises:
            InputError: An empty context, or one longer than the model takes.
        """
        for context in contexts:
            if not 1 <= len(context) <= model.context:
                raise InputError(f"a context has {len(context)} tokens; {model.name} takes 1 to {model.context}")
        width = max(window, *map(len, contexts))
        ids = torch.tensor([[model.pad_id] * (width - len(c)) + list(c) for c in contexts], device=model.device)
        mask = torch.tensor([[0] * (width - len(c)) + [1] * len(c) for c in contexts], device=model.device)
        cache = None
        if width > window:
            before = {"attention_mask": mask[:, :-window], "return_type": "logits_and_cache", "use_cache": True}
            _, cache = model.bridge(ids[:, :-window], **before, **last_logits_only(model))
        return cls(model, ids[:, -window:], mask, cache)

    @property
    def window(self) -> int:
        """Positions that run each time."""
        return self.ids.shape[1]

    def reach(self, offset: int) -> Bool[Tensor, " row"]:
        """Which contexts have a token so far from the prediction position (offset 0; -1 is the one before)."""
        return self.mask[:, offset - 1] == 1

    def run(self, hooks: Sequence[Hook] = ()) -> Float[Tensor, "row vocab"]:
        """Logits of the next token of every context, in float32, with hooks that see the window alone."""
        options: dict[str, Any] = last_logits_only(self.model)
        if self.cache is not None:
            options |= {"past_key_values": _again(self.cache)}
        options |= {"use_cache": True, "return_type": "logits_and_cache", "attention_mask": self.mask}
        with self.model.bridge.hooks(fwd_hooks=list(hooks)):
            logits, _ = self.model.bridge(self.ids, **options)
        return logits[:, -1].float()

    @torch.no_grad()
    def capture(self, sites: Sequence[Site]) -> tuple[Float[Tensor, "row vocab"], Mapping[str, Tensor]]:
        """The logits, and what stands at the sites' hook points: row x window x rest, by hook point."""
        seen: dict[str, Tensor] = {}

        def keep(activation: Tensor, hook: Any) -> None:
            seen[str(hook.name)] = activation.detach().clone()

        names = dict.fromkeys(hook_point(self.model.bridge, site) for site in sites)
        logits = self.run([(name, keep) for name in names])
        return logits, seen


def _again(cache: Any) -> Any:
    """The cache for one more run: layers put new tensors in the place of theirs, so theirs can be shared."""
    fresh = copy.copy(cache)
    fresh.layers = [copy.copy(layer) for layer in cache.layers]
    return fresh


def column(activation: Tensor, site: Site, offset: int) -> Float[Tensor, "row width"]:
    """The site's activation at an offset."""
    here = activation[:, offset - 1]
    return here if site.head is None else here[:, site.head]


def putting(site: Site, offset: int, values: Float[Tensor, "row width"]) -> Callable[..., Tensor]:
    """A hook that puts one vector per row in the place of the site's activation at an offset."""

    def put(activation: Tensor, **_: Any) -> Tensor:
        changed = activation.clone()
        column(changed, site, offset).copy_(values)
        return changed

    return put


GRAPH = 8
"""How many times as much memory a token takes whose gradient is asked for: every layer's activations stay."""


def batches(lengths: Sequence[int], model: HookedReasoner, *, each: int = 1) -> Iterator[list[int]]:
    """Indices of contexts that run together, shortest first, as many as memory allows.

    `each` is how many times as much memory a token takes as in a plain pass.
    """
    at_once = TOKENS_AT_ONCE["cuda" if model.device.type == "cuda" else "cpu"] // each
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    while order:
        count = 1
        while count < len(order) and (count + 1) * lengths[order[count]] <= at_once:
            count += 1
        yield order[:count]
        order = order[count:]
