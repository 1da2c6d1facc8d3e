"""Parts of a forward pass on a CPU, each as one compiled loop instead of several small operations.

With a handful of rows a step is mostly the cost of starting operations. Numbers of bfloat16 are widened to float32,
worked on, and rounded where they are put down.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from backtracking.model.sampling.compiled import LANES, LEAST, bits, compiled, over_rows, tensor_of
from backtracking.model.sampling.registers import copy, gates, keep, read, transpose

_ONE, _NONE, _LANES, _0 = np.float32(1), np.float32(0), np.uint64(LANES), np.uint64(0)


def rms_norm(residual: Float[Tensor, "*rows d"], weight: np.ndarray, epsilon: np.float32) -> Float[Tensor, "*rows d"]:
    """Each row over the root of its mean square (and epsilon), times the weights.

    On the CPU, in float32 or bfloat16; the weights are float32.
    """
    rows = np.ascontiguousarray(bits(residual))
    found, width = np.empty_like(rows), rows.shape[-1]
    does = _normalize if rows.dtype == np.float32 else _normalize_halves
    over_rows(does, rows.size // width, rows.size, rows.reshape(-1, width), weight, epsilon, found.reshape(-1, width))
    return tensor_of(found)


def added_and_normed(
    residual: Float[Tensor, "row pos d"], added: Float[Tensor, "row pos d"], weight: np.ndarray, epsilon: np.float32
) -> tuple[Float[Tensor, "row pos d"], Float[Tensor, "row pos d"]]:
    """The sum, and what `rms_norm` gives of it."""
    given = [np.ascontiguousarray(bits(part)) for part in (residual, added)]
    found = [np.empty_like(given[0]) for _ in range(2)]
    rows = [part.reshape(-1, part.shape[-1]) for part in (*given, *found)]
    does = _add_and_normalize if given[0].dtype == np.float32 else _add_and_normalize_halves
    over_rows(does, len(rows[0]), given[0].size, weight, epsilon, *rows)
    return tensor_of(found[0]), tensor_of(found[1])


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
    """What `rotated` gives of one of them, for any kind of numbers, by PyTorch; angles may be of a wider kind."""
    one, two = heads.chunk(2, -1)
    return (heads * cos[:, None] + torch.cat([-two, one], -1) * sin[:, None]).to(heads.dtype)


def gated(gate: Float[Tensor, "*rows d_mlp"], up: Float[Tensor, "*rows d_mlp"]) -> Float[Tensor, "*rows d_mlp"]:
    """`silu(gate) * up`; on the CPU, in float32 or bfloat16."""
    given = [np.ascontiguousarray(bits(part)) for part in (gate, up)]
    found = np.empty_like(given[0])
    width = found.shape[-1]
    over_rows(_gate, found.size // width, found.size, *(part.reshape(-1, width) for part in (*given, found)))
    return tensor_of(found)


def upright(lying: Float[Tensor, "some row"], found: Float[Tensor, "row all"], first: int) -> None:
    """Put what has the rows side by side where they lie one after another, from a column on.

    On the CPU, in float32 or bfloat16.
    """
    given = bits(lying)
    over_rows(_stand, -(-len(given) // LANES), given.size, given, bits(found), first)


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
def _stand(first: int, last: int, lying: Any, found: Any, column: int) -> None:
    width, rows, apart = np.uint64(lying.shape[0]), np.uint64(lying.shape[1]), np.uint64(found.shape[1])
    flat, into, whole = lying.reshape(-1), found.reshape(-1), rows // _LANES * _LANES
    for block in range(first, last):
        start = np.uint64(block) * _LANES
        end, to = min(start + _LANES, width), np.uint64(column)
        done = _0
        if end == start + _LANES:
            for row in range(_0, whole, _LANES):
                transpose(flat, start * rows + row, rows, into, row * apart + to + start, apart)
            done = whole
        for row in range(done, rows):
            for i in range(start, end):
                into[row * apart + to + i] = flat[i * rows + row]


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
            at = np.uint64(row) * width + i
            number = read(flat_gate, at)
            number = LEAST if -np.inf < number < LEAST else number  # as in the vectors
            keep(flat, at, number / (_ONE + np.exp(min(-number, -LEAST))) * read(flat_up, at))


@compiled
def _normalize_halves(first: int, last: int, rows: Any, weight: Any, epsilon: Any, found: Any) -> None:
    width = np.uint64(rows.shape[1])
    given, into = np.empty((1, width), np.float32), np.empty((1, width), np.float32)
    flat, flat_found = rows.reshape(-1), found.reshape(-1)
    for row in range(first, last):
        at = np.uint64(row) * width
        copy(flat, at, given[0], _0, width)
        _normalize(0, 1, given, weight, epsilon, into)
        copy(into[0], _0, flat_found, at, width)


@compiled
def _add_and_normalize_halves(
    first: int, last: int, weight: Any, epsilon: Any, residual: Any, added: Any, total: Any, found: Any
) -> None:
    width = np.uint64(residual.shape[1])
    one, other = np.empty(width, np.float32), np.empty(width, np.float32)
    flat_residual, flat_added, flat = residual.reshape(-1), added.reshape(-1), total.reshape(-1)
    for row in range(first, last):
        at = np.uint64(row) * width
        copy(flat_residual, at, one, _0, width)
        copy(flat_added, at, other, _0, width)
        for i in range(width):
            one[i] += other[i]
        copy(one, _0, flat, at, width)
    _normalize_halves(first, last, total, weight, epsilon, found)
