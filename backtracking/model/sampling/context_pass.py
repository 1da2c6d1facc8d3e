"""A forward pass over the tokens of several contexts, each token a row; for what it keeps, not for what it says."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from backtracking.model.sampling import context_attention
from backtracking.model.sampling.attention import softcapped
from backtracking.model.sampling.packed_cache import KeyValues, PackedCache
from backtracking.model.sampling.passes import served
from backtracking.model.sampling.prefixes import Prefix


@dataclass(frozen=True)
class Run:
    """The part of a context that a pass runs."""

    prefix: Prefix
    entry: int
    """Where its keys and values are kept; numbered through the lists."""
    source: int
    """Entry of another context that begins as it does,"""
    copied: int
    """and how many of their tokens are the same, and copied."""

    @property
    def ids(self) -> tuple[int, ...]:
        """Tokens that are run."""
        return self.prefix.ids[self.copied :]


class AllKept(Exception):  # noqa: N818
    """Ends a pass of which nothing more is wanted: what comes out of the last layer is not read.

    transformers has no way to stop a forward pass at a layer.
    """


@dataclass
class Together:
    """A forward pass over the tokens of several contexts, each token a row, and what each of them attends to."""

    cache: PackedCache
    runs: Sequence[Run]
    device: torch.device
    last: int | None = None
    """After how many layers all is kept that is wanted; none if what interventions do in the last one is counted."""
    layers: set[int] = field(default_factory=set)
    _visible: dict[int | None, Tensor] = field(default_factory=dict)

    @cached_property
    def owner(self) -> Int[Tensor, " token"]:
        """Which run each token is of."""
        lengths = torch.tensor([len(run.ids) for run in self.runs], device=self.device)
        return torch.repeat_interleave(torch.arange(len(self.runs), device=self.device), lengths)

    @cached_property
    def column(self) -> Int[Tensor, " token"]:
        """Its place in the run."""
        return torch.cat([torch.arange(len(run.ids), device=self.device) for run in self.runs])

    @cached_property
    def positions(self) -> Int[Tensor, " token"]:
        """Its position in the context."""
        return self.column + self._copied[self.owner]

    @cached_property
    def _places(self) -> context_attention.Runs:
        """Where each run's tokens are, and what is kept of it."""
        counts = np.array([len(run.ids) for run in self.runs])
        return context_attention.Runs(
            entry=np.array([run.entry for run in self.runs]),
            source=np.array([run.source for run in self.runs]),
            copied=np.array([run.copied for run in self.runs]),
            first=counts.cumsum() - counts,
            count=counts,
        )

    @cached_property
    def _longest(self) -> int:
        """Tokens of the longest run."""
        return max(len(run.ids) for run in self.runs)

    @cached_property
    def _width(self) -> int:
        """And of the longest context."""
        return max(len(run.prefix.ids) for run in self.runs)

    @cached_property
    def _most_copied(self) -> int:
        return max(run.copied for run in self.runs)

    @cached_property
    def _copied(self) -> Int[Tensor, " run"]:
        return torch.tensor([run.copied for run in self.runs], device=self.device)

    @cached_property
    def _sources(self) -> Int[Tensor, " run"]:
        return torch.tensor([run.source for run in self.runs], device=self.device)

    def attend(
        self,
        layer: int,
        query: Float[Tensor, "token head 1 d_head"],
        key: Float[Tensor, "token kv_head 1 d_head"],
        value: Float[Tensor, "token kv_head 1 d_head"],
        *,
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> Float[Tensor, "token 1 head d_head"]:
        """Causal attention of each token within its context.

        Raises:
            AllKept: These were the last keys and values that are wanted.
        """
        cache = self.cache
        if layer not in cache.prefixes:
            cache.prefixes[layer] = KeyValues.room(cache.entries, cache.width, key)
        self.layers.add(layer)
        reading = len(self.layers) != self.last
        if softcap is None and served(query, key, value):
            given, room = [part.numpy() for part in (query, key, value)], cache.prefixes[layer].arrays
            options = {"room": room, "runs": self._places, "window": window, "scaling": scaling}
            read = context_attention.attend(*given, **options, reading=reading)
            if not reading:
                raise AllKept
            return torch.from_numpy(read)
        keys, values = self._kept(cache.prefixes[layer], key, value)
        if not reading:
            raise AllKept
        runs, longest = len(self.runs), self._longest
        places = self.owner * longest + self.column
        asked = query.new_zeros(runs * longest, *query.shape[1::2]).index_copy_(0, places, query[:, :, 0])
        asked = asked.unflatten(0, (runs, longest)).transpose(1, 2)
        if softcap is None:
            causal = not self._most_copied and (window is None or window >= self._width)
            group = query.shape[1] // key.shape[1]
            if not causal and group > 1:  # kernels that take a mask take no groups
                keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
            read = functional.scaled_dot_product_attention(
                asked,
                keys,
                values,
                attn_mask=None if causal else self._seen(window),
                is_causal=causal,
                scale=scaling,
                enable_gqa=causal and group > 1,
            )
        else:
            grouped = asked.unflatten(1, (keys.shape[1], -1))
            scores = softcapped((grouped @ keys[:, :, None].transpose(-1, -2)).float() * scaling, softcap)
            weights = scores.masked_fill_(~self._seen(window)[:, None], float("-inf")).softmax(-1)
            read = (weights.to(query.dtype) @ values[:, :, None]).flatten(1, 2)
        return read.transpose(1, 2).flatten(0, 1).index_select(0, places)[:, None]

    def _kept(
        self, kept: KeyValues, key: Tensor, value: Tensor
    ) -> tuple[Float[Tensor, "run kv_head pos d_head"], Float[Tensor, "run kv_head pos d_head"]]:
        """Keys and values of the whole contexts, which are in the cache from then on."""
        runs, first, copied, width = len(self.runs), self.runs[0].entry, self._most_copied, self._width
        found = []
        for tensor, new in ((kept.keys, key), (kept.values, value)):
            whole = new.new_zeros(runs, width, *new.shape[1::2])
            if copied:
                whole[:, :copied] = tensor[self._sources, :, :, :copied].permute(0, 3, 1, 2)
            whole.view(runs * width, *new.shape[1::2]).index_copy_(0, self.owner * width + self.positions, new[:, :, 0])
            tensor[first : first + runs, :, :, :width] = whole.permute(0, 2, 3, 1)
            found.append(whole.transpose(1, 2))
        return found[0], found[1]

    def _seen(self, window: int | None) -> Bool[Tensor, "run 1 pos column"]:
        """Which positions each token of a run looks at; the same for all layers of a window."""
        if window not in self._visible:
            asking = self._copied[:, None] + torch.arange(self._longest, device=self.device)
            back = asking[:, None, :, None] - torch.arange(self._width, device=self.device)
            self._visible[window] = (back >= 0) & (back < (window or self._width))
        return self._visible[window]
