"""Keys and values of a packed batch: prefixes that rows share, and what each row has added since.

Rows of one prompt differ only in what they sample, so the keys and values of the prompt are kept
once and read once per step for all of them. What a row has added lies in its seat, in columns that
all rows share: a row that was seated later starts at a later column.
"""

import math
import mmap
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from backtracking.model.sampling.compiled import LANES, bits

BLOCK = 32
"""Columns by which the room for sampled tokens grows; between two growths nothing is moved."""
READ = 8
"""Columns by which what is read of that room grows at least: matrix kernels are prepared anew for every shape."""
MAPPED = 2**23
"""Bytes from which a room is memory of its own."""


@dataclass(frozen=True)
class KeyValues:
    """Keys and values of one layer, laid out so that products with them are fast.

    Of keys the columns lie beside one another, of values the numbers of a head: values are stored transposed.
    """

    keys: Float[Tensor, "entry kv_head d_head column"]
    values: Float[Tensor, "entry kv_head d_head column"]

    @classmethod
    def room(
        cls, entries: int, columns: int, like: Float[Tensor, "row kv_head pos d_head"], *, empty: int = 0
    ) -> "KeyValues":
        """Zeros for that many entries and columns, or a few more columns; the first `empty` ones may hold anything."""
        _, heads, _, width = like.shape
        columns = -(-columns // LANES) * LANES
        shape, turned = (entries, heads, width, columns), (entries, heads, columns, width)
        if like.is_cpu and math.prod(shape) * like.itemsize >= MAPPED and hasattr(mmap, "MAP_ANONYMOUS"):
            rooms = _mapped(shape, like.dtype), _mapped(turned, like.dtype)
        else:
            rooms = like.new_empty(shape), like.new_empty(turned)
            for each, axis in zip(rooms, (3, 2), strict=True):
                each.narrow(axis, empty, columns - empty).zero_()
        return cls(rooms[0], rooms[1].transpose(2, 3))

    def move(self, source: Int[Tensor, " some"], target: Int[Tensor, " some"]) -> None:
        """Copy entries over others, whose content is no longer needed."""
        for tensor in (self.keys, self.values.transpose(2, 3)):  # as they lie in memory
            tensor.index_copy_(0, target, tensor.index_select(0, source))

    def write(self, first: int, start: int | Int[Tensor, "1"], keys: Tensor, values: Tensor) -> None:
        """Put keys and values, `entry kv_head pos d_head`, into entries and columns from those on.

        Where the start is a number on the device, there is one column.
        """
        entries = slice(first, first + len(keys))
        for tensor, new in ((self.keys, keys), (self.values, values)):
            if isinstance(start, Tensor):
                tensor[entries].index_copy_(3, start, new.transpose(2, 3))
            else:
                tensor[entries, :, :, start : start + keys.shape[2]] = new.transpose(2, 3)

    def flat(self, entries: int, columns: int) -> tuple[Tensor, Tensor]:
        """The first columns of the first entries, each `entry_x_head d_head column`."""
        heads = self.keys.shape[1]
        keys, values = self.keys.flatten(0, 1), self.values.flatten(0, 1)
        return keys[: entries * heads, :, :columns], values[: entries * heads, :, :columns]

    def shift(self, columns: int) -> None:
        """Drop the first columns."""
        for tensor in (self.keys, self.values):
            tensor[..., :-columns] = tensor[..., columns:].clone()

    def wider(self, entries: int, columns: int) -> "KeyValues":
        """The first entries, with room for more columns."""
        there = self.keys.shape[3]
        wider = KeyValues.room(entries, there + columns, self.keys.transpose(2, 3), empty=there)
        for new, old in ((wider.keys, self.keys), (wider.values, self.values)):
            new[..., :there] = old[:entries]
        return wider

    @cached_property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """The same memory as it lies, for compiled loops: values are `entry kv_head column d_head`.

        NumPy has no bfloat16: of that these are the bits.
        """
        return bits(self.keys), bits(self.values.transpose(2, 3))


def _mapped(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros that go back to the system as soon as they are dropped.

    What an allocator holds between other things stays with the process, and rooms that grow leave ever larger gaps.
    """
    size = math.prod(shape) * dtype.itemsize
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


@dataclass
class PackedCache:
    """The keys and values of every layer."""

    seats: int
    """Rows decoded together at most."""
    entries: int
    """Prefixes kept at most."""
    width: int
    """Tokens of the longest prefix."""
    columns: int = BLOCK
    """Columns there is room for."""
    filled: int = 0
    """Columns in use: the next token's keys and values go there."""
    grain: int = READ
    """Columns by which what is read of them grows."""
    lasting: bool = True
    """Whether there is another step after this: if not, the layers use the same room for what rows add."""
    prefixes: dict[int, KeyValues] = field(default_factory=dict)
    added: dict[int, KeyValues] = field(default_factory=dict)

    def room_for(self, layer: int, like: Float[Tensor, "row kv_head pos d_head"]) -> KeyValues:
        """Where the rows' new keys and values of a layer go."""
        if layer not in self.added:
            before = None if self.lasting else next(iter(self.added.values()), None)
            if before is None or before.keys.shape[1:3] != (like.shape[1], like.shape[3]):
                before = KeyValues.room(self.seats, self.columns, like)
            self.added[layer] = before
        return self.added[layer]

    @property
    def reading(self) -> int:
        """Columns that a step reads: those in use, the new one, and a few that are still empty."""
        return min(self.columns, -(-(self.filled + 1) // self.grain) * self.grain)

    def advance(self, oldest: int, seats: int) -> int:
        """Make sure the next column exists; return by how many columns all moved to the left.

        Args:
            oldest: The first column that any row still needs.
            seats: Rows that are still decoded.
        """
        moved = 0
        if self.filled == self.columns:
            if oldest >= BLOCK:
                moved = oldest
                for kept in self.added.values():
                    kept.shift(moved)
            else:
                for layer in self.added:  # one after another, so that the old and the new of one exist at once
                    self.added[layer] = self.added[layer].wider(seats, BLOCK)
                self.columns += BLOCK
        self.filled -= moved
        return moved


@dataclass(frozen=True)
class Packing:
    """How the kept ones of a list of entries move to its front, as few of them as possible."""

    kept: int
    source: Int[Tensor, " moved"]
    target: Int[Tensor, " moved"]

    @classmethod
    def of(cls, keep: Bool[Tensor, " entry"]) -> "Packing":
        """Fill the gaps among the first entries with the kept ones behind them."""
        kept = int(keep.sum())
        gaps = (~keep[:kept]).nonzero().flatten()
        return cls(kept, keep[kept:].nonzero().flatten() + kept, gaps)

    def __call__(self, values: Tensor) -> Tensor:
        """The kept values of one axis, in their new order."""
        values[self.target] = values[self.source]
        return values[: self.kept]
