"""Choosing some of many things of problems so that no problem has more than its turn."""

import random
from collections.abc import Hashable, Sequence
from itertools import zip_longest
from typing import Protocol, TypeVar, runtime_checkable


@runtime_checkable
class OfProblem(Protocol):
    """Anything that belongs to a problem."""

    @property
    def problem_id(self) -> Hashable:
        """Which problem."""
        ...


Item = TypeVar("Item", bound=OfProblem)


def spread(items: Sequence[Item], most: int, *, seed: int) -> tuple[Item, ...]:
    """At most so many of the items, in order: one of every problem at random, then another of each, and so on."""
    rng, by_problem = random.Random(seed), {}
    for index, item in enumerate(items):
        by_problem.setdefault(item.problem_id, []).append(index)
    problems = list(by_problem.values())
    for some in (problems, *problems):
        rng.shuffle(some)
    turns = [index for turn in zip_longest(*problems) for index in turn if index is not None]
    return tuple(items[index] for index in sorted(turns[:most]))
