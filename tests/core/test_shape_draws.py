"""Shape-matched draws: the shape holds, every set is equally likely, and too few are refused by number."""

import itertools
from collections import Counter

import pytest
from scipy import stats

from backtracking.core.errors import InputError
from backtracking.core.shape_draws import shape_matched_draws
from backtracking.core.sites import Site

LAYERS = [Site("mlp", layer) for layer in range(6)] + [Site("attn", layer) for layer in range(6)]
HEADS = [Site("attn", layer, head) for layer in range(6) for head in range(4)]
TARGETED = [Site("mlp", 5), Site("mlp", 4), Site("attn", 2), Site("attn", 0, 3)]


def kinds(sites) -> Counter:
    return Counter((site.component, site.head is not None) for site in sites)


def test_every_draw_has_the_shape_and_none_of_the_targeted_sites():
    draws = shape_matched_draws(TARGETED, LAYERS + HEADS, draws=200, seed=0)
    assert len({frozenset(draw) for draw in draws}) == 200
    for draw in draws:
        assert kinds(draw) == kinds(TARGETED)
        assert len(set(draw)) == len(TARGETED) and not set(draw) & set(TARGETED)
        assert all(site.layer != 2 for site in draw if site.head is not None)
        assert all(site.layer != 0 for site in draw if site.head is None and site.component == "attn")


def test_all_sets_there_are_can_be_drawn_and_are_equally_likely():
    pool = [Site("mlp", layer) for layer in range(6)]
    expected = {frozenset(pair) for pair in itertools.combinations(pool[:4], 2)}
    assert {frozenset(draw) for draw in shape_matched_draws(pool[4:], pool, draws=6, seed=1)} == expected
    firsts = Counter(shape_matched_draws(pool[4:], pool, draws=1, seed=seed)[0] for seed in range(1200))
    assert len(firsts) == 6 and stats.chisquare(list(firsts.values())).pvalue > 0.001


def test_the_order_of_the_sites_does_not_matter_and_fewer_draws_come_first():
    one = shape_matched_draws(TARGETED, LAYERS + HEADS, draws=20, seed=3)
    assert one == shape_matched_draws(TARGETED[::-1], (LAYERS + HEADS)[::-1], draws=20, seed=3)
    assert one == shape_matched_draws(TARGETED, LAYERS + HEADS, draws=40, seed=3)[:20]
    assert one != shape_matched_draws(TARGETED, LAYERS + HEADS, draws=20, seed=4)


def test_too_few_sets_are_refused_with_their_number():
    pool = [Site("mlp", layer) for layer in range(6)]
    with pytest.raises(InputError, match=r"only 6 distinct ones exist.*overlap=True \(14 exist then\)"):
        shape_matched_draws(pool[4:], pool, draws=7, seed=0)
    draws = shape_matched_draws(pool[4:], pool, draws=14, seed=0, overlap=True)
    assert {frozenset(draw) for draw in draws} == {
        frozenset(pair) for pair in itertools.combinations(pool, 2)
    } - {frozenset(pool[4:])}  # fmt: skip
    with pytest.raises(InputError, match="only 14 distinct ones exist even when they may overlap"):
        shape_matched_draws(pool[4:], pool, draws=15, seed=0, overlap=True)
    with pytest.raises(InputError, match="only 0 distinct"):
        shape_matched_draws(pool, pool, draws=1, seed=0)


@pytest.mark.parametrize(
    ("targeted", "sites", "draws", "said"),
    [
        ([], LAYERS, 1, "no targeted sites"),
        ([LAYERS[0]], LAYERS, 0, "draws is 0"),
        ([LAYERS[0]] * 2, LAYERS, 1, "mlp.0 is twice among the targeted"),
        ([LAYERS[0]], LAYERS * 2, 1, "mlp.0 is twice among the all sites"),
        ([Site("mlp", 9)], LAYERS, 1, "mlp.9 is not among all sites"),
    ],
)
def test_what_cannot_be_drawn_is_refused(targeted, sites, draws, said):
    with pytest.raises(InputError, match=said):
        shape_matched_draws(targeted, sites, draws=draws, seed=0)


def admissible(pool, whole, heads):
    """Every set of so many whole layers and heads without a head beside its own layer, by plain enumeration."""
    layers = [site for site in pool if site.head is None]
    single = [site for site in pool if site.head is not None]
    return {
        frozenset((*some, *others))
        for some in itertools.combinations(layers, whole)
        for others in itertools.combinations(single, heads)
        if not {site.layer for site in some} & {site.layer for site in others}
    }


def test_no_draw_has_a_head_beside_the_whole_of_its_layer():
    """It would switch off less than the targeted set does."""
    attention = LAYERS[6:] + HEADS
    targeted = [Site("attn", 0), Site("attn", 3, 1)]
    for draw in shape_matched_draws(targeted, attention, draws=60, seed=0):
        whole = {site.layer for site in draw if site.head is None}
        assert kinds(draw) == kinds(targeted) and not whole & {site.layer for site in draw if site.head is not None}


def test_mixed_draws_are_all_there_are_equally_likely_and_refused_beyond_their_number():
    layers, heads = [Site("attn", layer) for layer in range(5)], [Site("attn", layer, 0) for layer in range(4)]
    pool = layers + heads + [Site("attn", 1, 1), Site("attn", 1, 2)]
    targeted = [layers[0], Site("attn", 2, 0), Site("attn", 3, 0)]
    free = [site for site in pool if site.layer not in (0, 2, 3)] + [Site("attn", 2, 0), Site("attn", 3, 0)]
    outside = admissible([site for site in free if site not in targeted], 1, 2)
    assert {frozenset(draw) for draw in shape_matched_draws(targeted, pool, draws=len(outside), seed=2)} == outside
    every = admissible(pool, 1, 2) - {frozenset(targeted)}
    with pytest.raises(InputError, match=rf"only {len(outside)} distinct ones.*overlap=True \({len(every)} exist"):
        shape_matched_draws(targeted, pool, draws=len(outside) + 1, seed=0)
    draws = shape_matched_draws(targeted, pool, draws=len(every), seed=0, overlap=True)
    assert {frozenset(draw) for draw in draws} == every
    with pytest.raises(InputError, match=f"only {len(every)} distinct ones exist even when"):
        shape_matched_draws(targeted, pool, draws=len(every) + 1, seed=0, overlap=True)
    firsts = Counter(
        frozenset(shape_matched_draws(targeted, pool, draws=1, seed=seed, overlap=True)[0])
        for seed in range(20 * len(every))
    )
    assert set(firsts) == every and stats.chisquare(list(firsts.values())).pvalue > 0.001


def test_a_shape_that_random_attempts_would_hardly_ever_keep_is_drawn_all_the_same():
    layers = [Site("attn", layer) for layer in range(24)]
    heads = [Site("attn", layer, head) for layer in range(24) for head in range(8)]
    targeted = layers[:12] + [site for site in heads if site.layer >= 12][:60]
    draw = shape_matched_draws(targeted, layers + heads, draws=1, seed=0, overlap=True)[0]
    whole = {site.layer for site in draw if site.head is None}
    assert kinds(draw) == kinds(targeted) and not whole & {site.layer for site in draw if site.head is not None}


def test_a_targeted_set_with_a_head_of_its_own_layer_is_not_counted_among_the_draws():
    pool = [Site("attn", layer) for layer in range(3)] + [Site("attn", layer, 0) for layer in range(3)]
    targeted = [Site("attn", 0), Site("attn", 0, 0)]
    draws = shape_matched_draws(targeted, pool, draws=6, seed=0, overlap=True)
    assert {frozenset(draw) for draw in draws} == admissible(pool, 1, 1)
