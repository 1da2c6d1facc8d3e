"""Lead time on text with a planted sign: read where it stands, not before, and not by a rival."""

from dataclasses import replace

import numpy as np
import pytest

from backtracking.core.completions import Completion
from backtracking.core.errors import InputError
from backtracking.measures.decision_points import DecisionPoint, DecisionPoints, Skipped
from backtracking.measures.lead_time import lead_time
from tests.measures.planted import CHOSEN, planted

PLAIN = range(40, 55)
"""Tokens that are letters: neither chosen nor part of a trigger."""
LEAD = 2
"""Tokens before the predicting position at which the sign stands."""


def texts(model, trigger, *, problems=40, length=14, seed=0):
    """Completions of random letters; before the trigger of every event a chosen token stands at `LEAD`."""
    rng = np.random.default_rng(seed)
    events, controls, completions = [], [], []
    for number in range(problems):
        for sample_id, kind in enumerate(("event", "control")):
            ids = rng.choice(list(PLAIN), size=length)
            if kind == "event":
                ids[-2 - LEAD] = rng.choice(list(CHOSEN))
            ids[-1] = trigger if kind == "event" else ids[-1]
            tokens = tuple(int(i) for i in ids)
            pieces = [model.tokenizer.decode([i]) for i in tokens]
            offsets = tuple(int(x) for x in np.cumsum([0, *map(len, pieces)])[:-1])
            more = () if kind == "event" else tokens[:6]
            text = "".join(pieces) + "".join(pieces[: len(more)])
            behind = tuple(offsets[-1] + len(pieces[-1]) + offset for offset in offsets[: len(more)])
            row = Completion(
                f"p{number}", sample_id, "v", "baseline", (5, 6, 7), tokens + more, text, "length", offsets + behind
            )
            completions.append(row)
            context = row.prompt_ids + row.ids[: length - 1]
            point = DecisionPoint(f"p{number}", sample_id, "v", kind, number, context, 3, length - 1, trigger)
            (events if kind == "event" else controls).append(point)
    return DecisionPoints(tuple(events), tuple(controls), (), Skipped(0, 0, 0)), completions


@pytest.fixture(scope="module")
def found():
    model, trigger = planted()
    points, completions = texts(model, trigger)
    return lead_time(model, points, completions, longest=5, folds=4), points, completions, model


def test_the_sign_is_read_where_it_stands_and_not_before_it(found):
    rows = {row.lead: row for row in found[0].rows}
    assert rows[LEAD].probe.low > 0.9 and rows[LEAD].p == 1 / 21
    assert rows[LEAD].advantage.value == pytest.approx(rows[LEAD].probe.value - rows[LEAD].rival.value)
    for lead in range(LEAD + 1, 6):  # the model cannot know the sign before it reads it
        assert rows[lead].probe.low < 0.5 and rows[lead].p > 1 / 21 or rows[lead].probe.value < 0.65
    assert all(row.null_low < 0.5 < row.null_high for row in found[0].rows)


def test_position_says_nothing_where_controls_match_it_exactly(found):
    for row in found[0].rows:
        assert row.position.value == pytest.approx(0.5)
        assert row.rival.value <= 1 and len(row.layers) == 4


def test_the_entropy_alone_is_a_probe_of_one_column(found):
    """Computed here from the model's own logits and scikit-learn's pipeline, fold by fold."""
    from backtracking.core.clustered_auc import clustered_auc
    from backtracking.measures.held_out import held_out_scores, logistic

    result, points, _, model = found
    lead = LEAD
    values = []
    for point in points.all:
        logits = model.logits(list(point.context))[0, -1 - lead].double()
        values.append([float(-(logits.softmax(-1) * logits.log_softmax(-1)).sum())])
    labels = np.array([point.kind == "event" for point in points.all])
    groups = [point.problem_id for point in points.all]
    held = held_out_scores(np.array(values), labels, groups, fit=logistic(), folds=4)
    expected = clustered_auc(held.scores, labels, groups, strata=held.fold.tolist())
    assert result.rows[lead].entropy.value == pytest.approx(expected.value, abs=0.02)


def test_shuffling_which_point_is_the_event_leaves_nothing_to_read():
    model, trigger = planted()
    points, completions = texts(model, trigger, seed=3)
    rng = np.random.default_rng(0)
    pairs = [pair if rng.random() < 0.5 else pair[::-1] for pair in zip(points.events, points.controls, strict=True)]
    events = tuple(replace(first, kind="event") for first, _ in pairs)
    controls = tuple(replace(second, kind="control") for _, second in pairs)
    clean = [replace(row, text="", offsets=()) for row in completions]
    result = lead_time(model, replace(points, events=events, controls=controls), clean, longest=3, folds=4)
    assert result.readable is None
    assert all(row.probe.low < 0.5 + 0.05 for row in result.rows)


def test_points_without_every_lead_and_controls_near_a_trigger_are_dropped_and_counted(found):
    _, points, completions, model = found
    result = found[0]
    assert (result.dropped_controls, result.dropped_events) == (0, 0)
    near = [
        replace(row, text="Wait" + row.text[4:]) if (row.sample_id, row.problem_id) in ((1, "p0"), (1, "p1")) else row
        for row in completions
    ]
    fewer = lead_time(model, points, near, longest=1, folds=4, layers=[1])
    assert (fewer.dropped_controls, fewer.dropped_events) == (2, 2)
    assert {row.events for row in fewer.rows} == {38} and {row.layers for row in fewer.rows} == {(1, 1, 1, 1)}
    earlier = [
        replace(row, text="mistake," + row.text[8:]) if (row.sample_id, row.problem_id) == (0, "p3") else row
        for row in completions
    ]  # it does not count, and the onset of that completion stays where it was
    fewer = lead_time(model, points, earlier, longest=1, folds=4, layers=[1])
    assert (fewer.dropped_controls, fewer.dropped_events) == (1, 1) and {row.events for row in fewer.rows} == {39}
    with pytest.raises(InputError, match="none of 40 events has 14 tokens"):
        lead_time(model, points, completions, longest=14)
    with pytest.raises(InputError, match="none of the completions"):
        lead_time(model, points, completions[:5], longest=2)


def test_the_table(found):
    table = found[0].to_pandas()
    assert table["lead"].tolist() == list(range(6))
    assert {"probe", "probe_low", "probe_high", "advantage_low", "null_high", "entropy"} <= set(table.columns)
