"""Random sets of sites of the same shape as a targeted set: what an ablation has to be compared with.

The shape is how many sites of each kind the set has: whole components (`mlp`, `attn`, ...) and heads
are kinds of their own, since switching off one head and a whole attention layer are not alike.
"""

import math
import random
from collections import Counter
from collections.abc import Sequence

from backtracking.core.errors import InputError
from backtracking.core.sites import Site

Kind = tuple[str, bool]
"""The component, and whether it is one head of it."""


def shape_matched_draws(
    targeted: Sequence[Site], all_sites: Sequence[Site], *, draws: int, seed: int, overlap: bool = False
) -> tuple[tuple[Site, ...], ...]:
    """Distinct random sets, each with as many sites of each kind as the targeted set.

    Sites are drawn from those that are not targeted, nor a head of a targeted layer, nor the layer of a
    targeted head. Every such set is equally likely. The order of the arguments does not matter, and fewer
    draws with the same seed are the first of more.

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
    pools = {kind: [site for site in free if _kind(site) == kind] for kind in sorted(shape)}
    distinct = _sets(pools, shape) - overlap
    if draws > distinct:
        raise InputError(_too_few(targeted, all_sites, shape, draws, distinct, overlap))
    rng = random.Random(seed)
    found: dict[tuple[Site, ...], None] = {}
    while len(found) < draws:
        drawn = [site for kind, pool in pools.items() for site in rng.sample(pool, shape[kind])]
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


def _sets(pools: dict[Kind, list[Site]], shape: Counter[Kind]) -> int:
    return math.prod(math.comb(len(pool), shape[kind]) for kind, pool in pools.items())


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
    whole = {kind: [site for site in all_sites if _kind(site) == kind] for kind in shape}
    more = _sets(whole, shape) - 1
    return f"{found} outside the targeted sites; ask for fewer, or pass overlap=True ({more} exist then)"
