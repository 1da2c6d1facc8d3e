"""Contexts whose next token is wanted: what of them is run at once, with which others, and in which batches."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from backtracking.core.interventions import At, Ban
from backtracking.model.sampling.beginnings import alike, families
from backtracking.model.sampling.edits import Spec
from backtracking.model.sampling.prefixes import Prefix, reaches

UNEVEN = 4
"""Rows that attention may pad to for each row there is."""


class Reaching:
    """The interventions of every condition that reach into what is run at once of a context."""

    def __init__(self, conditions: Sequence[Spec]) -> None:
        self._conditions = conditions
        scopes = [each.scope for spec in conditions for each in spec if not isinstance(each, Ban)]
        self._first = sorted({scope.positions[0] for scope in scopes if isinstance(scope, At)})
        self._found: dict[tuple[bool, int], tuple[Spec, ...]] = {}

    def into(self, length: int, prompt: int) -> tuple[Spec, ...]:
        """By condition, those that touch one of the first `length` positions."""
        case = (prompt < length, bisect_left(self._first, length))  # all there is to it
        if case not in self._found:
            self._found[case] = tuple(
                tuple(each for each in spec if reaches(each, length, prompt)) for spec in self._conditions
            )
        return self._found[case]


@dataclass(frozen=True)
class Scored:
    """A context: its tokens, how many of them are the prompt, and how many are fed one by one after the rest."""

    index: int
    ids: tuple[int, ...]
    prompt: int
    fed: int
    inside: tuple[Spec, ...]
    """By condition, the interventions that reach into the tokens that are run at once."""
    longer: tuple[int, ...] = ()
    """Tokens of another context that begin with those of this that are run at once, and are run instead."""

    @cached_property
    def run(self) -> tuple[int, ...]:
        """Those of its tokens that are run at once."""
        return self.ids[: -self.fed]

    @property
    def whole(self) -> tuple[int, ...]:
        """What is run at once for it and for others."""
        return self.longer or self.run

    @property
    def prefixes(self) -> list[Prefix]:
        """What is run at once for it."""
        return [self._prefix(spec) for spec in dict.fromkeys(self.inside)]

    def entries(self, kept: Mapping[Prefix, int]) -> list[int]:
        """By condition, where what is run at once is kept."""
        under = {spec: kept[self._prefix(spec)] for spec in dict.fromkeys(self.inside)}
        return [under[spec] for spec in self.inside]

    def _prefix(self, inside: Spec) -> Prefix:
        """What is run at once: with others, unless something reaches into it."""
        if inside:
            return Prefix(self.run, inside, min(self.prompt, len(self.run)))
        return Prefix(self.whole, (), len(self.whole))


def with_longer_ones(contexts: Sequence[Scored]) -> list[Scored]:
    """Each context with a longer one that begins with it, where there is one that feeds as many tokens.

    Contexts into which a condition reaches are left alone: under it each has keys and values of its own.
    """
    found: list[Scored] = []
    behind: dict[int, tuple[int, ...]] = {}
    for each in sorted(contexts, key=lambda each: each.run, reverse=True):
        if any(each.inside):
            found.append(each)
            continue
        # In the order of their tokens, those that begin with this one come right behind it.
        longer = behind.get(each.fed, ())
        if longer[: len(each.run)] != each.run:
            longer = behind[each.fed] = each.run
        found.append(replace(each, longer=longer))
    return found


def batches(contexts: Sequence[Scored], *, most: int, tokens: int) -> Iterator[list[Scored]]:
    """Contexts that feed as many tokens, in batches of so many at most and of so many tokens run at once, about.

    Those that begin alike are next to one another, and families of like length. A batch in which one run serves many
    contexts and the others few is cut too: attention pads them to like numbers.
    """
    batch: list[Scored] = []
    served: Counter[tuple[int, ...]] = Counter()
    runs: set[Prefix] = set()
    longest, crowd = 0, 0
    wholes = {each.whole for each in contexts}
    family = families(wholes, alike(wholes))
    for each in sorted(contexts, key=lambda each: (each.fed, *family[each.whole], each.whole, len(each.ids))):
        served[each.whole] += 1
        runs.update(each.prefixes)
        longest = max(longest, len(each.whole))
        crowd = max(crowd, served[each.whole])
        uneven = len(served) * crowd > UNEVEN * (len(batch) + 1)
        full = len(batch) == most or len(runs) * longest > tokens or uneven
        if batch and (full or batch[0].fed != each.fed):
            yield batch
            batch, served, runs = [], Counter([each.whole]), set(each.prefixes)
            longest, crowd = len(each.whole), 1
        batch.append(each)
    if batch:
        yield batch
