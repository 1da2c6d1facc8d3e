"""The scan equals a plain loop of forward passes, and finds a planted site and no other."""

from dataclasses import replace

import numpy as np
import pytest

from backtracking.core.errors import InputError
from backtracking.core.multiplicity import benjamini_hochberg
from backtracking.core.sites import Site
from backtracking.core.statistics import paired_p_value
from backtracking.measures.ablation_scan import ablation_scan
from backtracking.measures.scan_tables import QUANTITIES
from tests.measures.planted import planted, random_points

TRIGGERS = (60, 61, 62)


@pytest.fixture(scope="module")
def planted_scan():
    model, trigger = planted()
    return ablation_scan(model, random_points(trigger), trigger_ids=[trigger])


def quantities(logits, token, triggers):
    """Straight from the definitions, by way of probabilities."""
    p = logits.double().softmax(-1)
    others = [logits[i] for i in range(len(logits)) if i not in triggers]
    together = logits[list(triggers)].double().exp().sum().log()
    return [float(p[token].log()), float(p[list(triggers)].sum().log()), float(together - max(others))]


def loop(model, point, site, triggers):
    def hook(value, hook):
        value = value.clone()
        if site.head is None:
            value[:, -1] = 0
        else:
            value[:, -1, site.head] = 0
        return value

    off = model.run_with_hooks(list(point.context), [(site, hook)])[0, -1]
    base = model.logits(list(point.context))[0, -1]
    pairs = zip(*(quantities(x, point.token_id, triggers) for x in (off, base)), strict=True)
    return [o - b for o, b in pairs]


@pytest.mark.parametrize("name", ["qwen2", "gemma2", "neox"])
def test_it_equals_a_loop_of_full_forwards(twins, name):
    model = twins(name)[0]
    points = random_points([60, 7], problems=2)
    scan = ablation_scan(model, points, trigger_ids=TRIGGERS, heads=True)
    assert [str(s) for s in scan.sites[:6]] == ["attn.0", "mlp.0", "attn.0.h0", "attn.0.h1", "attn.0.h2", "attn.0.h3"]
    assert len(scan.sites) == 3 * 6
    for row, point in enumerate(points.all):
        for column, site in enumerate(scan.sites):
            found = [getattr(scan, q)[row, column] for q in QUANTITIES]
            assert found == pytest.approx(loop(model, point, site, TRIGGERS), abs=2e-3), (row, str(site))
    assert np.abs(scan.log_prob).max() > 0.1
    assert scan.onsets_outside == 2


def test_scaling_by_one_changes_nothing_and_by_half_something_else(tiny):
    points = random_points(60, problems=3)
    one, half, off = (ablation_scan(tiny, points, trigger_ids=TRIGGERS, factor=f) for f in (1, 0.5, 0))
    for name in QUANTITIES:
        np.testing.assert_allclose(getattr(one, name), 0, atol=1e-5)
        assert np.abs(getattr(half, name) - getattr(off, name)).max() > 0.01


def test_only_the_position_that_predicts_is_ablated(tiny):
    """Zeroing a site at every position is another number."""
    points = random_points(60, problems=1, each=1, controls=False)
    scan = ablation_scan(tiny, points, trigger_ids=TRIGGERS)
    context = list(points.events[0].context)
    with tiny.intervening(["mlp.0*0"]):
        everywhere = tiny.logits(context)[0, -1].log_softmax(-1)[60] - scan.baseline_log_prob[0]
    assert abs(float(everywhere) - scan.log_prob[0, 1]) > 0.01


def test_permuting_the_points_permutes_the_changes(tiny):
    points = random_points([60, 61], problems=4)
    order = [5, 2, 7, 0, 1, 6, 3, 4]
    moved = replace(
        points,
        events=tuple(replace(points.events[old], event=new) for new, old in enumerate(order)),
        controls=tuple(replace(points.controls[old], event=new) for new, old in enumerate(order)),
    )
    scan, other = (ablation_scan(tiny, p, trigger_ids=TRIGGERS) for p in (points, moved))
    rows = [*order, *(8 + old for old in order)]
    for name in QUANTITIES:
        np.testing.assert_allclose(getattr(other, name), getattr(scan, name)[rows], atol=1e-5)


def test_selected_sites_come_kind_by_kind_and_within_a_kind_the_strongest_first(planted_scan):
    """Though the MLP is stronger than both attention layers."""
    changes = planted_scan.log_prob.copy()
    strongest = planted_scan.sites.index(Site("mlp", 1))
    for layer, share in ((0, 0.3), (2, 0.6)):
        changes[:, planted_scan.sites.index(Site("attn", layer))] = share * changes[:, strongest]
    found = replace(planted_scan, log_prob=changes).select(3, quantity="log_prob")
    assert [str(site) for site in found.sites] == ["attn.2", "attn.0", "mlp.1"]


def test_a_planted_site_is_found_and_no_other(planted_scan):
    for quantity in QUANTITIES:
        for against in (False, True):
            found = planted_scan.select(5, quantity=quantity, against_controls=against)
            assert [str(site) for site in found.sites] == ["mlp.1"]
            assert {(g.group, g.significant, g.tested) for g in found.groups} == {("attn", 0, 3), ("mlp", 1, 3)}
            assert "mlp: mlp.1 (1 of 3 sites" in str(found)
    overall = planted_scan.select(1, per_component=False)
    assert [(g.group, g.sites) for g in overall.groups] == [("all", (Site("mlp", 1),))]
    table = planted_scan.to_pandas()
    rest = table[table["site"] != "mlp.1"]
    assert ((rest["q"] > 0.05) | (rest["change"] > 0)).all()  # without what another site adds, the norm shrinks
    assert rest["change"].abs().max() < 0.1 * table["change"].abs().max()
    top = table[(table["site"] == "mlp.1") & (table["quantity"] == "log_prob")].iloc[0]
    assert top["change"] < -2 and top["change_high"] < 0 and abs(top["control_change"]) < 0.01
    assert top["difference"] == pytest.approx(top["change"] - top["control_change"])


def test_a_rise_at_controls_is_no_evidence(planted_scan):
    """A site that raises the trigger where none belongs, and hardly lowers it where one does, is not selected."""
    changes = planted_scan.trigger_log_prob.copy()
    events, where = len(planted_scan.points.events), [str(site) for site in planted_scan.sites].index("mlp.0")
    noise = np.random.default_rng(0).normal(size=len(changes)) * 0.3
    changes[:events, where], changes[events:, where] = -0.01 + noise[:events], 1 + noise[events:]
    moved = replace(planted_scan, trigger_log_prob=changes)
    row = moved.to_pandas().query("site == 'mlp.0' and quantity == 'trigger_log_prob'").iloc[0]
    assert row["difference_q"] < 0.05 and row["difference"] < -0.9
    found = moved.select(5, quantity="trigger_log_prob", against_controls=True)
    assert [str(site) for site in found.sites] == ["mlp.1"]


def test_sites_that_write_nothing_change_nothing():
    model, trigger = planted(others=0)
    table = ablation_scan(model, random_points(trigger), trigger_ids=[trigger], heads=True).to_pandas()
    found = table["site"] == "mlp.1"
    assert (table.loc[found, "q"] < 0.01).all() and (table.loc[found, "change"] < -1).all()
    assert (table.loc[~found, "q"] > 0.05).all() and table.loc[~found, "change"].abs().max() < 1e-6


def test_the_table_is_that_of_the_one_at_a_time_statistics(planted_scan):
    points, table = planted_scan.points, planted_scan.to_pandas()
    problems = [e.problem_id for e in points.events]
    count, p = len(points.events), []
    for (name, column), row in zip(((n, c) for n in QUANTITIES for c in range(6)), table.itertuples(), strict=True):
        values = getattr(planted_scan, name)[:, column]
        assert (row.quantity, row.site) == (name, str(planted_scan.sites[column]))
        assert row.change == pytest.approx(values[:count].mean())
        assert row.difference == pytest.approx((values[:count] - values[count:]).mean())
        p.append(paired_p_value(values[:count].tolist(), [0.0] * count, problems))
    assert table["p"].tolist() == pytest.approx(p, abs=0.02)
    assert table["q"].tolist() == pytest.approx(benjamini_hochberg(table["p"].tolist()))
    assert set(table["events"]) == set(table["pairs"]) == {48} and set(table["problems"]) == {24}
    assert len(planted_scan.points_to_pandas()) == 96 * 6


def test_each_event_is_compared_with_its_own_control(planted_scan):
    """Controls handed to other events leave the means, but not the pairs' p-values, as they were."""
    points = planted_scan.points
    crossed = tuple(replace(c, event=(c.event + 1) % 48) for c in points.controls)
    other = replace(planted_scan, points=replace(points, controls=crossed)).to_pandas()
    table = planted_scan.to_pandas()
    np.testing.assert_allclose(other["difference"], table["difference"], atol=1e-9)
    assert (other["difference_low"] - table["difference_low"]).abs().max() > 1e-6


def test_too_few_problems_are_named(planted_scan):
    model, trigger = planted()
    few = ablation_scan(model, random_points(trigger, problems=4), trigger_ids=[trigger])
    found = few.select(3)
    assert found.sites == () and found.smallest_q > 0.05
    assert "sample more problems" in str(found)


def test_without_controls_their_columns_are_missing(tiny):
    scan = ablation_scan(tiny, random_points(60, problems=2, controls=False), trigger_ids=TRIGGERS, layers=[2])
    table = scan.to_pandas()
    assert table["layer"].unique().tolist() == [2]
    assert table[["control_change", "difference", "difference_p", "difference_q"]].isna().all().all()
    assert set(table["controls"]) == {0}
    with pytest.raises(InputError, match="no controls"):
        scan.select(1, against_controls=True)


def test_what_cannot_be_scanned_is_refused(tiny):
    points = random_points(60, problems=1)
    with pytest.raises(InputError, match="0 trigger ids"):
        ablation_scan(tiny, points, trigger_ids=[])
    with pytest.raises(InputError, match="no attn.3; it has 3 layers"):
        ablation_scan(tiny, points, trigger_ids=[1], layers=[3])
    with pytest.raises(InputError, match="no events"):
        ablation_scan(tiny, replace(points, events=(), controls=()), trigger_ids=[1])
    with pytest.raises(InputError, match="cannot select 0"):
        ablation_scan(tiny, points, trigger_ids=[60]).select(0)
