"""The published study read again: stored verdicts are reproduced, regraded ones are of the right problem."""

import json
from pathlib import Path

import pandas as pd
import pytest

from backtracking.core.errors import InputError
from backtracking.core.grading import grade
from backtracking.core.statistics import Estimate, clustered_rate
from backtracking.experiments.published import (
    SweepCell,
    perfect_score_under_sweep_indexing,
    read_published_events,
    read_published_sweep,
    regrade,
)
from backtracking.experiments.replication import replicate_published
from backtracking.experiments.replication_note import verdict_on, write_note

PHASE1, PHASE2 = "20251223_232541", "20251224_045331"
HEADER = (
    "example_id,sample_id,variant,condition,has_backtracking_strict,has_backtracking_relaxed,onset_phrase,onset_char,"
    "onset_token_in_completion,onset_token_in_full,onset_token_id,onset_token_text,pred_pos_in_full,predicted_answer,"
    "is_correct,prompt_tokens,completion_tokens"
)


@pytest.fixture(scope="module")
def replication(shared_data):
    runs = shared_data / "published_runs"
    return replicate_published(runs / PHASE1, runs / PHASE2, shared_data / "gsm8k_200.jsonl")


def folder(tmp_path, lines, header=HEADER):
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "backtracking_events.csv").write_text("\n".join([header, *lines]) + "\n")
    return tmp_path


def problem_file(tmp_path, golds):
    path = tmp_path / "problems.jsonl"
    rows = [{"id": i, "question": f"Problem {i}?", "answer_value": gold} for i, gold in enumerate(golds)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_stored_answer_is_read_and_graded_against_its_own_problem(tmp_path):
    run = folder(tmp_path, [
        "1,0,v,baseline,True,True,wait,5,2,12,9, wait,11,** \\(\\boxed{72}\\),False,10,512",
        "1,1,v,baseline,False,False,,-1,-1,-1,-1,,-1,,,10,500",
        "0,0,v,baseline,False,False,,-1,-1,-1,-1,,-1,72,True,10,512",
        "0,1,v,baseline,False,False,,-1,-1,-1,-1,,-1,**,False,10,512",
    ])  # fmt: skip
    events = read_published_events(run)
    assert events["onset_char"].isna().tolist() == [False, True, True, True]
    assert [None if pd.isna(v) else bool(v) for v in events["stored_correct"]] == [False, None, True, False]
    graded = regrade(events, problem_file(tmp_path, ["621", "72"]))
    assert graded["verdict"].tolist() == ["right", "unparsed", "wrong", "unparsed"]
    assert graded["answer"].tolist()[0] == "72"
    assert graded["at_cap"].tolist() == [True, False, True, True]


def test_what_is_no_published_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="no .*backtracking_events.csv"):
        read_published_events(tmp_path)
    run = folder(tmp_path, ["1,2"], header="example_id,sample_id")
    with pytest.raises(InputError, match="has no columns .'variant'"):
        read_published_events(run)
    with pytest.raises(InputError, match="problem 1 of the run is not in"):
        regrade(pd.DataFrame({"example_id": [1], "predicted_answer": ["7"]}), problem_file(tmp_path, ["7"]))


def test_the_sweeps_grader_is_right_only_where_golds_happen_to_agree(tmp_path):
    problems = problem_file(tmp_path, [str(i) for i in range(6)])
    # rows 0..11 belong to problems 0,0,1,1,..., and are graded as 0..5,0..5: rows 0 and 11 agree
    assert perfect_score_under_sweep_indexing(problems, examples=6, samples=2) == pytest.approx(2 / 12)


def test_a_perfect_model_scores_2_5_per_cent_in_the_published_sweeps(shared_data):
    assert perfect_score_under_sweep_indexing(shared_data / "gsm8k_200.jsonl") == 12 / 480


def test_a_design_effect_widens_the_interval():
    cell = SweepCell("late", 0.0, 480, 136, 7)
    narrow, wide = cell.interval(1.0), cell.interval(2.0)
    assert narrow == pytest.approx((0.245, 0.325), abs=0.001)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_the_sweeps_are_read_as_stored(shared_data):
    subset = read_published_sweep(shared_data / "published_runs" / PHASE2, "subset")
    assert [(c.subset, c.scale, c.backtracking) for c in subset][:2] == [
        ("baseline", 1.0, 304),
        ("mlp_27_only", 0.0, 136),
    ]
    scales = [c.scale for c in read_published_sweep(shared_data / "published_runs" / PHASE2, "scale")]
    assert scales == [0.0, 0.25, 0.5, 0.75, 0.9]


def test_regrading_agrees_with_the_labelled_answers(shared_data):
    """`grading_examples.csv` was labelled apart from this code, where no judgement is needed."""
    names = {"correct": "right", "wrong": "wrong", "none": "unparsed"}
    examples = pd.read_csv(shared_data / "grading_examples.csv", dtype=str)
    found = [grade(c, g).verdict for c, g in zip(examples["completion"], examples["gold"], strict=True)]
    assert [names[label] for label in examples["label"]] == found


def test_stored_verdicts_give_the_studys_direction_and_regraded_ones_take_it_away(replication):
    crude = replication.line("accuracy with minus without, crude")
    assert crude.published == pytest.approx(0.1224, abs=1e-4)
    assert crude.stored.low > 0
    assert crude.regraded.low < 0 < crude.regraded.high
    within = replication.line("accuracy with minus without, within problems, rows with a number only")
    assert within.regraded.high < 0
    assert replication.no_number_without > 2 * replication.no_number_with


def test_the_tables_numbers_are_those_of_the_file(replication, shared_data):
    raw = pd.read_csv(shared_data / "published_runs" / PHASE1 / "analysis" / "backtracking_events.csv")
    base = raw[raw["condition"] == "baseline"]
    line = replication.line("baseline backtracking rate").regraded
    expected = clustered_rate(base["has_backtracking_strict"].tolist(), base["example_id"].tolist())
    assert (line.value, line.low, line.high) == (expected.value, expected.low, expected.high)
    stored = replication.line("baseline accuracy").stored
    assert stored.value == pytest.approx((base["is_correct"].astype(str) == "True").mean())
    assert "baseline_think_newline and think_same_line" in replication.same_length_prompts
    assert not [c for c in replication.continuation_columns if "prob" in c or "logit" in c]


@pytest.mark.parametrize(
    ("ends", "word"), [((-0.1, 0.1), "not supported"), ((0.1, 0.2), "stands"), ((-0.2, -0.1), "reversed")]
)
def test_a_verdict_follows_from_the_interval(ends, word):
    assert verdict_on(0.12, Estimate(sum(ends) / 2, *ends, 100, 20)).startswith(word)


def test_the_note_shows_every_line_and_matches_the_committed_one(replication, tmp_path):
    note, table = write_note(replication, tmp_path)
    text = note.read_text()
    assert all(line.quantity in text for line in replication.lines)
    assert "scores 2.5 %" in text and "reversed" in text
    assert len(pd.read_csv(table)) == len(replication.lines)
    committed = Path(__file__).parents[2] / "data" / "replications" / "published_phase1.md"
    assert committed.read_text() == text, "run python benchmarks/replicate_published.py"
