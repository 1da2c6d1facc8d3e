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
from torch import Tensor

from backtracking.model.sampling.compiled import LANES, compiled, exponentials, over_rows
from backtracking.model.sampling.registers import largest, multiply, prefetch

_UNLIMITED = 2**62
_NONE, _ONE = np.float32(0), np.float32(1)
_0, _1 = map(np.uint64, (0, 1))


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
        prompts: Keys, `entry kv_head d_head column`, and values, `entry kv_head column d_head`, with columns in
            multiples of `LANES`.
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


@compiled
def _weigh(scores: Any, first: int, second: int, third: int, fourth: int, powers: Any, scale: Any) -> Any:
    """Weights of two stretches of scores, in place, and what they are still to be multiplied by to sum to 1.

    What lies before, between and behind the stretches becomes 0.
    """
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
    return _ONE / total


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
    scale, shares = powers.view(np.float32), np.empty(heads, np.float32)
    queries, new_keys, new_values, reads = query.reshape(-1), key.reshape(-1), value.reshape(-1), read.reshape(-1)
    own_keys, own_values = keys.reshape(-1), values.reshape(-1)
    shared_keys, shared_values = prompt_keys.reshape(-1), prompt_values.reshape(-1)
    of_group, of_prompt = width * columns, width * prompt_columns
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
        n_shared, n_count = np.uint64(shared), np.uint64(count)
        n_seen, n_added = np.uint64(length - prompt_first), np.uint64(filled + 1 - own_first)
        for group in range(groups):
            each = row * groups + group
            if each + 1 < last * groups:
                following = (each + 1) * of_group
                for line in range(following + own_first, following + own_first + of_group, columns):
                    for item in range(line, line + count, LANES):
                        prefetch(own_keys, item)
                for item in range(following + own_first * width, following + (filled + 1) * width, LANES):
                    prefetch(own_values, item)
            for i in range(width):
                own_keys[each * of_group + i * columns + filled] = new_keys[each * width + i]
            for i in range(width):
                own_values[each * of_group + filled * width + i] = new_values[each * width + i]
            for i in range(heads * width):
                asked[i] = queries[each * heads * width + i] * scaling
            prompt = (prefix[row] * groups + group) * of_prompt
            at, own = np.uint64(prompt + prompt_first), np.uint64(each * of_group + own_first)
            multiply(asked, _0, n_width, shared_keys, at, n_prompt, scores, _0, n_room, n_heads, n_width, n_shared, _1)
            multiply(
                asked, _0, n_width, own_keys, own, n_columns, scores, n_shared, n_room, n_heads, n_width, n_count, _1
            )
            at, own = np.uint64(prompt + prompt_first * width), np.uint64(each * of_group + own_first * width)
            into = np.uint64(each * heads * width)
            for head in range(heads):
                mine = scores[head * room : head * room + shared + count]
                shares[head] = _weigh(
                    mine, early - prompt_first, length - prompt_first, late + moved, filled + 1 + moved, powers, scale
                )
            multiply(scores, _0, n_room, shared_values, at, n_width, reads, into, n_width, n_heads, n_seen, n_width, _1)
            multiply(
                scores, n_shared, n_room, own_values, own, n_width, reads, into, n_width, n_heads, n_added, n_width, _0
            )
            for head in range(heads):
                for i in range((each * heads + head) * width, (each * heads + head + 1) * width):
                    reads[i] *= shares[head]
