"""Word or behaviour: silencing the words is told from ending the corrections."""

from dataclasses import replace

import numpy as np
import pytest

from backtracking.core.answer_flow import answer_flow
from backtracking.core.completions import Completion
from backtracking.core.errors import InputError
from backtracking.core.events import detect_events
from backtracking.core.problems import Problem
from backtracking.core.receipts import Receipt
from backtracking.measures.behaviour import word_or_behaviour
from backtracking.measures.conditions import compare_conditions

END = "</think>\nFinal: {}"
TEXTS = {
    "fixed": "<think>6 * 7 = 41. The answer is 41. Wait, 6 * 7 = 42." + END.format(42),
    "broken": "<think>The answer is 42. Wait, 6 * 7 = 41." + END.format(41),
    "idle": "<think>So 6 * 7 = 42. Wait, let me see. Wait, yes, it is 42." + END.format(42),
    "nothing held": "<think>Hmm. Wait, 6 * 7 = 42." + END.format(42),
    "silent": "<think>6 * 7 = 41. Checking, 6 * 7 is 42." + END.format(42),
    "plain": "<think>6 * 7 = 42." + END.format(42),
    "ordinary": "<think>The wait time changes. 6 * 7 = 41. 6 * 7 = 42." + END.format(42),
}
PROBLEMS = [Problem(i, "What is six times seven?", "42") for i in range(6)]
OFF = (Receipt("mlp.27*0@decode", 5, -1.0),)


def completion(problem: int, sample: int, condition: str, text: str) -> Completion:
    return Completion(
        problem_id=problem, sample_id=sample, variant="no_think_tags", condition=condition, prompt_ids=(1, 2),
        ids=tuple(range(len(text))), text=text, offsets=tuple(range(len(text))), finish_reason="stop",
        receipts=() if condition == "baseline" else OFF,
    )  # fmt: skip


def run(**arms) -> list[Completion]:
    """Arms by name: the kinds of text, one after the other over 6 problems by 2 samples."""
    return [
        completion(i // 2, i % 2, name, TEXTS[kinds[i % len(kinds)]]) for name, kinds in arms.items() for i in range(12)
    ]


def measured(completions, **options):
    return word_or_behaviour(completions, *detect_events(completions, PROBLEMS), PROBLEMS, **options)


ARMS = {"baseline": ["fixed", "plain"], "silenced": ["silent", "plain"], "idle": ["idle", "plain"], "cut": ["plain"]}


def test_the_same_drop_of_triggers_is_told_apart_by_what_is_left():
    found = measured(run(**ARMS))
    assert [row.with_trigger.value for row in found.rows] == [0.5, 0, 0.5, 0]
    assert [row.triggers.value for row in found.rows] == [0.5, 0, 1.0, 0]
    assert [row.silent_change.value for row in found.rows] == [0, 0.5, 0, 0]
    assert found.flow("baseline", "answer", "fixed").share_of_all.value == 0.5
    assert found.flow("idle", "stated", "unchanged_right").share.value == 1
    assert {row.share for row in found.flows if row.condition == "cut"} == {None}


def test_silent_changes_are_compared_as_triggers_are():
    """By the comparison of conditions, told that a silent change is a trigger."""
    completions = run(baseline=["fixed", "silent", "plain"], silenced=["silent", "plain"], cut=["plain"])
    found = measured(completions)
    silent = {id(c) for c in completions if c.text == TEXTS["silent"]}
    events = detect_events(completions, PROBLEMS)[0]
    flagged = [replace(e, has_backtracking_strict=id(c) in silent) for c, e in zip(completions, events, strict=True)]
    expected = {row.condition: row for row in compare_conditions(flagged).paired}
    for name in ("silenced", "cut"):
        row, other = found.row(name), expected[name]
        assert row.silent_change_difference == other.backtracking
        assert (row.silent_change_p, row.silent_change_p_holm) == (other.backtracking_p, other.backtracking_p_holm)
    assert found.row("silenced").silent_change_difference.value == pytest.approx(1 / 2 - 1 / 3)
    assert found.row("baseline").silent_change_difference is None
    alone = measured([each for each in completions if each.condition == "cut"])
    assert alone.row("cut").silent_change_difference is None and np.isnan(alone.row("cut").silent_change_p)


def test_an_arm_without_the_samples_of_the_baseline_is_refused():
    with pytest.raises(InputError, match=r"'cut' and the baseline do not hold the same sample keys \(1 are"):
        measured(run(**ARMS)[:-1])


def test_flows_are_those_of_answer_flow_at_the_first_onset_that_counts():
    kinds = list(TEXTS)
    completions = run(baseline=kinds)
    events, onsets = detect_events(completions, PROBLEMS)
    found = word_or_behaviour(completions, events, onsets, PROBLEMS)
    expected: dict = {}
    for one, event in zip(completions, events, strict=True):
        if event.has_backtracking_strict:
            seen = answer_flow(one.text, one.text.index("Wait"), 42)
            key = ("none" if seen.before is None else seen.before.basis, seen.flow)
            expected[key] = expected.get(key, 0) + 1
    assert {(r.basis, r.flow): r.count for r in found.flows if r.count} == expected
    assert set(expected) == {
        ("answer", "fixed"), ("answer", "broken"), ("stated", "unchanged_right"), ("none", "unknown")
    }  # fmt: skip
    for row in found.flows:
        assert row.onsets == sum(count for (basis, _), count in expected.items() if basis == row.basis)
        assert row.share_of_all.value == row.count / 12
    assert sum(row.share_of_all.value for row in found.flows) == pytest.approx(found.rows[0].with_trigger.value)


def test_a_trigger_that_does_not_count_is_no_trigger_but_forbids_silence():
    row = measured(run(baseline=["ordinary"])).rows[0]
    assert (row.with_trigger.value, row.triggers.value, row.silent_change.value) == (0, 0, 0)


def test_identical_arms_have_identical_rows_and_names_do_not_matter():
    found = measured(run(**ARMS, same=ARMS["silenced"]))
    assert str(replace(found.row("same"), condition="silenced")) == str(found.row("silenced"))
    swap = {"idle": "cut", "cut": "idle"}
    swapped = measured([replace(c, condition=swap.get(c.condition, c.condition)) for c in run(**ARMS)])
    for row in measured(run(**ARMS)).rows:
        name = swap.get(row.condition, row.condition)
        assert str(swapped.row(name)) == str(replace(row, condition=name))


def test_the_tables():
    found = measured(run(**ARMS))
    assert list(found.to_pandas()["condition"]) == list(ARMS)
    columns = {"triggers_low", "silent_change_high", "silent_change_difference_low", "silent_change_p_holm", "tokens"}
    assert columns <= set(found.to_pandas().columns)
    flows = found.flows_to_pandas()
    assert len(flows) == len(ARMS) * 13
    assert flows.set_index(["condition", "basis", "flow"])["share"].isna().loc[("cut", "answer", "fixed")]


def test_pooled_arms_are_refused():
    completions = run(**ARMS)
    ablated = replace(completions[0], sample_id=9, receipts=OFF)
    with pytest.raises(InputError, match=r"1 completions of the baseline carry .'mlp.27\*0@decode'."):
        measured([*completions, ablated])
    other = replace(completions[-1], sample_id=9, receipts=(Receipt("mlp.27*0.5@decode", 5, -1.0),))
    with pytest.raises(InputError, match="'cut' pools completions with different interventions"):
        measured([*completions, other])
    with pytest.raises(InputError, match="within one variant"):
        measured([*completions, replace(completions[0], variant="think_same_line")])
    with pytest.raises(InputError, match="'baseline' has problem 0, sample 0 twice"):
        measured([*completions, completions[0]])
    with pytest.raises(InputError, match="no events"):
        measured([])


def test_parts_that_do_not_belong_together_are_refused():
    completions = run(**ARMS)
    events, onsets = detect_events(completions, PROBLEMS)
    for parts, said in [
        ((completions[1:], events, onsets, PROBLEMS), "do not hold the same samples"),
        ((completions, events[1:], onsets, PROBLEMS), "do not hold the same samples"),
        ((completions, events, [replace(onsets[0], sample_id=9)], PROBLEMS), "1 completions with onsets have no event"),
        ((completions, events, (), PROBLEMS), "disagree on its backtracking"),
        ((completions, events, onsets, PROBLEMS[1:]), "no problem has the id 0"),
        ((completions, [replace(events[0], completion_tokens=3), *events[1:]], onsets, PROBLEMS), "another completion"),
    ]:
        with pytest.raises(InputError, match=said):
            word_or_behaviour(*parts)
