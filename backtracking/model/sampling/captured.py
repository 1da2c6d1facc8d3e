"""The forward pass of a step, captured once and replayed for as long as its rows stay the same.

On a GPU a step of a few rows costs the starting of its thousand operations, not their arithmetic; a CUDA graph starts
them all at once. A graph holds addresses and shapes, not values: so what changes from step to step (tokens, positions,
the column that is written) is copied into places that stay, and a graph lives until a row ends and its seat is packed
or taken, or more columns are read.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling.packed_cache import PackedCache
from backtracking.model.sampling.passes import Decode, Seating
from backtracking.model.sampling.prefixes import forward

Pass = Callable[[], Tensor]
Capture = Callable[[Pass], Pass]
"""Turns a pass, which runs on tensors that stay where they are, into one that is started at once."""
PATIENCE = 3
"""Steps that must have been alike before one is captured: fewer would not pay for it."""


class CudaGraphs:
    """Captures passes as CUDA graphs, one after another in the same memory."""

    def __init__(self) -> None:
        """Reserve nothing yet."""
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Pass) -> Pass:
        """Capture a pass, which is not run meanwhile."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            found = run()

        def replay() -> Tensor:
            graph.replay()
            return found

        return replay


@dataclass
class _Held:
    """A captured pass, and the places it reads."""

    replay: Pass
    ids: Int[Tensor, "seat 1"]
    positions: Int[Tensor, " seat"]
    column: Int[Tensor, "1"]


class Steps:
    """The forward passes of the steps of a batch."""

    def __init__(self, model: HookedReasoner, capture: Capture | None) -> None:
        """Passes of a model; without `capture` each is run operation by operation."""
        self._model, self._capture = model, capture
        self._seating: Seating | None = None
        self._columns, self._count = (0, 0), 0
        self._held: _Held | None = None

    def __call__(
        self, ids: Int[Tensor, "seat 1"], positions: Int[Tensor, " seat"], cache: PackedCache, seating: Seating
    ) -> Float[Tensor, "seat vocab"]:
        """Logits of the next tokens. Those of a captured pass are overwritten by the next."""
        if self._capture is None:
            return self._run(ids, positions, Decode(cache, seating, positions))
        columns = cache.reading, cache.columns
        if seating is not self._seating or columns != self._columns:
            self._seating, self._columns, self._count, self._held = seating, columns, 0, None
        self._count += 1
        if self._count <= PATIENCE:
            return self._run(ids, positions, Decode(cache, seating, positions))
        column = torch.tensor([cache.filled], device=positions.device)
        if self._held is None:
            ids, positions = ids.clone(), positions.clone()
            passing = Decode(cache, seating, positions, column)
            self._held = _Held(self._capture(lambda: self._run(ids, positions, passing)), ids, positions, column)
        else:
            self._held.ids.copy_(ids)
            self._held.positions.copy_(positions)
            self._held.column.copy_(column)
        return self._held.replay()

    def _run(self, ids: Tensor, positions: Tensor, passing: Decode) -> Tensor:
        return forward(self._model, ids, positions[:, None], passing)[:, 0]
