"""What is read in a window is what the bridge's own cache holds there."""

from dataclasses import replace

import numpy as np
import pytest

from backtracking.core.errors import InputError
from backtracking.core.sites import Site
from backtracking.measures.point_activations import read_points
from tests.measures.planted import random_points

SITES = ["resid_post.1", "mlp.2"]


def test_every_row_is_the_bridges_own_activation(tiny):
    points = random_points([60, 61], problems=4)
    read = read_points(tiny, points, sites=SITES, window=(-4, -1))
    assert len(read.point) + read.missing == 4 * len(points.all)
    for site in map(Site.parse, SITES):
        for row, (index, offset) in enumerate(zip(read.point, read.offset, strict=True)):
            context = list(points.all[index].context)
            own = tiny.run_with_cache(context)[1][site.hook_name][0, len(context) + offset]
            np.testing.assert_allclose(read.values[site][row], own.numpy(), atol=1e-5)


def test_positions_of_the_prompt_are_counted_and_not_read(tiny):
    points = random_points(60, problems=3)
    read = read_points(tiny, points, sites=["resid_post.0"], window=(-13, -1))
    sampled = [min(13, len(point.context) - point.prompt_tokens + 1) for point in points.all]
    assert np.bincount(read.point).tolist() == sampled
    assert read.missing == 13 * len(points.all) - sum(sampled) > 0


def test_a_part_of_the_window_and_the_mean_of_each_point(tiny):
    points = random_points(60, problems=3)
    read = read_points(tiny, points, sites=["resid_post.0"], window=(-5, -1))
    rows = read.rows("resid_post.0", (-2, -1))
    means = rows.mean_by_point()
    assert (len(rows.point), len(means.point)) == (24, 12)
    for index in range(12):
        np.testing.assert_allclose(means.values[index], rows.values[rows.point == index].mean(0))
    assert means.is_event.tolist() == [True] * 6 + [False] * 6
    assert means.problems == tuple(point.problem_id for point in points.all)


def test_contexts_that_begin_one_another_are_read_alike(tiny, tmp_path):
    points = random_points(60, problems=2, each=1)
    longer = replace(points.events[0], context=(*points.events[0].context, 33, 12))
    nested = replace(points, events=(points.events[0], longer))
    read = read_points(tiny, nested, sites=["resid_post.2"], window=(-3, -1), to=tmp_path / "kept")
    alone = read_points(tiny, points, sites=["resid_post.2"], window=(-3, -1))
    site = Site("resid_post", 2)
    np.testing.assert_allclose(read.values[site][read.point == 0], alone.values[site][alone.point == 0], atol=1e-5)
    assert (tmp_path / "kept").is_dir()


def test_what_cannot_be_read_is_refused(tiny):
    points = random_points(60, problems=1)
    with pytest.raises(InputError, match="cannot be read before"):
        read_points(tiny, points, sites=SITES, window=(-2, 0))
    with pytest.raises(InputError, match="no events"):
        read_points(tiny, replace(points, events=()), sites=SITES)
    read = read_points(tiny, points, sites=SITES, window=(-2, -1))
    with pytest.raises(InputError, match="not inside"):
        read.rows("mlp.2", (-3, -1))
    with pytest.raises(InputError, match="was not read"):
        read.rows("mlp.1")
