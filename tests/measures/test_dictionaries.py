"""Features at onsets: the planted one is found and its removal silences the trigger; others do not."""

import numpy as np
import pytest
import torch

from backtracking.core.clustered_auc import auc
from backtracking.core.completions import Completion
from backtracking.core.errors import InputError
from backtracking.measures.dictionaries import feature_ablation, feature_scan
from backtracking.measures.point_activations import read_points
from backtracking.model.activations import cache_activations
from backtracking.model.dictionaries import SparseDictionary, TopKSettings, train_topk
from tests.measures.planted import CHOSEN, OTHERS, SEES, WRITES, planted, random_points

SITE = "resid_post.1"


@pytest.fixture(scope="module")
def model_and_trigger():
    return planted()


@pytest.fixture(scope="module")
def read(model_and_trigger):
    return read_points(model_and_trigger[0], random_points(model_and_trigger[1]), sites=[SITE], window=(-2, -1))


def axes(**fields) -> SparseDictionary:
    """Feature 2 i is coordinate i where it is positive, feature 2 i + 1 where it is negative: nothing is left over."""
    signs = torch.cat([torch.eye(32)[i][None] * s for i in range(32) for s in (1, -1)])
    options = {"activation": "relu", "hook_name": "blocks.1.hook_resid_post", "name": "axes"} | fields
    return SparseDictionary(signs, torch.zeros(64), signs.clone(), torch.zeros(32), **options)


def test_the_planted_features_are_found_and_no_other(read):
    scan = feature_scan(read, axes(), SITE, window=(-1, -1))
    table = scan.to_pandas()
    assert set(table["feature"][:2]) == {2 * SEES, 2 * WRITES}
    assert (table["q"][:2] < 0.01).all() and (table["auc"][:2] > 0.99).all()
    assert (table["q"][2:] > 0.01).all()
    rows = read.rows(SITE, (-1, -1))
    column = np.maximum(rows.values[:, WRITES], 0)
    np.testing.assert_allclose(scan.values[:, 2 * WRITES], column, atol=1e-6)
    row = table[table["feature"] == 2 * WRITES].iloc[0]
    assert row["difference"] == pytest.approx(column[:48].mean() - column[48:].mean())
    assert row["auc"] == pytest.approx(auc(column, rows.is_event))


def test_a_window_is_averaged_point_by_point(read):
    both, last, before = (feature_scan(read, axes(), SITE, window=w).values for w in ((-2, -1), (-1, -1), (-2, -2)))
    np.testing.assert_allclose(both, (last + before) / 2)


def test_removing_the_planted_feature_silences_the_trigger_and_equals_zeroing_the_coordinate(model_and_trigger, read):
    model, trigger = model_and_trigger
    points = random_points(trigger, problems=6)
    found = feature_ablation(model, points, axes(), SITE, features=[2 * WRITES, 20], trigger_ids=[trigger])
    table = found.to_pandas().set_index("feature")
    assert table.loc[2 * WRITES, "change_high"] < -1 and abs(table.loc[20, "change"]) < 0.5
    assert abs(table.loc[2 * WRITES, "control_change"]) < 1e-3
    np.testing.assert_allclose(found.reconstruction, 0, atol=1e-4)  # these features leave nothing over

    def odds(logits):
        p = logits[0, -1].double().softmax(-1)[trigger]
        return float((p / (1 - p)).log())

    def zero(value, hook):  # noqa: ARG001
        value = value.clone()
        value[:, -1, WRITES] = value[:, -1, WRITES].clamp_max(0)
        return value

    for row, point in enumerate(points.all):
        ids = list(point.context)
        base = odds(model.logits(ids))
        assert found.baseline[row] == pytest.approx(base, abs=1e-4)
        off = odds(model.run_with_hooks(ids, [("blocks.1.hook_resid_post", zero)]))
        assert found.log_odds[row, 0] == pytest.approx(off - base, abs=1e-3)


def test_a_dictionary_trained_on_the_store_finds_the_planted_feature(model_and_trigger, tmp_path):
    model, trigger = model_and_trigger
    rng = np.random.default_rng(0)
    rows = []
    for number in range(150):
        ids = tuple(int(i) for i in rng.choice([*CHOSEN, *OTHERS], size=20))
        rows.append(Completion(f"p{number}", 0, "v", "baseline", ids[:2], ids[2:], "", "length"))
    store = cache_activations(model, rows, sites=[SITE], to=tmp_path / "store")
    found = train_topk(store, SITE, settings=TopKSettings(features=128, k=8, steps=300, batch=256))
    assert found.unexplained < 0.5 * found.unexplained_at_start
    read = read_points(model, random_points(trigger), sites=[SITE], window=(-1, -1))
    table = feature_scan(read, found.dictionary, SITE).to_pandas()
    best = table.iloc[0]
    assert best["auc"] > 0.9 and best["q"] < 0.01
    written = found.dictionary.decoder[int(best["feature"])]
    assert {SEES, WRITES} & set(written.abs().topk(2).indices.tolist())


def test_what_does_not_fit_is_refused(model_and_trigger, read):
    model, trigger = model_and_trigger
    with pytest.raises(InputError, match="reads blocks.0.hook_resid_post, not resid_post.1"):
        feature_scan(read, axes(hook_name="blocks.0.hook_resid_post"), SITE)
    points = random_points(trigger, problems=1)
    with pytest.raises(InputError, match="features 0 to 63, not 64"):
        feature_ablation(model, points, axes(), SITE, features=[64], trigger_ids=[trigger])
    with pytest.raises(InputError, match="transcoder"):
        feature_ablation(model, points, axes(transcoder=True, centred=False), SITE, features=[1], trigger_ids=[trigger])
    with pytest.raises(InputError, match="0 trigger ids"):
        feature_ablation(model, points, axes(), SITE, features=[1], trigger_ids=[])
