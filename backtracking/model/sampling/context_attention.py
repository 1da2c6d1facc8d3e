"""Attention of contexts that are run at once, on a CPU in float32: each token over what is kept of its context so far.

PyTorch's attention takes runs of one length, and with a mask no groups of heads: runs would be padded, and keys and
values copied. Here each run is gone through as long as it is, where its keys and values are kept.
"""

from typing import Any, NamedTuple

import numpy as np

from backtracking.model.sampling.compiled import LANES, compiled, over_rows
from backtracking.model.sampling.products import multiply
from backtracking.model.sampling.registers import weigh

_UNLIMITED = 2**62
_TOKENS = 16
"""Tokens whose scores are worked on at a time: few enough to stay in the first cache."""
_0, _1 = map(np.uint64, (0, 1))


class Runs(NamedTuple):
    """Which tokens belong to which context, each an integer per run; the tokens of a run are next to one another."""

    entry: np.ndarray
    """Where its keys and values are kept."""
    source: np.ndarray
    """Where those of the context are that it begins like,"""
    copied: np.ndarray
    """and how many of them it takes over."""
    first: np.ndarray
    """Its first token,"""
    count: np.ndarray
    """and how many there are."""


def attend(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    *,
    room: tuple[np.ndarray, np.ndarray],
    runs: Runs,
    window: int | None,
    scaling: float,
    reading: bool,
) -> np.ndarray:
    """Keep the keys and values of every context, and return what the heads of its tokens read, `token 1 head d_head`.

    Args:
        query: Of every token, `token head 1 d_head`.
        key: Likewise, `token kv_head 1 d_head`.
        value: Likewise.
        room: Keys, `entry kv_head d_head column`, and values, `entry kv_head column d_head`, with columns in multiples
            of `LANES`; changed in place.
        runs: Which tokens belong together.
        window: Positions that a token looks back, its own counted.
        scaling: Of the scores.
        reading: Whether anything is read; else what is returned holds anything.
    """
    tokens, heads, _, width = query.shape
    read = np.empty((tokens, 1, heads, width), np.float32)
    given = [np.ascontiguousarray(part) for part in (query, key, value)]
    span = _UNLIMITED if window is None else window
    work = read.size * room[0].shape[3]
    over_rows(_attend, len(runs.entry), work, *given, *room, *runs, span, np.float32(scaling), reading, read)
    return read


@compiled
def _attend(
    first: int,
    last: int,
    query: Any,
    key: Any,
    value: Any,
    keys: Any,
    values: Any,
    entries: Any,
    sources: Any,
    copied: Any,
    begins: Any,
    counts: Any,
    window: int,
    scaling: Any,
    reading: bool,
    read: Any,
) -> None:
    groups, width, columns = np.uint64(key.shape[1]), np.uint64(key.shape[3]), np.uint64(keys.shape[3])
    every = np.uint64(query.shape[1])
    heads = every // groups  # of a group
    most, lanes = np.uint64(_TOKENS), np.uint64(LANES)
    of_group = width * columns
    asked, scores = np.empty(most * width, np.float32), np.empty(most * columns, np.float32)
    queries, new_keys, new_values, reads = query.reshape(-1), key.reshape(-1), value.reshape(-1), read.reshape(-1)
    own_keys, own_values = keys.reshape(-1), values.reshape(-1)
    for run in range(first, last):
        begin, count, old = np.uint64(begins[run]), np.uint64(counts[run]), np.uint64(copied[run])
        for group in range(groups):
            at = (np.uint64(entries[run]) * groups + group) * of_group
            source = (np.uint64(sources[run]) * groups + group) * of_group
            new = (begin * groups + group) * width
            for i in range(width):
                line, other = at + i * columns, source + i * columns
                for column in range(old):
                    own_keys[line + column] = own_keys[other + column]
                for token in range(count):
                    own_keys[line + old + token] = new_keys[new + token * groups * width + i]
            for i in range(old * width):
                own_values[at + i] = own_values[source + i]
            for token in range(count):
                line, other = at + (old + token) * width, new + token * groups * width
                for i in range(width):
                    own_values[line + i] = new_values[other + i]
            if not reading:
                continue
            for head in range(group * heads, (group + _1) * heads):
                done = _0
                while done < count:
                    some = min(most, count - done)
                    into = ((begin + done) * every + head) * width
                    for token in range(some):
                        line, other = token * width, into + token * every * width
                        for i in range(width):
                            asked[line + i] = queries[other + i] * scaling
                    earliest = max(0, np.int64(old + done) - window + 1) // LANES * LANES
                    early, seen = np.uint64(earliest), old + done + some
                    vectors = (seen - early + lanes - _1) // lanes
                    seeing, here, there = seen - early, at + early, at + early * width
                    wide, apart = vectors * lanes, every * width
                    multiply(asked, _0, width, own_keys, here, columns, scores, _0, columns, some, width, wide, _1)
                    for token in range(some):
                        position = np.int64(old + done + token)
                        start = max(0, position - window + 1) - earliest
                        share = weigh(scores, token * columns, vectors, start, position + 1 - earliest, 0, 0)
                        for column in range(token * columns, token * columns + seeing):
                            scores[column] *= share
                    multiply(scores, _0, columns, own_values, there, width, reads, into, apart, some, seeing, width, _1)
                    done += some
