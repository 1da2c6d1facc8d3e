"""The forward passes of the packed engine, each with its own attention: over prompts, and over one token of each row.

A step on a CPU, in float32 or bfloat16, attends in a compiled loop (`step_attention`), every other one in matrix
products.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from backtracking.model.sampling import step_attention
from backtracking.model.sampling.attention import softcapped
from backtracking.model.sampling.compiled import bits, serves, tensor_of
from backtracking.model.sampling.fused import turned
from backtracking.model.sampling.packed_cache import KeyValues, PackedCache
from backtracking.model.sampling.seating import Seating


@dataclass
class Prefill:
    """A forward pass over prompts, right-padded, whose keys and values become prefixes."""

    cache: PackedCache
    first: int
    """Entry of the first of them."""
    lengths: Sequence[int]
    """Tokens of each."""
    layers: set[int] = field(default_factory=set)

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """Causal attention within the prompts; padding stands behind what is real."""
        cache = self.cache
        if layer not in cache.prefixes:
            cache.prefixes[layer] = KeyValues.room(cache.entries, cache.width, key)
        kept = cache.prefixes[layer]
        kept.write(self.first, 0, key, value)
        self.layers.add(layer)
        options = {"scaling": scaling, "window": window, "softcap": softcap}
        if not query.is_cpu:
            return _causal(query, key, value, **options).transpose(1, 2)
        # One after another, so that nothing depends on how long the others are.
        read = torch.zeros_like(query)
        for row, tokens in enumerate(self.lengths):
            part = (slice(row, row + 1), slice(None), slice(tokens))
            read[part] = _causal(query[part], key[part], value[part], **options)
        return read.transpose(1, 2)


def _causal(
    query: Float[Tensor, "row head pos d_head"],
    key: Float[Tensor, "row kv_head pos d_head"],
    value: Float[Tensor, "row kv_head pos d_head"],
    *,
    scaling: float,
    window: int | None,
    softcap: float | None,
) -> Float[Tensor, "row head pos d_head"]:
    """What each position reads of itself and those before it."""
    length = key.shape[2]
    if softcap is None and (window is None or window >= length):
        grouped = query.shape[1] != key.shape[1]
        return functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=grouped
        )
    group = query.shape[1] // key.shape[1]
    scores = query.unflatten(1, (-1, group)) @ key[:, :, None].transpose(-1, -2)
    scores = softcapped(scores.float() * scaling, softcap)
    back = torch.arange(length, device=key.device)
    back = back[:, None] - back
    hidden = (back < 0) | (back >= (window or length))
    weights = scores.masked_fill_(hidden, float("-inf")).softmax(-1).to(query.dtype)
    return (weights @ value[:, :, None]).flatten(1, 2)


@dataclass
class Decode:
    """A forward pass over one new token per row."""

    cache: PackedCache
    seating: Seating
    positions: Int[Tensor, " seat"]
    """Position of each row's new token in its full sequence."""
    column: Int[Tensor, "1"] | None = None
    """Where the new keys and values go, of a pass that is captured; else the cache says it."""
    _bias: dict[int | None, Tensor] = field(default_factory=dict)
    _turned: dict[int, tuple[Any, tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)
    """By the identity of the angles, which are held on to."""
    _first: dict[int, "Decode"] = field(default_factory=dict)

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """Attention over the shared prefix and the row's own columns, one softmax over both."""
        cache, added = self.cache, self.cache.room_for(layer, key)
        seats, heads, _, width = query.shape
        groups = key.shape[1]
        if softcap is None and served(query, key, value, torch.bfloat16):
            given = [bits(part) for part in (query, key, value)]
            return tensor_of(self._loop(layer, added, given, window=window, scaling=scaling))
        seating, bias = self._of_first(seats)
        added.write(0, cache.filled if self.column is None else self.column, key, value)
        own_keys, own_values = added.flat(seats, cache.reading)
        keys, values = cache.prefixes[layer].flat(seating.entries, cache.width)

        scaled = (query * scaling).view(seats, groups, heads // groups, width)
        shared = seating.by_seat(torch.bmm(seating.by_prefix(scaled), keys), groups)
        own = torch.bmm(scaled.flatten(0, 1), own_keys).view(*shared.shape[:3], -1)
        scores = torch.cat([shared, own], dim=-1).float()
        weights = softcapped(scores, softcap).add_(bias(window)).softmax(-1).to(value.dtype)
        prompt, since = weights.split([cache.width, cache.reading], dim=-1)
        read = seating.by_seat(torch.bmm(seating.by_prefix(prompt), values.transpose(1, 2)), groups)
        read += torch.bmm(since.flatten(0, 1), own_values.transpose(1, 2)).view_as(read)
        return read.view(seats, 1, heads, width)

    def attend_turning(
        self,
        layer: int,
        query: Float[Tensor, "row 1 head_x_d_head"],
        key: Float[Tensor, "row 1 kv_head_x_d_head"],
        value: Float[Tensor, "row 1 kv_head_x_d_head"],
        *,
        angles: tuple[Float[Tensor, "row 1 d_head"], Float[Tensor, "row 1 d_head"]],
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> Float[Tensor, "row 1 head_x_d_head"]:
        """What `attend` does, of projections that are not cut into heads, queries and keys still to be turned.

        Args:
            layer: Which one.
            query: Of the new token of each row.
            key: Likewise.
            value: Likewise.
            angles: Cosines and sines, by which the first half of each head is turned against the second.
            scaling: Of the scores.
            window: Positions that a row looks back, its own counted.
            softcap: What scores are squeezed into.
        """
        rows, width = query.shape[0], angles[0].shape[2]
        shape = rows, -1, 1, width
        if softcap is not None or not served(query, key, value, torch.bfloat16):
            heads = [part.view(shape) for part in (query, key, value)]
            heads[:2] = (turned(part, *angles) for part in heads[:2])
            return self.attend(layer, *heads, scaling=scaling, window=window, softcap=softcap).flatten(2)
        given = [bits(part).reshape(shape) for part in (query, key, value)]
        added = self.cache.added.get(layer) or self.cache.room_for(layer, key.view(shape))
        read = self._loop(layer, added, given, window=window, scaling=scaling, angles=self._turns(angles))
        return tensor_of(read.reshape(rows, 1, -1))

    def _loop(
        self,
        layer: int,
        added: KeyValues,
        given: Sequence[np.ndarray],
        *,
        window: int | None,
        scaling: float,
        angles: tuple[np.ndarray, np.ndarray] = step_attention.STILL,
    ) -> np.ndarray:
        query, key, value = given
        return step_attention.attend(
            query,
            key,
            value,
            prompts=self.cache.prefixes[layer].arrays,
            own=added.arrays,
            where=self._where,
            filled=self.cache.filled,
            window=window,
            scaling=scaling,
            angles=angles,
        )

    def _turns(self, angles: tuple[Tensor, Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """The angles as arrays, the same for all layers of a kind."""
        if id(angles) not in self._turned:
            cos, sin = (np.ascontiguousarray(part[:, 0].float().numpy()) for part in angles)
            self._turned[id(angles)] = angles, (cos, sin)
        return self._turned[id(angles)][1]

    @cached_property
    def _where(self) -> step_attention.Where:
        seating = self.seating
        each = (seating.prefix, seating.prefix_length, seating.start, self.positions)
        return step_attention.Where(*(np.ascontiguousarray(part.numpy()) for part in each))

    def _of_first(self, seats: int) -> tuple[Seating, Callable[[int | None], Tensor]]:
        """Who sits in the first seats, and what is hidden from them: some may join only at a later layer."""
        if seats == len(self.positions):
            return self.seating, self._bias_of
        if seats not in self._first:
            where = self.seating
            seating = Seating.of(where.prefix[:seats], where.prefix_length[:seats], where.start[:seats])
            self._first[seats] = Decode(self.cache, seating, self.positions[:seats], self.column)
        return self._first[seats].seating, self._first[seats]._bias_of

    def _bias_of(self, window: int | None) -> Float[Tensor, "seat 1 1 column"]:
        """0 where a row may look, minus infinity where it may not; the same for all layers of a window."""
        if window not in self._bias:
            cache, seating = self.cache, self.seating
            device, filled = self.positions.device, cache.filled if self.column is None else self.column
            prompt = torch.arange(cache.width, device=device)
            columns = torch.arange(cache.reading, device=device)
            hidden = torch.cat(
                [
                    prompt >= seating.prefix_length[:, None],
                    (columns < seating.start[:, None]) | (columns > filled),
                ],
                dim=1,
            )
            if window is not None:
                first = self.positions[:, None] - window + 1
                offset = self.positions[:, None] - filled
                hidden |= torch.cat([prompt < first, columns + offset < first], dim=1)
            bias = torch.zeros(hidden.shape, device=device).masked_fill_(hidden, float("-inf"))
            self._bias[window] = bias[:, None, None]
        return self._bias[window]


def served(query: Tensor, key: Tensor, value: Tensor, *kinds: torch.dtype) -> bool:
    """Whether the compiled loop takes these, in float32 or one of `kinds`."""
    alike = query.shape[0] == key.shape[0] and key.shape == value.shape and query.dtype is key.dtype is value.dtype
    return alike and all(serves(part, *kinds) for part in (query, key, value))
