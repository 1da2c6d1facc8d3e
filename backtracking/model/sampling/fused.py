"""Parts of a forward pass on a CPU in float32, each as one compiled loop instead of several small operations.

With a handful of rows a step is mostly the cost of starting operations.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from backtracking.model.sampling.compiled import LANES, compiled, over_rows
from backtracking.model.sampling.registers import gates

_ONE, _NONE, _LANES = np.float32(1), np.float32(0), np.uint64(LANES)


def rms_norm(residual: Float[Tensor, "*rows d"], weight: np.ndarray, epsilon: np.float32) -> Float[Tensor, "*rows d"]:
    """Each row over the root of its mean square (and epsilon), times the weights; on the CPU, in float32."""
    rows = np.ascontiguousarray(residual.numpy())
    found = np.empty(rows.shape, np.float32)
    width = rows.shape[-1]
    over_rows(
        _normalize, rows.size // width, rows.size, rows.reshape(-1, width), weight, epsilon, found.reshape(-1, width)
    )
    return torch.from_numpy(found)


def added_and_normed(
    residual: Float[Tensor, "row pos d"], added: Float[Tensor, "row pos d"], weight: np.ndarray, epsilon: np.float32
) -> tuple[Float[Tensor, "row pos d"], Float[Tensor, "row pos d"]]:
    """The sum, and what `rms_norm` gives of it."""
    given = [np.ascontiguousarray(part.numpy()) for part in (residual, added)]
    found = [np.empty_like(given[0]) for _ in range(2)]
    rows = [part.reshape(-1, part.shape[-1]) for part in (*given, *found)]
    over_rows(_add_and_normalize, len(rows[0]), given[0].size, weight, epsilon, *rows)
    return torch.from_numpy(found[0]), torch.from_numpy(found[1])


def rotated(
    query: Float[Tensor, "row head 1 d_head"],
    key: Float[Tensor, "row kv_head 1 d_head"],
    cos: Float[Tensor, "row 1 d_head"],
    sin: Float[Tensor, "row 1 d_head"],
) -> tuple[Float[Tensor, "row head 1 d_head"], Float[Tensor, "row kv_head 1 d_head"]]:
    """Each head turned by the angles of its row, its first half against its second; on the CPU, in float32."""
    given = [np.ascontiguousarray(part.numpy()) for part in (query, key, cos, sin)]
    found = [np.empty_like(part) for part in given[:2]]
    over_rows(_rotate, len(given[0]), given[0].size, *given, *found)
    return torch.from_numpy(found[0]), torch.from_numpy(found[1])


def turned(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """What `rotated` gives of one of them, for any kind of numbers, by PyTorch."""
    one, two = heads.chunk(2, -1)
    return heads * cos[:, None] + torch.cat([-two, one], -1) * sin[:, None]


def gated(gate: Float[Tensor, "*rows d_mlp"], up: Float[Tensor, "*rows d_mlp"]) -> Float[Tensor, "*rows d_mlp"]:
    """`silu(gate) * up`; on the CPU, in float32."""
    given = [np.ascontiguousarray(part.numpy()) for part in (gate, up)]
    found = np.empty_like(given[0])
    width = found.shape[-1]
    over_rows(_gate, found.size // width, found.size, *(part.reshape(-1, width) for part in (*given, found)))
    return torch.from_numpy(found)


def scaled(
    activation: Float[Tensor, "row pos d"],
    gain: Float[Tensor, "row pos width"],
    growth: Float[Tensor, "row pos"],
    *,
    head: Int[Tensor, " row"] | None,
    heads: int,
    change: Float[Tensor, " seat"],
) -> Float[Tensor, "row pos d"]:
    """`activation * gain`; on the CPU, in float32.

    Args:
        activation: What passes a site.
        gain: One number per position, or one for each of its numbers.
        growth: What to multiply the norm of the site's part of the activation by,
        head: which is all of it, or one head of each row.
        heads: How many there are.
        change: Receives the sum of that over the positions of each row.
    """
    given = np.ascontiguousarray(activation.numpy())
    found = np.empty_like(given)
    which = np.zeros(len(given), np.int64) if head is None else head.numpy()
    part = given.shape[2] // (1 if head is None else heads)
    over_rows(_scale, len(given), given.size, given, gain.numpy(), growth.numpy(), which, part, change.numpy(), found)
    return torch.from_numpy(found)


@compiled
def _scale(
    first: int, last: int, given: Any, gain: Any, growth: Any, head: Any, part: int, change: Any, found: Any
) -> None:
    wide = gain.shape[2] > 1
    for row in range(first, last):
        for position in range(given.shape[1]):
            numbers, into, factors = given[row, position], found[row, position], gain[row, position]
            square = _NONE
            for i in range(head[row] * part, (head[row] + 1) * part):
                square += numbers[i] * numbers[i]
            change[row] += np.sqrt(square) * growth[row, position]
            if wide:
                for i in range(len(numbers)):
                    into[i] = numbers[i] * factors[i]
            else:
                factor = factors[0]
                for i in range(len(numbers)):
                    into[i] = numbers[i] * factor


@compiled
def _normalize(first: int, last: int, rows: Any, weight: Any, epsilon: Any, found: Any) -> None:
    width = np.float32(rows.shape[1])
    for row in range(first, last):
        given, into, total = rows[row], found[row], _NONE
        for i in range(len(weight)):
            total += given[i] * given[i]
        scale = _ONE / np.sqrt(total / width + epsilon)
        for i in range(len(weight)):
            into[i] = given[i] * scale * weight[i]


@compiled
def _add_and_normalize(
    first: int, last: int, weight: Any, epsilon: Any, residual: Any, added: Any, total: Any, found: Any
) -> None:
    for row in range(first, last):
        one, other, into = residual[row], added[row], total[row]
        for i in range(len(weight)):
            into[i] = one[i] + other[i]
    _normalize(first, last, total, weight, epsilon, found)


@compiled
def _rotate(
    first: int, last: int, query: Any, key: Any, cosines: Any, sines: Any, new_query: Any, new_key: Any
) -> None:
    half = query.shape[3] // 2
    for row in range(first, last):
        cos, sin = cosines[row, 0], sines[row, 0]
        for given, found in ((query[row], new_query[row]), (key[row], new_key[row])):
            for head in range(len(given)):
                one, two, into = given[head, 0][:half], given[head, 0][half:], found[head, 0]
                for i in range(half):
                    into[i] = one[i] * cos[i] - two[i] * sin[i]
                for i in range(half):
                    into[half + i] = two[i] * cos[half + i] + one[i] * sin[half + i]


@compiled
def _gate(first: int, last: int, gate: Any, up: Any, found: Any) -> None:
    width = np.uint64(gate.shape[1])
    vectors = width // _LANES
    flat_gate, flat_up, flat = gate.reshape(-1), up.reshape(-1), found.reshape(-1)
    for row in range(first, last):
        gates(flat_gate, flat_up, flat, np.uint64(row) * width, vectors)
        for i in range(vectors * _LANES, width):
            found[row, i] = gate[row, i] / (_ONE + np.exp(-gate[row, i])) * up[row, i]
