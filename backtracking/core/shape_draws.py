"""Random sets of sites of the same shape as a targeted set: what an ablation has to be compared with.

The shape is how many sites of each kind the set has: whole components (`mlp`, `attn`, ...) and heads
are kinds of their own, since switching off one head and a whole attention layer are not alike. No set
holds a head beside the whole of its layer: such a set would switch off less than its shape says.
"""

import math
import random
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

from backtracking.core.errors import InputError
from backtracking.core.sites import Site

Kind = tuple[str, bool]
"""The component, and whether it is one head of it."""


def shape_matched_draws(
    targeted: Sequence[Site], all_sites: Sequence[Site], *, draws: int, seed: int, overlap: bool = False
) -> tuple[tuple[Site, ...], ...]:
    """Distinct random sets, each with as many sites of each kind as the targeted set.

    Sites are drawn from those that are not targeted, nor a head of a targeted layer, nor the layer of a
    targeted head; no set has a head of a layer that it has whole. Every such set is equally likely. The
    order of the arguments does not matter, and fewer draws with the same seed are the first of more.

    Args:
        targeted: The sites the hypothesis names.
        all_sites: What could have been drawn, the targeted ones included.
        draws: How many sets.
        seed: Of the draws.
        overlap: Let a set share sites with the targeted one, which it never equals. The draws then carry part
            of the targeted effect, which makes the comparison harder to win; say so where it is shown.

    Raises:
        InputError: There are fewer such sets than draws, there are no draws or no targeted sites, a
            site is named twice, or a targeted one is not among all sites.
    """
    _check(targeted, all_sites, draws)
    chosen = set(targeted)
    shape = Counter(_kind(site) for site in targeted)
    free = [site for site in sorted(all_sites, key=str) if overlap or not _touches(site, chosen)]
    groups = _groups(free, shape)
    distinct = math.prod(group.sets for group in groups) - (overlap and _apart(chosen))
    if draws > distinct:
        raise InputError(_too_few(targeted, all_sites, shape, draws, distinct, overlap))
    rng = random.Random(seed)
    found: dict[tuple[Site, ...], None] = {}
    while len(found) < draws:
        drawn = [site for group in groups for site in group.draw(rng)]
        if set(drawn) != chosen:
            found.setdefault(tuple(sorted(drawn, key=_order)))
    return tuple(found)


def _kind(site: Site) -> Kind:
    return site.component, site.head is not None


def _order(site: Site) -> tuple[str, int, int]:
    return site.component, site.layer, -1 if site.head is None else site.head


def _touches(site: Site, chosen: set[Site]) -> bool:
    return any(
        (site.component, site.layer) == (other.component, other.layer)
        and (site.head == other.head or site.head is None or other.head is None)
        for other in chosen
    )


def _apart(chosen: set[Site]) -> bool:
    """Whether no site is a head of another one."""
    return not any(_touches(site, chosen - {site}) for site in chosen)


class _Plain:
    """Sets of so many of these sites."""

    def __init__(self, pool: Sequence[Site], wanted: int) -> None:
        self._pool, self._wanted = pool, wanted
        self.sets = math.comb(len(pool), wanted)

    def draw(self, rng: random.Random) -> list[Site]:
        """One of them, each with the same chance."""
        return rng.sample(self._pool, self._wanted)


class _Mixed:
    """Sets of so many whole layers and so many heads of other layers, counted and drawn layer by layer."""

    def __init__(self, whole: Sequence[Site], heads: Sequence[Site], wanted: tuple[int, int]) -> None:
        self._wanted = wanted
        self._layers = [
            ([site for site in whole if site.layer == layer], [site for site in heads if site.layer == layer])
            for layer in sorted({site.layer for site in (*whole, *heads)})
        ]
        ends = {(w, h): int(w == h == 0) for w in range(wanted[0] + 1) for h in range(wanted[1] + 1)}
        self._ways = [ends]
        """From each layer on, the sets of so many whole layers and heads; the last layer comes first here."""
        for at in reversed(range(len(self._layers))):
            self._ways.append({left: sum(ways for *_, ways in self._choices(at, left)) for left in ends})
        self.sets = self._ways[-1][wanted]

    def _choices(self, at: int, left: tuple[int, int]) -> list[tuple[int, int, int]]:
        """What a layer may give: itself or not, so many of its heads, and the sets in which it does."""
        whole, heads = (len(sites) for sites in self._layers[at])
        after = self._ways[len(self._layers) - 1 - at]
        found = [(0, k, math.comb(heads, k) * after[left[0], left[1] - k]) for k in range(min(heads, left[1]) + 1)]
        return [*found, (1, 0, after[left[0] - 1, left[1]])] if whole and left[0] else found

    def draw(self, rng: random.Random) -> list[Site]:
        """One of them, each with the same chance."""
        drawn, left = [], self._wanted
        for at, (whole, heads) in enumerate(self._layers):
            choices = self._choices(at, left)
            number = rng.randrange(sum(ways for *_, ways in choices))
            ends = accumulate(ways for *_, ways in choices)
            taken, count, _ = next(each for each, end in zip(choices, ends, strict=True) if number < end)
            drawn += [*whole[:taken], *rng.sample(heads, count)]
            left = left[0] - taken, left[1] - count
        return drawn


def _groups(sites: Sequence[Site], shape: Counter[Kind]) -> list[_Plain | _Mixed]:
    """Parts of a set that are drawn by themselves: kinds, but whole layers and heads of one component together."""
    pools = {kind: [site for site in sites if _kind(site) == kind] for kind in sorted(shape)}
    groups: list[_Plain | _Mixed] = []
    for (component, of_heads), pool in pools.items():
        wanted, other = shape[component, of_heads], (component, not of_heads)
        if other not in pools:
            groups.append(_Plain(pool, wanted))
        elif of_heads:
            groups.append(_Mixed(pools[other], pool, (shape[other], wanted)))
    return groups


def _check(targeted: Sequence[Site], all_sites: Sequence[Site], draws: int) -> None:
    if not targeted:
        raise InputError("no targeted sites; name at least one, such as mlp.27")
    if draws < 1:
        raise InputError(f"draws is {draws}; give at least 1")
    for name, sites in (("targeted", targeted), ("all", all_sites)):
        twice = [str(site) for site, times in Counter(sites).items() if times > 1]
        if twice:
            raise InputError(f"{twice[0]} is twice among the {name} sites; name it once")
    strays = [str(site) for site in targeted if site not in set(all_sites)]
    if strays:
        raise InputError(f"the targeted site {strays[0]} is not among all sites; give every site that could be drawn")


def _too_few(
    targeted: Sequence[Site],
    all_sites: Sequence[Site],
    shape: Counter[Kind],
    draws: int,
    distinct: int,
    overlap: bool,
) -> str:
    said = " + ".join(f"{n} {component}{' heads' if heads else ''}" for (component, heads), n in sorted(shape.items()))
    found = f"{draws} draws of {said} asked for, but only {distinct} distinct ones exist"
    if overlap:
        return f"{found} even when they may overlap the {len(targeted)} targeted; ask for fewer"
    more = math.prod(group.sets for group in _groups(all_sites, shape)) - _apart(set(targeted))
    return f"{found} outside the targeted sites; ask for fewer, or pass overlap=True ({more} exist then)"
