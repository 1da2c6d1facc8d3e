"""Which row of a batch sits where, and what of the cache it may attend to."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass
class Seating:
    """Which row of the batch sits where, and what it may attend to."""

    prefix: Int[Tensor, " seat"]
    """Entry of each row's prefix."""
    prefix_length: Int[Tensor, " seat"]
    start: Int[Tensor, " seat"]
    """First column of the row's own keys and values."""
    members: Int[Tensor, "entry most"]
    """Seats of the rows of each prefix, filled up with seat 0."""
    place: Int[Tensor, " seat"]
    """Where each seat is among the members, counted through."""
    _by_prefix: dict[int, Tensor] = field(default_factory=dict)
    _by_seat: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, prefix: Int[Tensor, " seat"], prefix_length: Int[Tensor, " seat"], start: Int[Tensor, " seat"]
    ) -> "Seating":
        """Group the seats by their prefixes, which are numbered without gaps."""
        counts = torch.bincount(prefix)
        most, entries = int(counts.max()), len(counts)
        order = torch.argsort(prefix, stable=True)
        first = counts.cumsum(0) - counts
        rank = torch.arange(len(prefix), device=prefix.device) - first[prefix[order]]
        place = torch.empty_like(prefix)
        place[order] = prefix[order] * most + rank
        members = torch.zeros(entries * most, dtype=torch.long, device=prefix.device)
        members[place] = torch.arange(len(prefix), device=prefix.device)
        return cls(prefix, prefix_length, start, members.view(entries, most), place)

    @property
    def entries(self) -> int:
        """Prefixes in use."""
        return len(self.members)

    def by_prefix(self, tensor: Float[Tensor, "seat group head x"]) -> Float[Tensor, "entry_x_group member_x_head x"]:
        """Rows of one prefix under one another."""
        _, groups, heads, _ = tensor.shape
        if groups not in self._by_prefix:
            each = torch.arange(groups, device=self.members.device)
            self._by_prefix[groups] = (self.members[:, None] * groups + each[:, None]).flatten()
        gathered = tensor.flatten(0, 1).index_select(0, self._by_prefix[groups])
        return gathered.view(self.entries * groups, -1, tensor.shape[3])

    def by_seat(
        self, tensor: Float[Tensor, "entry_x_group member_x_head x"], groups: int
    ) -> Float[Tensor, "seat group head x"]:
        """The rows back where they came from."""
        most = self.members.shape[1]
        if groups not in self._by_seat:
            each = torch.arange(groups, device=self.place.device)
            entry, member = (self.place // most)[:, None], (self.place % most)[:, None]
            self._by_seat[groups] = ((entry * groups + each) * most + member).flatten()
        spread = tensor.view(tensor.shape[0] * most, -1, tensor.shape[2])
        return spread.index_select(0, self._by_seat[groups]).unflatten(0, (-1, groups))
