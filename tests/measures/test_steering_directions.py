"""Directions: equal to plain means, the planted one found, controls of its length that say nothing."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from backtracking.core.clustered_auc import auc
from backtracking.core.errors import InputError
from backtracking.core.interventions import Add, Project
from backtracking.core.sites import Site
from backtracking.measures.decision_points import DecisionPoint, DecisionPoints, Skipped
from backtracking.measures.direction_readings import direction_cosine, unembedding_score
from backtracking.measures.point_activations import PointActivations, read_points
from backtracking.measures.steering_controls import (
    behaviour_points,
    noise_arm,
    other_direction,
    random_directions,
    self_direction,
)
from backtracking.measures.steering_directions import steering_direction
from backtracking.model.sampling import sample
from tests.measures.planted import LAYER, SEES, WRITES, planted, random_points


@pytest.fixture(scope="module")
def model_and_trigger():
    return planted()


@pytest.fixture(scope="module")
def read(model_and_trigger):
    model, trigger = model_and_trigger
    sites = ["resid_pre.0", "resid_post.0", "resid_post.1", "resid_post.2"]
    return read_points(model, random_points(trigger), sites=sites, window=(-4, -1))


def direct_means(model, points, layer, window):
    """Event mean minus control mean, by running every context alone."""
    kinds = []
    for group in (points.events, points.controls):
        rows = []
        for point in group:
            resid = model.run_with_cache(list(point.context))[1][f"blocks.{layer}.hook_resid_post"][0]
            at = [len(point.context) + o for o in range(window[0], window[1] + 1)]
            rows.append(resid[[p for p in at if p >= point.prompt_tokens - 1]].mean(0))
        kinds.append(torch.stack(rows).mean(0))
    return (kinds[0] - kinds[1]).numpy()


@pytest.mark.parametrize("window", [(-1, -1), (-4, -2)])
def test_the_mean_difference_is_that_of_contexts_run_alone(model_and_trigger, read, window):
    model = model_and_trigger[0]
    found = steering_direction(read, "resid_post.1", window=window)
    np.testing.assert_allclose(found.values, direct_means(model, read.points, 1, window), atol=1e-4)
    assert found.norm == pytest.approx(np.linalg.norm(found.values))
    assert (found.events, found.controls, len(found.fitted_on)) == (48, 48, 24)


@pytest.mark.parametrize("method", ["mean_difference", "logistic"])
def test_the_planted_direction_is_found_where_it_is_written_and_not_before(read, method):
    after = steering_direction(read, f"resid_post.{LAYER}", window=(-1, -1), method=method)
    before = steering_direction(read, "resid_post.0", window=(-1, -1), method=method)
    unit = np.abs(after.values) / after.norm
    assert set(np.argsort(unit)[-2:]) == {SEES, WRITES} and after.values[WRITES] > 0
    assert abs(before.values[WRITES]) < 1e-6 and before.values[SEES] > 0
    assert after.auc.low > 0.85  # all of 24 problems agree
    elsewhere = steering_direction(read, f"resid_post.{LAYER}", window=(-4, -3), method=method)
    assert elsewhere.auc.low < 0.5  # nothing is planted there


def test_both_methods_and_every_control_have_one_length(read):
    mean = steering_direction(read, "resid_post.1", window=(-1, -1))
    others = [
        steering_direction(read, "resid_post.1", window=(-1, -1), method="logistic"),
        *random_directions(mean, 3),
        self_direction(read, "resid_post.1", window=(-1, -1), like=mean),
    ]
    assert [each.norm for each in others] == pytest.approx([mean.norm] * 5)
    assert len({each.vector.name for each in others}) == 5
    assert mean.relative_norm == pytest.approx(mean.norm / mean.activation_norm) and mean.activation_norm > 0


def test_controls_are_not_the_planted_direction(read):
    mean = steering_direction(read, "resid_post.1", window=(-1, -1))
    controls = [*random_directions(mean, 20), self_direction(read, "resid_post.1", window=(-1, -1), like=mean)]
    rows = read.rows("resid_post.1", (-1, -1))
    planted_auc = auc(rows.values @ mean.values, rows.is_event)
    areas = [abs(auc(rows.values @ each.values, rows.is_event) - 0.5) for each in controls]
    cosines = [abs(each.values @ mean.values) / mean.norm**2 for each in controls]
    assert planted_auc > 0.98
    assert np.median(areas) < 0.25 and np.median(cosines) < 0.25


def test_it_becomes_an_intervention_that_the_model_obeys(model_and_trigger, read):
    model, trigger = model_and_trigger
    mean = steering_direction(read, "resid_post.1", window=(-1, -1))
    assert isinstance(mean.intervention(2), Add) and isinstance(mean.ablation(), Project)
    assert str(mean.intervention(-1)) == "resid_post.1+-1*vec(mean_difference resid_post.1 onset-1:onset-1)@decode"
    event, control = list(read.points.events[0].context), list(read.points.controls[0].context)

    def chance(ids, what):
        with model.intervening(what, prompt_lengths=[len(ids) - 1]):
            return float(model.logits(ids)[0, -1].softmax(-1)[trigger])

    assert chance(control, [mean.intervention(1)]) > 10 * chance(control, [])
    assert chance(event, [mean.intervention(-1)]) < chance(event, []) / 10
    assert chance(event, [mean.ablation()]) < chance(event, []) / 5


def test_the_unembedding_score_names_the_direction_that_writes_the_word(model_and_trigger, read):
    model, trigger = model_and_trigger
    writes = steering_direction(read, f"resid_post.{LAYER}", window=(-1, -1))
    sees = steering_direction(read, "resid_post.0", window=(-1, -1))
    score = unembedding_score(model, writes, trigger_ids=[trigger])
    assert score.above_random.effect > score.above_random.high and score.above_random.p_value < 0.02
    assert score.top_tokens[0] == "Wait"
    normed = model.bridge.ln_final(torch.tensor(writes.values, dtype=torch.float32)[None])
    odds = torch.log_softmax(normed @ model.bridge.W_U + model.bridge.b_U, -1)[0, trigger].double().exp()
    assert score.log_odds == pytest.approx(float((odds / (1 - odds)).log()), abs=1e-3)
    before = unembedding_score(model, sees, trigger_ids=[trigger])
    assert before.above_random.p_value > 0.02
    random = unembedding_score(model, random_directions(writes, 1, seed=9)[0], trigger_ids=[trigger])
    assert random.above_random.p_value > 0.02


def test_two_halves_of_one_models_problems_share_the_direction_and_noise_does_not(model_and_trigger, read):
    model, trigger = model_and_trigger
    other = read_points(model, random_points(trigger, seed=5), sites=["resid_post.1"], window=(-1, -1))
    same = direction_cosine(read, other, "resid_post.1", window=(-1, -1))
    assert same.cosine.low > same.chance and same.cosine.value > 0.8
    mine, theirs = (steering_direction(each, "resid_post.1", window=(-1, -1)) for each in (read, other))
    assert same.cosine.value == pytest.approx(mine.values @ theirs.values / (mine.norm * theirs.norm))
    swapped = replace(read.points, events=read.points.controls, controls=read.points.events)
    opposite = read_points(model, swapped, sites=["resid_post.1"], window=(-1, -1))
    assert direction_cosine(read, opposite, "resid_post.1", window=(-1, -1)).cosine.value == pytest.approx(-1)
    early, late = (read_points(model, random_points(trigger, seed=seed), sites=["resid_post.1"], window=(-4, -3))
                   for seed in (0, 5))  # fmt: skip
    unrelated = direction_cosine(early, late, "resid_post.1")
    assert unrelated.cosine.low < unrelated.chance


NOISY = (np.eye(24)[0], 0.6 * np.eye(24)[0] + 0.8 * np.eye(24)[1])
"""Two directions whose cosine is 0.6, before there is any noise."""


def noisy(rng, direction, problems=12):
    """Activations whose events lie along a direction; two events and controls of each problem share some noise."""
    shared = 0.5 * rng.standard_normal((problems, 24)).repeat(2, axis=0)
    kinds = [
        shared + rng.standard_normal(shared.shape) + (kind == "event") * direction for kind in ("event", "control")
    ]
    points = [
        [DecisionPoint(f"p{index // 2}", index % 2, "v", kind, index, (1, 2), 1, 1, 3) for index in range(2 * problems)]
        for kind in ("event", "control")
    ]
    values, rows = np.concatenate(kinds), np.arange(4 * problems)
    held = DecisionPoints(tuple(points[0]), tuple(points[1]), (), Skipped(0, 0, 0))
    site = Site("resid_post", 1)
    return PointActivations("m", held, (site,), (-1, -1), rows, np.full(len(rows), -1), {site: values}, 0)


def test_the_interval_of_a_cosine_holds_it_and_covers_what_such_samples_have_on_average():
    rng = np.random.default_rng(0)
    pairs = [[noisy(rng, direction) for direction in NOISY] for _ in range(400)]
    found = [direction_cosine(*pair, "resid_post.1").cosine for pair in pairs]
    assert all(one.low < one.value < one.high for one in found)
    expected = np.mean([one.value for one in found])
    assert expected < 0.45  # noise draws it towards 0, and no interval says otherwise
    covered = np.mean([one.low <= expected <= one.high for one in found])
    assert 0.93 <= covered <= 0.99


def test_a_cosine_of_events_of_one_problem_has_no_interval():
    read = noisy(np.random.default_rng(1), NOISY[0])
    alone = tuple(replace(event, problem_id="p0") for event in read.points.events)
    one = replace(read, points=replace(read.points, events=alone))
    found = direction_cosine(one, read, "resid_post.1").cosine
    assert np.isfinite(found.value) and np.isnan([found.low, found.high]).all()


def test_models_of_different_width_have_no_cosine(model_and_trigger, read):
    model, trigger = model_and_trigger
    head = read_points(model, random_points(trigger), sites=["attn.1.h0"], window=(-1, -1))
    with pytest.raises(InputError, match="no cosine"):
        direction_cosine(read, head, "resid_post.1", other_site="attn.1.h0", window=(-1, -1))


def test_points_of_another_behaviour_have_controls_without_it(tiny, problems):
    completions = sample(tiny, problems, samples=6, max_new_tokens=30, temperature=1.5, seed=1)
    points = behaviour_points(completions, "[aeiou]", seed=3)
    assert points.events
    text = {(c.problem_id, c.sample_id): c for c in completions}
    for point in points.all:
        row = text[point.problem_id, point.sample_id]
        hits = [row.token_at(match.start()) for match in re.finditer("[aeiou]", row.text)]
        assert (point.position == hits[0]) if point.kind == "event" else (point.position not in hits)
    like = steering_direction(
        read_points(tiny, points, sites=["resid_post.1"], window=(-2, -1)), "resid_post.1", folds=2
    )
    other = other_direction(
        read_points(tiny, points, sites=["resid_post.1"], window=(-2, -1)), "resid_post.1", like=like, name="vowels"
    )
    np.testing.assert_allclose(other.values, like.values)
    with pytest.raises(InputError, match="matches in none"):
        behaviour_points(completions, "never in here")


def test_noise_takes_a_draw_for_each_completion(tiny, problems):
    arms = {f"draw {i}": [f"resid_post.1+{i + 1}*random({i})@decode"] for i in range(3)}
    completions = sample(tiny, problems, conditions=arms, samples=5, max_new_tokens=4, temperature=1.0)
    noise = noise_arm(completions, list(arms), name="noise")
    assert {(c.problem_id, c.sample_id) for c in noise} == {(p.id, s) for p in problems for s in range(5)}
    assert {c.condition for c in noise} == {"noise"} and len({c.receipts[0].intervention for c in noise}) == 3
    with pytest.raises(InputError, match="no completions of the draw 'other'"):
        noise_arm(completions, ["other"])


def test_what_makes_no_direction_is_refused(model_and_trigger, read):
    model, trigger = model_and_trigger
    bare = read_points(model, random_points(trigger, controls=False), sites=["resid_post.1"], window=(-1, -1))
    with pytest.raises(InputError, match="0 controls"):
        steering_direction(bare, "resid_post.1")
    with pytest.raises(InputError, match="too few for 40 folds"):
        steering_direction(read, "resid_post.1", folds=40)
