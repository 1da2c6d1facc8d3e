"""Which contexts begin alike: what they share is run once, as that of one of them."""

import os
from collections.abc import Iterable, Mapping
from itertools import pairwise

LEAST = 16
"""Tokens that are worth sharing."""
DEEPER = 16
"""Tokens for which a context is rather copied from one that is itself a copy: each depth is a pass of its own."""

Ids = tuple[int, ...]


def alike(contexts: Iterable[Ids]) -> dict[Ids, tuple[Ids, int]]:
    """From which other context each can be copied, and how many tokens; those that share too few are left out."""
    found: dict[Ids, tuple[Ids, int]] = {}
    open_: list[tuple[Ids, int]] = []  # those before, outermost first, and how much of each all since have shared
    for before, context in pairwise(sorted(set(contexts))):
        common = len(os.path.commonprefix([before, context]))
        shared = [(one, min(length, common)) for one, length in [*open_, (before, common)]]
        # Of those that share as much the first is the least deep.
        first = {length: one for one, length in reversed(shared) if length >= LEAST}
        open_ = sorted(((one, length) for length, one in first.items()), key=lambda each: each[1])
        if open_:
            found[context] = next((one, length) for one, length in open_ if length > common - DEEPER)
    return found


def depths(contexts: Iterable[Ids], sources: Mapping[Ids, tuple[Ids, int]]) -> dict[Ids, int]:
    """How many copies lie between each context and one that is run whole."""
    found: dict[Ids, int] = {}
    for context in sorted(contexts):  # behind its source, which comes before it in this order
        found[context] = found[sources[context][0]] + 1 if context in sources else 0
    return found


def families(contexts: Iterable[Ids], sources: Mapping[Ids, tuple[Ids, int]]) -> dict[Ids, tuple[int, Ids]]:
    """To which context each goes back, with the length of the longest that goes back to it."""
    roots: dict[Ids, Ids] = {}
    longest: dict[Ids, int] = {}
    for context in sorted(contexts):
        root = roots[context] = roots[sources[context][0]] if context in sources else context
        longest[root] = max(longest.get(root, 0), len(context))
    return {context: (longest[root], root) for context, root in roots.items()}
