"""Patching a run into itself changes nothing, patching everything gives the other run, and a planted head is named."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from backtracking.core.errors import InputError
from backtracking.core.multiplicity import benjamini_hochberg
from backtracking.core.sites import Site
from backtracking.core.statistics import paired_p_value
from backtracking.measures.activation_patching import activation_patching
from backtracking.measures.tails import Tails, putting
from backtracking.model.hook_names import hook_point
from tests.measures.planted import random_points
from tests.measures.planted_head import HEAD, LAYER, NEIGHBOUR, head_points, planted_head

TRIGGERS = (60, 61, 62)


@pytest.fixture(scope="module")
def model_and_trigger():
    return planted_head()


@pytest.fixture(scope="module")
def both(model_and_trigger):
    model, trigger = model_and_trigger
    points = head_points(trigger)
    directions = ("denoise", "noise")
    return {d: activation_patching(model, points, trigger_ids=[trigger], direction=d) for d in directions}


def log_odds(logits):
    """Straight from the definition, by a loop."""
    others = [logits[i] for i in range(len(logits)) if i not in TRIGGERS]
    return float(logits[list(TRIGGERS)].double().exp().sum().log() - max(others))


def test_tails_give_the_logits_of_full_forwards(twin):
    """On every architecture, whatever the lengths, also where a context is shorter than the window."""
    model = twin[0]
    contexts = [list(point.context) for point in random_points(60, problems=2).all] + [[7, 8]]
    tails = Tails.of(model, contexts, window=3)
    expected = torch.stack([model.logits(context)[0, -1] for context in contexts])
    for _ in range(2):  # the second run finds the cache as the first did
        torch.testing.assert_close(tails.run(), expected, atol=2e-4, rtol=2e-4)
    assert tails.reach(-2).tolist() == [True] * 8 + [False] and tails.reach(-1).all()


@pytest.mark.parametrize("name", ["qwen2", "gemma2", "neox"])
def test_it_equals_a_loop_of_full_forwards(twins, name):
    model = twins(name)[0]
    points = random_points(60, problems=2)
    found = activation_patching(model, points, trigger_ids=TRIGGERS, offsets=(-2, 0))
    assert found.offsets == (0, -2) and len(found.sites) == 3 * 8
    for row, pair in enumerate(found.pairs):
        onset, control = list(pair.event.context), list(pair.control.context)
        base = log_odds(model.logits(control)[0, -1])
        assert found.control_reading[row] == pytest.approx(base, abs=2e-3)
        _, cache = model.run_with_cache(onset)
        for column, site in enumerate(found.sites):
            given = cache[hook_point(model.bridge, site)][0]
            for turn, offset in enumerate(found.offsets):

                def hook(value, hook, given=given, site=site, at=offset - 1):
                    value = value.clone()
                    if site.head is None:
                        value[0, at] = given[at]
                    else:
                        value[0, at, site.head] = given[at, site.head]
                    return value

                expected = log_odds(model.run_with_hooks(control, [(site, hook)])[0, -1]) - base
                assert found.effect[row, column, turn] == pytest.approx(expected, abs=3e-3), (row, str(site), offset)
    assert np.abs(found.effect).max() > 0.1


def test_patching_a_run_into_itself_changes_nothing_bit_for_bit(twin):
    points = random_points(60, problems=3)
    own = replace(points, controls=tuple(replace(e, kind="control") for e in points.events))
    for direction in ("denoise", "noise"):
        found = activation_patching(
            twin[0], own, trigger_ids=TRIGGERS, direction=direction, offsets=(0, -1, -3),
            components=[c for c in ("resid_pre", "attn", "mlp", "resid_post")],
        )  # fmt: skip
        assert (found.effect == 0).all()
        assert found.left_out == 6 and np.isnan(found.share).all()


def test_patching_everything_gives_the_other_run(twins):
    """The stream after the last layer where the token is predicted, or the stream before the first everywhere."""
    for name in ("qwen2", "gemma3", "gpt2"):
        model = twins(name)[0]
        found = activation_patching(
            model, random_points(60, problems=3), trigger_ids=TRIGGERS, components=["resid_post"], heads=False
        )
        np.testing.assert_allclose(found.effect[:, 2, 0], found.event_reading - found.control_reading, atol=1e-4)
        one, other = [5, 9, 13, 40, 60, 7], [5, 21, 33, 8, 71, 40]
        receiver, donor = (Tails.of(model, [ids], window=6) for ids in (one, other))
        start = Site("resid_pre", 0)
        point = hook_point(model.bridge, start)
        logits, given = donor.capture([start])
        hooks = [(point, putting(start, offset, given[point][:, offset - 1])) for offset in range(-5, 1)]
        torch.testing.assert_close(receiver.run(hooks), logits, atol=1e-5, rtol=1e-5)
        assert (receiver.run() - logits).abs().max() > 0.1


def test_a_planted_head_is_named_and_no_other(both):
    for direction, sign in (("denoise", 1), ("noise", -1)):
        found = both[direction]
        table = found.to_pandas().set_index("site")
        assert found.left_out == 0 and (table["share_pairs"] == 48).all()
        heads = table[table["component"] == "head"]
        planted, rest = heads.loc[f"attn.{LAYER}.h{HEAD}"], heads.drop(index=f"attn.{LAYER}.h{HEAD}")
        assert planted["share"] > 0.9 and sign * planted["effect"] > 5 and planted["q"] < 0.01
        assert rest["effect"].abs().max() < 0.1 and rest["share"].abs().max() < 0.02
        assert heads.loc[f"attn.{LAYER}.h{NEIGHBOUR}", "effect"] == pytest.approx(0, abs=0.05)
        stream = table["share"]
        assert abs(stream["resid_post.0"]) < 0.1 and stream["resid_post.1"] == pytest.approx(1, abs=0.05)
        assert stream["resid_post.2"] == pytest.approx(1, abs=1e-4)
        assert stream[["mlp.0", "mlp.1", "mlp.2", "attn.0", "attn.2"]].abs().max() < 0.05


def test_the_chosen_token_is_found_before_the_head_has_moved_it(model_and_trigger):
    """Early in the model the decision stands at the token that the head looks at, later at the prediction."""
    model, trigger = model_and_trigger
    found = activation_patching(
        model, head_points(trigger), trigger_ids=[trigger], components=["resid_post"], heads=False, offsets=range(-4, 1)
    )
    share = found.to_pandas().pivot(index="layer", columns="offset", values="share")
    assert share.loc[0, [-1, -2, -3]].sum() > 0.8 and abs(share.loc[0, 0]) < 0.1 and abs(share.loc[0, -4]) < 0.05
    assert share.loc[1, 0] > 0.9 and share.loc[1, [-1, -2, -3]].abs().max() < 0.05


def test_controls_against_controls_show_nothing(model_and_trigger):
    model, trigger = model_and_trigger
    points, other = head_points(trigger), head_points(trigger, seed=1)
    null = replace(points, events=tuple(replace(c, kind="event") for c in other.controls))
    found = activation_patching(model, null, trigger_ids=[trigger], components=[])
    assert np.abs(found.effect).max() < 1 and found.left_out > 24
    assert (found.to_pandas()["q"] > 0.05).all()


def test_a_context_too_short_is_counted_and_never_clamped(tiny):
    points = random_points(60, problems=4)
    short = replace(points.controls[3], context=points.controls[3].context[:4], prompt_tokens=2)
    points = replace(points, controls=(*points.controls[:3], short, *points.controls[4:]))
    found = activation_patching(tiny, points, trigger_ids=TRIGGERS, heads=False, offsets=(0, -3, -4))
    assert found.too_short.tolist() == [0, 0, 1]
    assert np.isnan(found.effect[3, :, 2]).all() and np.isfinite(np.delete(found.effect, 3, axis=0)).all()
    table = found.to_pandas()
    assert set(table.loc[table["offset"] == -4, "pairs"]) == {7} and set(table.loc[table["offset"] == 0, "pairs"]) == {
        8
    }
    alone = activation_patching(tiny, points, trigger_ids=TRIGGERS, heads=False)
    np.testing.assert_allclose(found.effect[:, :, 0], alone.effect[:, :, 0], atol=1e-4)


def test_pairs_without_a_contrast_have_no_share(both, model_and_trigger):
    model, trigger = model_and_trigger
    found = both["denoise"]
    floor = float(np.median(found.event_reading - found.control_reading))
    strict = replace(found, floor=floor)
    assert strict.left_out == 24
    table = strict.to_pandas()
    assert set(table["share_pairs"]) == {24} and set(table["left_out"]) == {24} and set(table["pairs"]) == {48}
    kept = strict.contrasted
    column = found.sites.index(Site("attn", LAYER))
    expected = (found.effect[kept, column, 0] / (found.event_reading - found.control_reading)[kept]).mean()
    assert table.set_index("site").loc["attn.1", "share"] == pytest.approx(expected)


def test_the_table_is_that_of_the_one_at_a_time_statistics(both):
    found = both["noise"]
    table = found.to_pandas()
    problems = [pair.event.problem_id for pair in found.pairs]
    p = [paired_p_value(found.effect[:, i, 0].tolist(), [0.0] * 48, problems) for i in range(len(found.sites))]
    assert table["p"].tolist() == pytest.approx(p, abs=0.02)
    assert table["q"].tolist() == pytest.approx(benjamini_hochberg(table["p"].tolist()))
    assert table["effect"].tolist() == pytest.approx(found.effect[:, :, 0].mean(0).tolist())
    assert set(table["problems"]) == {24}


def test_what_cannot_be_patched_is_refused(tiny):
    points = random_points(60, problems=1)
    for words, options in (
        ("offsets are", {"offsets": (1,)}),
        ("offsets are", {"offsets": ()}),
        ("no direction", {"direction": "both"}),
        ("no reading", {"reading": "kl"}),
        ("the floor is 0", {"floor": 0}),
        ("no resid_pre.3; it has 3 layers", {"layers": [3]}),
        ("no components or no layers", {"components": [], "heads": False}),
    ):
        unchecked = getattr(activation_patching, "__wrapped__", activation_patching)  # past the tests' type checker
        with pytest.raises(InputError, match=words):
            unchecked(tiny, points, trigger_ids=TRIGGERS, **options)
    with pytest.raises(InputError, match="no controls"):
        activation_patching(tiny, replace(points, controls=()), trigger_ids=TRIGGERS)
