"""Events: positions are exact on the sampled ids, and each completion meets its own gold answer."""

from dataclasses import replace

import pytest

from backtracking.core.completions import Completion
from backtracking.core.errors import UnknownProblemError
from backtracking.core.events import Event, OnsetRow, detect_events, table
from backtracking.core.problems import Problem
from backtracking.model.tokens import decode_with_offsets
from tests.tiny import tiny_tokenizer

PROBLEM = Problem(7, "How long is the wait?", "72")


def completion(text: str, *, ids=None, problem=7, finish="stop", variant="baseline_think_newline") -> Completion:
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode(text, add_special_tokens=False) if ids is None else ids
    decoded, offsets = decode_with_offsets(tokenizer, ids)
    return Completion(problem, 0, variant, "baseline", (1, 4, 5), tuple(ids), decoded, finish, offsets)


def only(text: str, **options) -> Event:
    return detect_events([completion(text, **options)], [PROBLEM])[0][0]


@pytest.mark.parametrize("trigger", ["Wait", "wait", "Actually", "actually", "Hold on", "hold on", "WAIT"])
@pytest.mark.parametrize("before", ["", "a b. ", "☃ é\n", "no, "])
def test_the_onset_is_where_the_ids_say(trigger, before):
    event = only(f"{before}{trigger}, 7 2\n</think>\nFinal: 72")
    row = completion(f"{before}{trigger}, 7 2\n</think>\nFinal: 72")
    assert event.has_backtracking_strict
    assert event.onset_char == len(before)
    assert event.onset_phrase == trigger
    index = event.onset_token_in_completion
    assert index is not None
    tokenizer = tiny_tokenizer()
    assert len(tokenizer.decode(row.ids[:index])) <= len(before) < len(tokenizer.decode(row.ids[: index + 1]))
    assert event.onset_token_id == row.ids[index]
    assert event.onset_token_text == row.token_text(index)
    assert event.onset_token_in_full == 3 + index
    assert event.pred_pos_in_full == 2 + index
    assert event.in_think


def test_a_trigger_of_two_tokens_begins_at_the_first():
    tokenizer = tiny_tokenizer()
    event = only("a. Actually, b", ids=tokenizer.encode("a. ", add_special_tokens=False) + [
        tokenizer.convert_tokens_to_ids(piece) for piece in ("Act", "ually", ",", "Ġb")
    ])  # fmt: skip
    assert (event.onset_token_text, event.onset_phrase) == ("Act", "Actually")


def test_without_backtracking_the_onset_columns_are_missing():
    events, onsets = detect_events([completion("the wait time is 7"), completion("a Final: 72")], [PROBLEM])
    frame = table(events, Event)
    assert not frame["has_backtracking_strict"].any()
    for column in ("onset_char", "onset_token_id", "pred_pos_in_full", "onset_index", "in_think", "onset_phrase"):
        assert frame[column].isna().all(), column
    assert [row.context for row in onsets] == ["noun"]
    assert not onsets[0].counts


def test_onset_index_counts_triggers_that_do_not_count():
    event = only('the wait time is 7. "Wait" she said. Wait, a b')
    assert (event.onset_index, event.onset_char) == (2, len('the wait time is 7. "Wait" she said. '))


def test_after_the_reasoning_is_told_apart():
    assert only("a b </think> Wait, c").in_think is False
    assert only("a b Wait, c").in_think is True
    assert only("a b Wait, c", variant="no_think_tags").in_think is False
    assert only("<think> a Wait, c", variant="no_think_tags").in_think is True


def test_each_completion_is_graded_against_its_own_problem():
    problems = [Problem(1, "one", "1"), Problem(2, "two", "2")]
    rows = [completion(f"Final: {gold}", problem=problem) for problem in (2, 1) for gold in (1, 2)]
    events, _ = detect_events(rows, problems)
    assert [event.verdict for event in events] == ["wrong", "right", "right", "wrong"]
    with pytest.raises(UnknownProblemError, match="of problem 3, which is not among the 2 problems"):
        detect_events([completion("a", problem=3)], problems)


def test_verdicts_follow_the_finish_reason():
    assert only("a b c", finish="length").verdict == "truncated"
    assert only("a b c", finish="stop").verdict == "unparsed"
    assert only("Final: 72", finish="length").verdict == "right"


def test_tables_keep_the_published_columns(shared_data):
    header = (
        (shared_data / "published_runs/20251223_232541/analysis/backtracking_events.csv").read_text().splitlines()[0]
    )
    columns = list(table([only("Wait, a")], Event).columns)
    assert columns[: len(header.strip().split(","))] == header.strip().split(",")
    assert columns[len(header.strip().split(",")) :] == [
        "finish_reason",
        "verdict",
        "degenerate",
        "onset_index",
        "in_think",
    ]
    assert list(table([], OnsetRow).columns)[:4] == ["example_id", "sample_id", "variant", "condition"]


def test_a_loop_is_one_whether_or_not_a_stop_token_ended_it():
    tokenizer = tiny_tokenizer()
    again = tokenizer.encode("a", add_special_tokens=False) * 80
    text, offsets = decode_with_offsets(tokenizer, again)
    looped = Completion(7, 0, "no_think_tags", "baseline", (1,), tuple(again), text, "length", offsets)
    stopped = replace(looped, ids=(*again, 0), offsets=(*offsets, len(text)), finish_reason="stop")
    plain = completion("one and two Final: 72")
    events = detect_events([looped, stopped, replace(looped, finish_reason="degenerate"), plain], [PROBLEM])[0]
    assert [event.degenerate for event in events] == [True, True, True, False]
