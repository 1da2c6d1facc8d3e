"""The whole model is faithful, nothing is not, and a planted head is the whole circuit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from backtracking.core.errors import InputError
from backtracking.core.sites import Site
from backtracking.experiments.config import Config
from backtracking.measures.circuits import find_circuit
from backtracking.measures.mean_ablation import Ablator, circuit_nodes, mean_activations
from backtracking.measures.trigger_reading import trigger_tensor
from backtracking.model.hook_names import hook_point
from tests.measures.planted import random_points
from tests.measures.planted_head import HEAD, LAYER, head_points, planted_head
from tests.measures.planted_relay import NOTES, TELLS, planted_relay, relay_points

TRIGGERS = (60, 61, 62)


@pytest.fixture(scope="module")
def planted():
    model, trigger = planted_head()
    points = head_points(trigger, problems=12)
    return find_circuit(model, points, trigger_ids=[trigger], sizes=[1, 2, 15], pool=4), points, model, trigger


def test_a_planted_head_is_the_circuit(planted):
    found = planted[0]
    assert found.order[0] == Site("attn", LAYER, HEAD)
    best = found.smallest(0.8)
    assert best.sites == (Site("attn", LAYER, HEAD),)
    assert best.faithfulness.value == pytest.approx(1, abs=0.05) and best.faithfulness.low > 0.9
    assert best.random.median < 0.1 and "1 node keeps 1" in str(best)


def test_a_head_that_acts_before_the_prediction_position_is_in_the_circuit():
    """At the prediction position alone the planted head is never ablated, and the other keeps everything by itself."""
    model, trigger = planted_relay()
    points = relay_points(trigger)
    notes, tells = (Site("attn", layer, head) for layer, head in (NOTES, TELLS))
    found = find_circuit(model, points, trigger_ids=[trigger], sizes=[1, 2, 15], pool=4)
    assert found.window == Config().analysis.scan_window == 4 and set(found.to_pandas()["window"]) == {4}
    best = found.smallest(0.8)
    assert set(best.sites) == {notes, tells} and found.faithfulness(1).high < 0.3
    assert "the others held at their mean at the last 4 positions" in str(best)
    alone = find_circuit(model, points, trigger_ids=[trigger], sizes=[1], pool=4, window=1)
    assert alone.order[0] == tells and alone.faithfulness(1).low > 1
    assert "at the prediction position alone" in str(alone.smallest(0.8))


def test_the_whole_model_keeps_exactly_everything(planted):
    found = planted[0]
    assert (found.kept[:, -1] == found.full).all() and (found.random[:, -1] == found.full[:, None]).all()
    whole = found.faithfulness(15)
    assert (whole.value, whole.low, whole.high) == (1, 1, 1) and found.selecting_faithfulness(15) == 1


def test_a_set_that_overshoots_does_not_keep_the_trigger(planted):
    """It moves the reading 3.5 times as far from the whole model's as one that keeps nothing."""
    found = planted[0]
    gap = found.selecting_full - found.selecting_none

    def with_shares(*shares):
        return replace(found, selecting_kept=np.stack([found.selecting_none + share * gap for share in shares], axis=1))

    overshoots = with_shares(4.5, 1.15, 1.0)
    assert len(overshoots.smallest(0.8).sites) == 2 and len(overshoots.smallest(0.9).sites) == 15
    assert len(with_shares(0.8, 1.0, 1.0).smallest(0.8).sites) == 1  # the ends count
    with pytest.raises(InputError, match=r"none of the sizes \[1, 2, 15\] keeps 0.9 to 1.1"):
        with_shares(4.5, 1.15, -1.0).smallest(0.9)


def test_problems_that_choose_are_not_those_that_are_measured(planted):
    found, points, model, trigger = planted
    assert found.selecting_problems == 6 and len(set(found.problems)) == 6 and len(found.problems) == 12
    # Without what the measured problems look like, the choice is the same: only the other half made it.
    spoilt = tuple(
        replace(e, context=points.controls[i].context) if e.problem_id in found.problems else e
        for i, e in enumerate(points.events)
    )
    again = find_circuit(model, replace(points, events=spoilt), trigger_ids=[trigger], sizes=[1], pool=4)
    assert again.order == found.order
    assert np.abs(again.full - found.full).min() > 1
    np.testing.assert_allclose(again.selecting_kept[:, 0], found.selecting_kept[:, 0], atol=1e-5)


def test_a_control_is_averaged_if_the_problem_it_stands_in_chooses(planted):
    """Wherever its event stands: so no context of a measured problem is averaged."""
    found, points, model, trigger = planted
    measured = set(found.problems)
    assert {points.events[control.event].problem_id for control in points.controls} - measured
    inside = [control for control in points.controls if control.problem_id not in measured]
    moved = tuple(
        replace(control, problem_id=found.problems[0]) if control is inside[0] else control
        for control in points.controls
    )
    again = find_circuit(model, replace(points, controls=moved), trigger_ids=[trigger], sizes=[1], pool=1)
    assert (found.reference_contexts, again.reference_contexts) == (len(inside), len(inside) - 1)


@pytest.mark.parametrize("name", ["qwen2", "gemma2", "gpt2"])
def test_mean_ablation_equals_a_loop_of_plain_hooks(twins, name):
    """Means taken by hand from full forward passes, put in by hand; two positions, one of them the last."""
    model = twins(name)[0]
    points = random_points(60, problems=3)
    reference, contexts = ([list(p.context) for p in part] for part in (points.controls, points.events))
    kept = {Site("attn", 0, 2), Site("mlp", 1), Site("attn", 2, 0), Site("attn", 2, 1)}
    triggers = trigger_tensor(model, TRIGGERS)
    ablator = Ablator.of(
        model, contexts, window=2, means=mean_activations(model, reference, window=2), triggers=triggers,
        reading="trigger_log_prob",
    )  # fmt: skip
    caches = [model.run_with_cache(ids)[1] for ids in reference]
    for row, ids in enumerate(contexts):
        hooks = []
        for node in circuit_nodes(model):
            if node in kept:
                continue
            place = hook_point(model.bridge, node)
            mean = torch.stack([cache[place][0, -2:] for cache in caches]).mean(0)

            def hook(value, hook, node=node, mean=mean):
                value = value.clone()
                if node.head is None:
                    value[0, -2:] = mean
                else:
                    value[0, -2:, node.head] = mean[:, node.head]
                return value

            hooks.append((node, hook))
        logits = model.run_with_hooks(ids, hooks)[0, -1]
        expected = float(logits.double().softmax(-1)[list(TRIGGERS)].sum().log())
        assert ablator.keeping(kept)[row] == pytest.approx(expected, abs=2e-3)


def test_the_order_is_the_greedy_one_of_plain_code(planted):
    """With every node tried at each step, each loss is the least of all that remain."""
    _, _, model, trigger = planted
    points = head_points(trigger, problems=6)
    found = find_circuit(model, points, trigger_ids=[trigger], sizes=[15], pool=15, window=1)
    chosen = [e for e in points.events if e.problem_id not in found.problems]
    means = mean_activations(
        model, [c.context for c in points.controls if c.problem_id not in found.problems], window=1
    )
    ablator = Ablator.of(
        model, [e.context for e in chosen], window=1, means=means, triggers=trigger_tensor(model, [trigger]),
        reading="logit_difference",
    )  # fmt: skip
    whole = ablator.keeping(circuit_nodes(model)).mean()
    for size in (15, 9, 3):
        kept = set(found.order[:size])
        costs = {node: abs(ablator.keeping(kept - {node}).mean() - whole) for node in kept}
        assert costs[found.order[size - 1]] == pytest.approx(min(costs.values()), abs=1e-6)


def test_the_table_says_what_was_measured(planted):
    found = planted[0]
    table = found.to_pandas()
    assert table["size"].tolist() == [1, 2, 15] and table["added"][0] == f"attn.{LAYER}.h{HEAD}"
    assert (table["heads"] + table["mlps"] == table["size"]).all() and table["heads"].iloc[-1] == 12
    gain = (found.kept[:, 1] - found.none).sum() / (found.full - found.none).sum()
    assert table["faithfulness"][1] == pytest.approx(gain)
    drawn = (found.random[:, 1] - found.none[:, None]).sum(0) / (found.full - found.none).sum()
    assert table["random_median"][1] == pytest.approx(np.median(drawn)) and len(drawn) == 20
    assert table["random_p"][1] == pytest.approx((1 + (drawn >= gain).sum()) / 21)
    assert set(table["events"]) == {12} and set(table["reference_contexts"]) == {12}


def test_what_makes_no_circuit_is_refused(planted, tiny):
    found, points, model, trigger = planted
    for words, options in (
        ("no reference", {"reference": "mean"}),
        ("window is 0", {"window": 0}),
        ("draws is 5", {"draws": 5}),
        ("15 heads and MLPs", {"sizes": [16]}),
        ("no reference context has 40 tokens", {"window": 40}),
    ):
        unchecked = getattr(find_circuit, "__wrapped__", find_circuit)  # past the type checker of the tests
        with pytest.raises(InputError, match=words):
            unchecked(model, points, trigger_ids=[trigger], **options)
    with pytest.raises(InputError, match="at least 4"):
        find_circuit(tiny, random_points(60, problems=3), trigger_ids=TRIGGERS)
    with pytest.raises(InputError, match="no controls"):
        find_circuit(model, replace(points, controls=()), trigger_ids=[trigger])
    same = replace(points, events=tuple(replace(c, kind="event") for c in points.controls))
    with pytest.raises(InputError, match="no circuit can be told"):
        find_circuit(model, same, trigger_ids=[trigger])
    with pytest.raises(InputError, match="size 3 was not measured"):
        found.faithfulness(3)
    with pytest.raises(InputError, match="cannot be asked"):
        found.smallest(1.5)
