"""The gradient direction: what finite differences of real steering give, and the fastest way up of all."""

from dataclasses import replace

import numpy as np
import pytest

from backtracking.core.errors import InputError
from backtracking.core.interventions import Add
from backtracking.core.vectors import FixedVector
from backtracking.measures.point_activations import read_points
from backtracking.measures.steering_controls import random_directions
from backtracking.measures.steering_directions import combined_direction, magnitude_one, steering_direction
from backtracking.measures.steering_gradients import gradient_direction, odds_gradients
from tests.measures.planted import LAYER, WRITES, planted, random_points

SITES = ["resid_post.0", "resid_post.1", "resid_post.2", "attn.1.h2"]


@pytest.fixture(scope="module")
def model_and_trigger():
    return planted()


@pytest.fixture(scope="module")
def read(model_and_trigger):
    model, trigger = model_and_trigger
    return read_points(model, random_points(trigger), sites=SITES, window=(-2, -1))


def steered_odds(model, point, tokens, what):
    """Log-odds of the tokens after the point's context alone, under interventions that the library applies."""
    with model.intervening(what, prompt_lengths=[point.prompt_tokens]):
        chances = model.logits(list(point.context))[0, -1].double().softmax(-1)
    together = chances[tokens].sum()
    return float((together / (1 - together)).log())


@pytest.mark.parametrize("site", SITES)
def test_the_gradient_is_the_slope_of_the_odds_under_the_steering_it_stands_for(model_and_trigger, read, site):
    model, trigger = model_and_trigger
    tokens, points = [trigger, 50], [*read.points.events[:3], *read.points.controls[:3]]
    gradients = odds_gradients(model, points, site, tokens)
    for number, (point, gradient) in enumerate(zip(points, gradients, strict=True)):
        vector = np.random.default_rng(number).standard_normal(gradient.shape[0])
        step = 0.01
        up, down = (steered_odds(model, point, tokens, [Add(site, vector, s, "decode")]) for s in (step, -step))
        assert (up - down) / (2 * step) == pytest.approx(gradient @ vector, rel=0.02, abs=0.01)


def test_a_point_before_the_first_sampled_token_has_no_gradient(model_and_trigger, read):
    model, trigger = model_and_trigger
    point = read.points.events[0]
    first = replace(point, context=point.context[: point.prompt_tokens])
    both = odds_gradients(model, [first, point], "resid_post.1", [trigger])
    assert not both[0].any() and both[1].any()


def test_no_other_direction_of_its_length_raises_the_odds_as_fast(model_and_trigger, read):
    model, trigger = model_and_trigger
    found = gradient_direction(model, read, "resid_post.1", window=(-1, -1))
    means = steering_direction(read, "resid_post.1", window=(-1, -1))

    def rise(direction):
        rises = []
        for point in read.points.all[::8]:
            plain, pushed = (steered_odds(model, point, [trigger], [direction.intervention(s)]) for s in (0, 0.01))
            rises.append(pushed - plain)
        return np.mean(rises)

    own = rise(found)
    assert own > 0 and own > 1.1 * max(rise(each) for each in (means, *random_directions(found, 5)))


def test_the_planted_direction_is_in_it_from_where_it_is_written(model_and_trigger, read):
    model, _ = model_and_trigger
    after = gradient_direction(model, read, f"resid_post.{LAYER}", window=(-1, -1))
    assert np.argmax(np.abs(after.values)) == WRITES and after.values[WRITES] > 0
    assert after.method == "gradient" and after.auc is None and after.window == (-1, -1)


def test_it_has_the_length_and_the_counts_of_the_mean_difference(model_and_trigger, read):
    model, _ = model_and_trigger
    for site in ("resid_post.1", "attn.1.h2"):
        own, means = gradient_direction(model, read, site), steering_direction(read, site)
        assert own.norm == pytest.approx(means.norm) == pytest.approx(magnitude_one(read, site))
        assert (own.events, own.controls, own.fitted_on) == (means.events, means.controls, means.fitted_on)


def test_weights_say_how_much_each_direction_counts(read):
    one, other = (steering_direction(read, "resid_post.1", window=window) for window in ((-1, -1), (-2, -2)))
    other = replace(other, window=one.window)
    mixed = combined_direction([one, other], weights=(3, 1))
    np.testing.assert_allclose(mixed.values, 0.75 * one.values + 0.25 * other.values)
    assert mixed.norm < 0.75 * one.norm + 0.25 * other.norm < max(one.norm, other.norm)
    doubled = replace(one, vector=FixedVector(tuple((2 * one.values).tolist()), "twice as long"))
    assert combined_direction([doubled, other], weights=(3, 1)).values == pytest.approx(
        1.5 * one.values + 0.25 * other.values
    )
    assert combined_direction([doubled, other], weights=(3 / 2, 1)).values == pytest.approx(
        (3 * one.values + other.values) / 2.5
    )
    assert combined_direction([one, other], weights=(6, 2)).values == pytest.approx(mixed.values)
    assert combined_direction([one, other], weights=(2, 2)).values == pytest.approx(
        combined_direction([one, other]).values
    )
    for weights in ((1,), (1, 0), (1, float("nan"))):
        with pytest.raises(InputError, match="do not fit 2 directions"):
            combined_direction([one, other], weights=weights)


def test_what_makes_no_gradient_is_refused(model_and_trigger, read):
    model, trigger = model_and_trigger
    bare = read_points(model, random_points(trigger, controls=False), sites=["resid_post.1"], window=(-1, -1))
    with pytest.raises(InputError, match="0 controls"):
        gradient_direction(model, bare, "resid_post.1")
    unsampled = tuple(replace(each, context=each.context[:4], position=0) for each in read.points.events)
    others = tuple(replace(each, context=each.context[:4], position=0) for each in read.points.controls)
    points = replace(read.points, events=unsampled, controls=others)
    prompts = read_points(model, points, sites=["resid_post.1"], window=(-1, -1))
    with pytest.raises(InputError, match="do not depend on a push"):
        gradient_direction(model, prompts, "resid_post.1")


def test_reading_gradients_leaves_none_behind(model_and_trigger, read):
    model, trigger = model_and_trigger
    odds_gradients(model, read.points.events, "resid_post.1", [trigger])
    assert all(parameter.grad is None for parameter in model.module.parameters())
    assert not any(point.fwd_hooks for point in model.bridge.hook_dict.values())
