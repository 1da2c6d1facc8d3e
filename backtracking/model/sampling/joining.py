"""Rows that join a step at the block where their condition first acts: up to there they are the row of another.

In an ablation scan the rows of a context differ only from the scanned layer on, so nearly half of the step would be
done many times over. Each context has one row that goes through all blocks; at the block where another begins to
differ, it begins with what that one has there.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from backtracking.core.errors import InputError
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling.edits import Edits


@dataclass(frozen=True)
class Joining:
    """In which order the rows of a step are, and at which block each of them joins."""

    order: tuple[int, ...]
    """The rows, by number."""
    carriers: tuple[int, ...]
    """For each in that order, the place there of the row whose activations it begins with."""
    counts: tuple[int, ...]
    """Rows that are there in each block; those that join later are behind the others."""

    @classmethod
    def of(cls, groups: Sequence[int], starts: Sequence[int], blocks: int) -> "Joining":
        """Let the rows of each group share what they can.

        Args:
            groups: Of each row; rows of one group are the same until a condition acts.
            starts: The block in which each row's condition first acts; `blocks` if it acts in none.
            blocks: How many there are; all rows are there from the start if they are not known, and 0.
        """
        carrier: dict[int, int] = {}
        for row in sorted(range(len(groups)), key=lambda row: -starts[row]):
            carrier.setdefault(groups[row], row)
        joins = [
            0 if carrier[group] == row else max(0, min(start, blocks - 1))
            for row, (group, start) in enumerate(zip(groups, starts, strict=True))
        ]
        order = sorted(range(len(groups)), key=lambda row: (joins[row], carrier[groups[row]] != row))
        place = {row: index for index, row in enumerate(order)}
        joining = [joins.count(block) for block in range(blocks)]
        return cls(tuple(order), tuple(place[carrier[groups[row]]] for row in order), tuple(accumulate(joining)))

    @contextmanager
    def installed(self, blocks: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
        """Let rows join in the forward passes inside the block, all of which hold all rows in this order."""
        carriers = torch.tensor(self.carriers, device=device)
        handles = []
        try:
            for block, count in zip(blocks, self.counts, strict=True):
                if self.counts[0] < len(self.order):
                    hook = _entering(carriers, count)
                    handles.append(block.register_forward_pre_hook(hook, prepend=True, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()


def blocks_of(model: HookedReasoner) -> list[nn.Module]:
    """The blocks of the plain model; none if what goes into one is not to be had."""
    try:
        return [
            model.plain.place(model.bridge, f"blocks.{layer}.hook_in").module for layer in range(model.cfg.n_layers)
        ]
    except InputError:
        return []


def first_blocks(edits: Edits, blocks: Sequence[nn.Module]) -> list[int]:
    """In which block each condition of the edits first acts; their number if in none, 0 if it is outside of them."""
    numbered = reversed(list(enumerate(blocks)))  # of a module that several hold, the first one counts
    holding = {module: number for number, block in numbered for module in block.modules()}
    return [min((holding.get(place.module, 0) for place in places), default=len(blocks)) for places in edits.places()]


def _entering(carriers: Int[Tensor, " row"], count: int) -> Any:
    """A hook that cuts or grows what goes into a block to so many rows, and cuts other tensors that hold all."""
    rows = len(carriers)

    def part(value: Any) -> Any:
        return value[:count] if isinstance(value, Tensor) and value.ndim and len(value) == rows else value

    def grown(residual: Tensor) -> Tensor:
        there = len(residual)
        if there >= count:
            return residual[:count]
        return torch.cat([residual, residual[carriers[there:count]]])

    def hook(_block: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if arguments:
            return (grown(arguments[0]), *tree_map(part, arguments[1:])), tree_map(part, named)
        name = next(iter(named))
        return arguments, {key: grown(value) if key == name else tree_map(part, value) for key, value in named.items()}

    return hook
