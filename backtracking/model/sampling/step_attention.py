"""Attention of one decoding step on a CPU, row by row: of float32, or of bfloat16 that is widened.

For a single query per row PyTorch has no kernel that pays: its batched product takes a microsecond for each of
hundreds of tiny matrices, and its fused attention is made for many queries. Here the scores of a row stay in the first
cache from the product with the keys to the softmax and to what is read.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from backtracking.model.sampling.compiled import LANES, compiled, inlined, over_rows
from backtracking.model.sampling.products import multiply
from backtracking.model.sampling.registers import keep, prefetch, read, weigh

_UNLIMITED = 2**62
_ONE = np.float32(1)
_0, _1, _2 = map(np.uint64, (0, 1, 2))
STILL = np.empty((0, 0), np.float32), np.empty((0, 0), np.float32)
"""Angles of queries and keys that have been turned."""


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
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    *,
    prompts: Sequence[np.ndarray],
    own: Sequence[np.ndarray],
    where: Where,
    filled: int,
    window: int | None,
    scaling: float,
    angles: tuple[np.ndarray, np.ndarray] = STILL,
) -> np.ndarray:
    """Put each row's new key and value into its column, and return what its heads read, `row 1 head d_head`.

    Args:
        query: Of the new token of each row, `row head 1 d_head`; float32, or uint16 that are the bits of bfloat16.
        key: Likewise, `row kv_head 1 d_head`.
        value: Likewise.
        prompts: Keys, `entry kv_head d_head column`, and values, `entry kv_head column d_head`, with columns in
            multiples of `LANES`; all of one kind of numbers.
        own: Of what each row has added, likewise; changed in place.
        where: Which row has which prompt, and which columns are its own.
        filled: The column of the new token.
        window: Positions that a row looks back, its own counted.
        scaling: Of the scores.
        angles: Cosines and sines, `row d_head`, of the angles by which queries and keys are still to be turned, the
            first half of each head against the second.
    """
    rows, heads, _, width = query.shape
    found = np.empty((rows, 1, heads, width), query.dtype)
    given = [np.ascontiguousarray(part) for part in (query, key, value)]
    work = found.size * (prompts[0].shape[3] + filled + 1)
    span = _UNLIMITED if window is None else window
    over_rows(_attend, rows, work, *given, *angles, *prompts, *own, *where, filled, span, np.float32(scaling), found)
    return found


@inlined
def _turn(
    given: Any, at: Any, heads: Any, width: Any, cos: Any, sin: Any, angles: Any, scaling: Any, found: Any
) -> None:
    """Put `heads` heads, from `at` on, into `found`: turned, unless there are no angles, and scaled."""
    half = width // _2
    for head in range(heads):
        to = head * width
        if len(cos):
            for i in range(half):
                one, two = read(given, at + to + i), read(given, at + to + half + i)
                found[to + i] = (one * cos[angles + i] - two * sin[angles + i]) * scaling
                found[to + half + i] = (two * cos[angles + half + i] + one * sin[angles + half + i]) * scaling
        else:
            for i in range(width):
                found[to + i] = read(given, at + to + i) * scaling


@compiled
def _attend(
    first: int,
    last: int,
    query: Any,
    key: Any,
    value: Any,
    cosines: Any,
    sines: Any,
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
    found: Any,
) -> None:
    groups, width = key.shape[1], key.shape[3]
    heads = query.shape[1] // groups  # of a group
    columns, prompt_columns = keys.shape[3], prompt_keys.shape[3]
    room = prompt_columns + columns
    asked, scores = np.empty(heads * width, np.float32), np.empty(heads * room, np.float32)
    shares = np.empty(heads, np.float32)
    cos, sin, new = cosines.reshape(-1), sines.reshape(-1), np.empty(width, np.float32)
    queries, new_keys, new_values, founds = query.reshape(-1), key.reshape(-1), value.reshape(-1), found.reshape(-1)
    reads = np.empty(heads * width, np.float32)
    own_keys, own_values = keys.reshape(-1), values.reshape(-1)
    shared_keys, shared_values = prompt_keys.reshape(-1), prompt_values.reshape(-1)
    of_group, of_prompt = width * columns, width * prompt_columns
    n_heads, n_width, n_room = np.uint64(heads), np.uint64(width), np.uint64(room)
    n_turned = np.uint64(cosines.shape[1])
    n_group, n_filled = np.uint64(of_group), np.uint64(filled)
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
        vectors = (n_shared + n_count) // np.uint64(LANES)
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
            n_each = np.uint64(each)
            _turn(new_keys, n_each * n_width, _1, n_width, cos, sin, n_turned * np.uint64(row), _ONE, new)
            line = n_each * n_group + n_filled
            for i in range(n_width):
                keep(own_keys, line + i * n_columns, new[i])
            added, line = n_each * n_width, n_each * n_group + n_filled * n_width
            for i in range(n_width):
                keep(own_values, line + i, read(new_values, added + i))
            into = n_each * n_heads * n_width
            _turn(queries, into, n_heads, n_width, cos, sin, n_turned * np.uint64(row), scaling, asked)
            prompt = (prefix[row] * groups + group) * of_prompt
            at, own = np.uint64(prompt + prompt_first), np.uint64(each * of_group + own_first)
            multiply(asked, _0, n_width, shared_keys, at, n_prompt, scores, _0, n_room, n_heads, n_width, n_shared, _1)
            multiply(
                asked, _0, n_width, own_keys, own, n_columns, scores, n_shared, n_room, n_heads, n_width, n_count, _1
            )
            at, own = np.uint64(prompt + prompt_first * width), np.uint64(each * of_group + own_first * width)
            for head in range(heads):
                shares[head] = weigh(
                    scores,
                    np.uint64(head) * n_room,
                    vectors,
                    early - prompt_first,
                    length - prompt_first,
                    late + moved,
                    filled + 1 + moved,
                )
            multiply(scores, _0, n_room, shared_values, at, n_width, reads, _0, n_width, n_heads, n_seen, n_width, _1)
            multiply(
                scores, n_shared, n_room, own_values, own, n_width, reads, _0, n_width, n_heads, n_added, n_width, _0
            )
            for head in range(n_heads):
                share = shares[head]
                for i in range(head * n_width, (head + _1) * n_width):
                    keep(founds, into + i, reads[i] * share)
