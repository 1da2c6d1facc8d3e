"""Formatting variants: baseline alone, compared within problem and sample."""

from dataclasses import replace

import pytest

from backtracking.core.errors import InputError
from backtracking.core.multiplicity import holm
from backtracking.measures.conditions import compare_conditions
from backtracking.measures.variants import compare_variants
from tests.measures.test_conditions import random_study


def of_variants(seed: int, **rates) -> list:
    return [replace(e, variant=e.condition, condition="baseline") for e in random_study(seed, **rates)]


RATES = {"plain": (0.6, 0.5), "chat": (0.2, 0.5), "boxed": (0.6, 0.9)}


def test_pairs_agree_with_the_comparison_of_conditions():
    found = compare_variants(of_variants(0, **RATES))
    assert [(p.variant, p.minus) for p in found.pairs] == [("plain", "chat"), ("plain", "boxed"), ("chat", "boxed")]
    names = {"plain": "off", "chat": "baseline"}
    events = [replace(e, condition=names.get(e.condition, e.condition)) for e in random_study(0, **RATES)]
    same = next(row for row in compare_conditions(events).paired if row.condition == "off")
    first = found.pairs[0]
    assert (first.backtracking, first.accuracy, first.backtracking_p, first.accuracy_p) == (
        same.backtracking, same.accuracy, same.backtracking_p, same.accuracy_p,
    )  # fmt: skip


def test_a_planted_effect_is_found_with_its_sign_and_holm_is_over_the_pairs():
    pairs = compare_variants(of_variants(0, **RATES)).pairs
    assert pairs[0].backtracking.low > 0 and pairs[0].backtracking_p_holm < 0.001
    assert pairs[1].accuracy.high < 0 and pairs[1].accuracy_p_holm < 0.001
    assert tuple(p.backtracking_p_holm for p in pairs) == holm([p.backtracking_p for p in pairs])
    assert tuple(p.accuracy_p_holm for p in pairs) == holm([p.accuracy_p for p in pairs])


def test_shares_of_each_variant_are_its_own():
    events = of_variants(1, **RATES)
    found = compare_variants(events)
    for row in found.rows:
        own = [e for e in events if e.variant == row.variant]
        assert row.backtracking.value == sum(e.has_backtracking_strict for e in own) / len(own)
        assert sum(e.value for e in (row.right, row.wrong, row.unparsed, row.truncated)) == pytest.approx(1)
    assert compare_variants([e for e in events if e.variant == "chat"]).pairs == ()


def test_identical_variants_do_not_differ():
    events = of_variants(2, plain=(0.5, 0.5))
    pair = compare_variants([*events, *(replace(e, variant="same") for e in events)]).pairs[0]
    assert (pair.backtracking.value, pair.accuracy.value, pair.backtracking_p, pair.accuracy_p_holm) == (0, 0, 1, 1)


def test_relabelling_variants_relabels_rows():
    events = of_variants(3, **RATES)
    swap = {"chat": "boxed", "boxed": "chat"}
    other = compare_variants([replace(e, variant=swap.get(e.variant, e.variant)) for e in events])
    expected = [replace(row, variant=swap.get(row.variant, row.variant)) for row in compare_variants(events).rows]
    assert list(other.rows) == expected


def test_the_tables():
    found = compare_variants(of_variants(4, **RATES))
    assert {"variant", "backtracking_low", "unparsed", "mean_tokens"} <= set(found.to_pandas().columns)
    assert {"variant", "minus", "backtracking_p_holm", "accuracy_flag"} <= set(found.pairs_to_pandas().columns)


def test_nothing_is_pooled():
    events = of_variants(5, **RATES)
    with pytest.raises(InputError, match=r"leave out .'mlp27-off'."):
        compare_variants([*events, replace(events[0], condition="mlp27-off")])
    with pytest.raises(InputError, match="'plain' has problem 0, sample 0 twice"):
        compare_variants([*events, events[0]])
    with pytest.raises(InputError, match="do not hold the same sample keys"):
        compare_variants(events[:-1])
    with pytest.raises(InputError, match="no events"):
        compare_variants([])
