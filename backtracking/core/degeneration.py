"""Degenerate text: a completion that repeats itself instead of going on.

An ablation can lower or raise any rate simply by breaking the text, so every rate is read beside
the share of degenerate completions.
"""

from collections.abc import Sequence

from backtracking.core.completions import Completion

LONGEST_PERIOD = 64
LEAST_REPEATS = 4
LEAST_TOKENS = 64


def ends_in_a_loop(ids: Sequence[int]) -> bool:
    """Whether the ids end in one n-gram repeated over and over.

    True when, for some period of at most 64 ids, the last 64 ids or more are at least 4 repeats of
    that period. A model that recomputes the same line twice is not degenerate by this measure.
    """
    return any(
        _periodic_tail(ids, period) >= max(LEAST_TOKENS, LEAST_REPEATS * period)
        for period in range(1, LONGEST_PERIOD + 1)
    )


def is_degenerate(completion: Completion) -> bool:
    """Whether the sampled ids end in a loop, however the completion finished.

    The stop token that ends a completion is no part of what it repeats, and is left out.
    """
    stopped = completion.finish_reason == "stop"
    looped = ends_in_a_loop(completion.ids[:-1] if stopped else completion.ids)
    return completion.finish_reason == "degenerate" or looped


def _periodic_tail(ids: Sequence[int], period: int) -> int:
    """Length of the longest tail of `ids` that has the given period; 0 without one repeat."""
    length = period
    while length < len(ids) and ids[-length - 1] == ids[-length - 1 + period]:
        length += 1
    return length if length > period else 0
