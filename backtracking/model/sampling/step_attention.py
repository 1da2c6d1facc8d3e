"""Attention of one decoding step on a CPU in float32, row by row.

For a single query per row PyTorch has no kernel that pays: its batched product takes a microsecond for each of
hundreds of tiny matrices, and its fused attention is made for many queries. Here the scores of a row stay in the first
cache from the product with the keys to the softmax and to what is read.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from backtracking.model.sampling.compiled import LANES, compiled, exponentials, largest, over_rows

_UNLIMITED = 2**62
_NONE, _ONE = np.float32(0), np.float32(1)
_0, _1, _2, _3, _4, _8 = map(np.uint64, (0, 1, 2, 3, 4, 8))


class Where(NamedTuple):
    """Where the rows of a step look, each an integer per row."""

    prefix: np.ndarray
    """Entry of each row's prompt."""
    length: np.ndarray
    """Tokens of it."""
    start: np.ndarray
    """First of the columns it has added."""
    position: np.ndarray
    """Position of the new token in the full sequence."""


def attend(
    query: Float[Tensor, "row head 1 d_head"],
    key: Float[Tensor, "row kv_head 1 d_head"],
    value: Float[Tensor, "row kv_head 1 d_head"],
    *,
    prompts: Sequence[np.ndarray],
    own: Sequence[np.ndarray],
    where: Where,
    filled: int,
    window: int | None,
    scaling: float,
) -> Float[Tensor, "row 1 head d_head"]:
    """Put each row's new key and value into its column, and return what its heads read.

    Args:
        query: Of the new token of each row.
        key: Likewise.
        value: Likewise.
        prompts: Keys and values, each `entry kv_head d_head column` with columns in multiples of `LANES`.
        own: Of what each row has added, likewise; changed in place.
        where: Which row has which prompt, and which columns are its own.
        filled: The column of the new token.
        window: Positions that a row looks back, its own counted.
        scaling: Of the scores.
    """
    rows, heads, _, width = query.shape
    read = np.empty((rows, 1, heads, width), np.float32)
    given = [np.ascontiguousarray(part.numpy()) for part in (query, key, value)]
    work = read.size * (prompts[0].shape[3] + filled + 1)
    span = _UNLIMITED if window is None else window
    over_rows(_attend, rows, work, *given, *prompts, *own, *where, filled, span, np.float32(scaling), read)
    return torch.from_numpy(read)


def _asking(_typing: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of an item of a one-dimensional array, for soon but not at once."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [byte, number, number, number]), "llvm.prefetch.p0i8"
        )
        place = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        to_read, second_cache, of_data = number(0), number(2), number(1)
        builder.call(function, [place, to_read, second_cache, of_data])
        return context.get_dummy_value()

    return types.void(array, index), generate


_prefetch: Any = intrinsic(_asking)


@compiled
def _ask(asked: Any, keys: Any, line: Any, apart: Any, scores: Any, at: Any, room: Any, heads: Any, count: Any) -> None:
    """Products of every head's query with the keys of some columns.

    Arrays are flat, and indices unsigned: so the inner loops become vector instructions.

    Args:
        asked: Queries, head by head.
        keys: From `line` on the first number of `count` keys, then `apart` further the second ones, and so on.
        line: See keys.
        apart: See keys.
        scores: From `at` on those of the first head, then `room` further those of the second, and so on.
        at: See scores.
        room: See scores.
        heads: How many.
        count: How many columns.
    """
    width = np.uint64(len(asked)) // heads
    for head in range(heads):
        place = at + head * room
        for c in range(count):
            scores[place + c] = _NONE
    whole = width // _8 * _8
    for i in range(_0, whole, _8):
        line_0 = line + i * apart
        line_1, line_2, line_3 = line_0 + apart, line_0 + _2 * apart, line_0 + _3 * apart
        line_4, line_5, line_6, line_7 = (
            line_0 + _4 * apart,
            line_1 + _4 * apart,
            line_2 + _4 * apart,
            line_3 + _4 * apart,
        )
        for head in range(heads):
            place, mine = at + head * room, head * width + i
            q_0, q_1, q_2, q_3 = asked[mine], asked[mine + _1], asked[mine + _2], asked[mine + _3]
            mine += _4
            q_4, q_5, q_6, q_7 = asked[mine], asked[mine + _1], asked[mine + _2], asked[mine + _3]
            for c in range(count):
                scores[place + c] += (
                    q_0 * keys[line_0 + c] + q_1 * keys[line_1 + c] + q_2 * keys[line_2 + c] + q_3 * keys[line_3 + c]
                ) + (q_4 * keys[line_4 + c] + q_5 * keys[line_5 + c] + q_6 * keys[line_6 + c] + q_7 * keys[line_7 + c])
    for i in range(whole, width):
        line_0 = line + i * apart
        for head in range(heads):
            place, q_0 = at + head * room, asked[head * width + i]
            for c in range(count):
                scores[place + c] += q_0 * keys[line_0 + c]


@compiled
def _read(
    weights: Any,
    at: Any,
    room: Any,
    values: Any,
    line: Any,
    apart: Any,
    read: Any,
    into: Any,
    heads: Any,
    width: Any,
    count: Any,
) -> None:
    """Add the weighted values of some columns to what every head reads, which lies in `read` from `into` on.

    The other arguments are as for `_ask`.
    """
    for i in range(_0, width // _4 * _4, _4):
        line_0 = line + i * apart
        line_1, line_2, line_3 = line_0 + apart, line_0 + _2 * apart, line_0 + _3 * apart
        for head in range(heads):
            place, mine = at + head * room, into + head * width + i
            sum_0, sum_1, sum_2, sum_3 = _NONE, _NONE, _NONE, _NONE
            for c in range(count):
                weight = weights[place + c]
                sum_0 += weight * values[line_0 + c]
                sum_1 += weight * values[line_1 + c]
                sum_2 += weight * values[line_2 + c]
                sum_3 += weight * values[line_3 + c]
            read[mine] += sum_0
            read[mine + _1] += sum_1
            read[mine + _2] += sum_2
            read[mine + _3] += sum_3
    for i in range(width // _4 * _4, width):
        line_0 = line + i * apart
        for head in range(heads):
            place, sum_0 = at + head * room, _NONE
            for c in range(count):
                sum_0 += weights[place + c] * values[line_0 + c]
            read[into + head * width + i] += sum_0


@compiled
def _weigh(scores: Any, first: int, second: int, third: int, fourth: int, powers: Any, scale: Any) -> None:
    """Softmax of two stretches of scores, in place; what lies before, between and behind them becomes 0."""
    count = len(scores)
    for begin, end in ((0, first), (second, third), (fourth, count)):
        for c in range(begin, end):
            scores[c] = -np.inf
    top = largest(scores)
    for c in range(count):
        scores[c] -= top
    total = exponentials(scores, powers, scale)
    for begin, end in ((0, first), (second, third), (fourth, count)):
        for c in range(begin, end):
            scores[c] = _NONE
    share = _ONE / total
    for c in range(count):
        scores[c] *= share


@compiled
def _attend(
    first: int,
    last: int,
    query: Any,
    key: Any,
    value: Any,
    prompt_keys: Any,
    prompt_values: Any,
    keys: Any,
    values: Any,
    prefix: Any,
    lengths: Any,
    starts: Any,
    positions: Any,
    filled: int,
    window: int,
    scaling: Any,
    read: Any,
) -> None:
    groups, width = key.shape[1], key.shape[3]
    heads = query.shape[1] // groups  # of a group
    columns, prompt_columns = keys.shape[3], prompt_keys.shape[3]
    room = prompt_columns + columns
    asked, scores = np.empty(heads * width, np.float32), np.empty(heads * room, np.float32)
    powers = np.empty(room, np.int32)
    scale = powers.view(np.float32)
    queries, new_keys, new_values, reads = query.reshape(-1), key.reshape(-1), value.reshape(-1), read.reshape(-1)
    own_keys, own_values = keys.reshape(-1), values.reshape(-1)
    shared_keys, shared_values = prompt_keys.reshape(-1), prompt_values.reshape(-1)
    of_group = width * columns
    n_heads, n_width, n_room = np.uint64(heads), np.uint64(width), np.uint64(room)
    n_columns, n_prompt = np.uint64(columns), np.uint64(prompt_columns)
    for row in range(first, last):
        length = lengths[row]
        early = min(max(0, positions[row] - window + 1), length)
        # A seat in which nobody sits any more may have a start that the others have left behind.
        late = min(max(0, starts[row], filled - window + 1), filled)
        # Whole lanes of columns, in which those that the row sees lie.
        prompt_first, own_first = early // LANES * LANES, late // LANES * LANES
        shared = -(-(length - prompt_first) // LANES) * LANES
        count = -(-(filled + 1 - own_first) // LANES) * LANES
        moved = shared - own_first
        for group in range(groups):
            each = row * groups + group
            if each + 1 < last * groups:
                following = (each + 1) * of_group + own_first
                for line in range(following, following + of_group, columns):
                    for item in range(line, line + count, LANES):
                        _prefetch(own_keys, item)
                        _prefetch(own_values, item)
            for i in range(width):
                own_keys[each * of_group + i * columns + filled] = new_keys[each * width + i]
                own_values[each * of_group + i * columns + filled] = new_values[each * width + i]
            for i in range(heads * width):
                asked[i] = queries[each * heads * width + i] * scaling
                reads[each * heads * width + i] = _NONE
            prompt = np.uint64((prefix[row] * groups + group) * width * prompt_columns + prompt_first)
            own, into = np.uint64(each * of_group + own_first), np.uint64(each * heads * width)
            n_shared, n_count = np.uint64(shared), np.uint64(count)
            _ask(asked, shared_keys, prompt, n_prompt, scores, _0, n_room, n_heads, n_shared)
            _ask(asked, own_keys, own, n_columns, scores, n_shared, n_room, n_heads, n_count)
            for head in range(heads):
                mine = scores[head * room : head * room + shared + count]
                _weigh(
                    mine, early - prompt_first, length - prompt_first, late + moved, filled + 1 + moved, powers, scale
                )
            _read(scores, _0, n_room, shared_values, prompt, n_prompt, reads, into, n_heads, n_width, n_shared)
            _read(scores, n_shared, n_room, own_values, own, n_columns, reads, into, n_heads, n_width, n_count)
