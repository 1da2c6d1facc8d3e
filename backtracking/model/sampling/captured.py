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

from backtracking.core.errors import InputError
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling.packed_cache import PackedCache
from backtracking.model.sampling.passes import Decode
from backtracking.model.sampling.prefixes import forward
from backtracking.model.sampling.seating import Seating

Pass = Callable[[], Tensor]
Capture = Callable[[Pass], Pass]
"""Turns a pass, which runs on tensors that stay where they are, into one that is started at once."""
PATIENCE = 3
"""Steps that must have been alike before one is captured."""


class CudaGraphs:
    """Captures passes as CUDA graphs, each in memory of its own: one is gone before the next is captured."""

    def __init__(self, device: torch.device) -> None:
        """Captures on a stream of that device, whichever is the current one."""
        self._stream = torch.cuda.Stream(device)

    def __call__(self, run: Pass) -> Pass:
        """Capture a pass, which is not run meanwhile.

        Raises:
            InputError: It waits for the GPU in its midst, so no graph can hold it, or there is no memory for it.
        """
        graph = torch.cuda.CUDAGraph()
        try:
            # The outer one goes back to the stream of before also where a capture is broken off.
            with torch.cuda.stream(self._stream), torch.cuda.graph(graph, stream=self._stream):
                found = run()
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise InputError(
                f'the pass of a step cannot be captured as a CUDA graph ({reason}); use the engine "packed", and start '
                "Python anew first, since the GPU's state may be broken"
            ) from error

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
        self,
        ids: Int[Tensor, "seat 1"],
        positions: Int[Tensor, " seat"],
        cache: PackedCache,
        seating: Seating,
        *,
        lasting: bool,
    ) -> Float[Tensor, "seat vocab"]:
        """Logits of the next tokens. Those of a captured pass are overwritten by the next.

        Args:
            ids: Last token of each row.
            positions: Where it is in the full sequence.
            cache: Keys and values.
            seating: Who sits where.
            lasting: Whether they will sit there for some time: else nothing is captured.
        """
        if self._capture is None:
            return self._run(ids, positions, Decode(cache, seating, positions))
        columns = cache.reading, cache.columns
        if seating is not self._seating or columns != self._columns:
            self._seating, self._columns, self._count, self._held = seating, columns, 0, None
        if self._held is None:
            column = torch.full((1,), cache.filled, device=positions.device)
            self._count += 1
            if not lasting or self._count <= PATIENCE:
                return self._run(ids, positions, Decode(cache, seating, positions, column))
            ids, positions = ids.clone(), positions.clone()
            passing = Decode(cache, seating, positions, column)
            self._held = _Held(self._capture(lambda: self._run(ids, positions, passing)), ids, positions, column)
        else:
            self._held.ids.copy_(ids)
            self._held.positions.copy_(positions)
            self._held.column.fill_(cache.filled)
        return self._held.replay()

    def forget(self) -> None:
        """Let go of what is captured, and of its memory."""
        self._seating, self._held = None, None

    def _run(self, ids: Tensor, positions: Tensor, passing: Decode) -> Tensor:
        return forward(self._model, ids, positions[:, None], passing)[:, 0]
