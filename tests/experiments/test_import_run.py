"""A published run folder becomes a run of ours: its own rates, regraded verdicts, and what it lacks said."""

import hashlib
import json
import math
import shutil

import pandas as pd
import pytest

from backtracking.core.errors import InputError
from backtracking.core.events import Event
from backtracking.core.statistics import clustered_rate
from backtracking.experiments.config import load_config
from backtracking.experiments.import_run import import_run
from backtracking.faces.import_report import write_import_report

PHASE1, PHASE2 = "20251223_232541", "20251224_045331"
HEADER = (
    "example_id,sample_id,variant,condition,has_backtracking_strict,has_backtracking_relaxed,onset_phrase,onset_char,"
    "onset_token_in_completion,onset_token_in_full,onset_token_id,onset_token_text,pred_pos_in_full,predicted_answer,"
    "is_correct,prompt_tokens,completion_tokens"
)
CONFIG = (
    "run: {name: small, run_id: '7'}\nmodel: {hf_id: us/tiny}\ndataset: {save_path: golds.jsonl}\n"
    "generation: {max_new_tokens: 512, num_samples_per_prompt: 2}\n"
)


def row(example, sample, condition, backtracks, answer, correct, *, variant="v", tokens=512):
    onset = "wait,5,2,12,9, wait,11" if backtracks else ",-1,-1,-1,-1,,-1"
    return f"{example},{sample},{variant},{condition},{backtracks},{backtracks},{onset},{answer},{correct},10,{tokens}"


ROWS = [
    row(0, 0, "baseline", True, "** \\(\\boxed{72}\\)", False),
    row(0, 1, "baseline", True, "72", True),
    row(1, 0, "baseline", False, "5", True, tokens=400),
    row(1, 1, "baseline", True, "**", False),
    row(0, 0, "targeted_ablation", False, "7", False),
    row(0, 1, "targeted_ablation", False, "", ""),
    row(1, 0, "targeted_ablation", False, "5", True),
    row(1, 1, "targeted_ablation", True, "6", False),
]


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A small folder of the published layout, and its problems in a data folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "small"
    (folder / "analysis").mkdir(parents=True)
    (folder / "config_resolved.yaml").write_text(CONFIG)
    (folder / "meta.json").write_text('{"run_id": "7", "timestamp": "2025-12-23T23:25:41"}')
    write(folder, ROWS)
    (tmp_path / "data").mkdir()
    golds = [{"id": 0, "question": "a", "gold": "72"}, {"id": 1, "question": "b", "gold": "5"}]
    (tmp_path / "data" / "golds.jsonl").write_text("\n".join(map(json.dumps, golds)))
    return folder


def write(folder, rows, header=HEADER):
    (folder / "analysis" / "backtracking_events.csv").write_text("\n".join([header, *rows]) + "\n")


def test_the_baselines_rate_is_that_of_the_file(shared_data, tmp_path):
    source = shared_data / "published_runs" / PHASE1
    found = import_run(source, out=tmp_path, problems=shared_data / "gsm8k_200.jsonl")
    raw = pd.read_csv(source / "analysis" / "backtracking_events.csv")
    base = raw[raw["condition"] == "baseline"]
    for rows, arm in ((base, found.arms[0]), (base[base["variant"] == "baseline_think_newline"], found.arms[1])):
        expected = clustered_rate(rows["has_backtracking_strict"].tolist(), rows["example_id"].tolist())
        assert arm.backtracking == expected
        assert arm.stored_accuracy.value == pytest.approx((rows["is_correct"].astype(str) == "True").mean())
        assert arm.right.low < arm.right.value < arm.right.high
        assert arm.right.value > arm.stored_accuracy.high  # the study's extractor loses boxed answers
    assert len(pd.read_parquet(found.folder.path / "events.parquet")) == len(raw)
    assert [round(arm.published_backtracking, 3) for arm in found.arms[1:]] == [0.708, 0.028, 0.549, 0.682, 0.653]
    assert [pair.condition for pair in found.pairs] == ["targeted_ablation", "random_ablation"]
    assert any("2010 of the 6000 completions" in line for line in found.missing)
    assert load_config(found.folder.path / "config.yaml") == load_config(source / "config_resolved.yaml")
    _, page = write_import_report(found)
    text = page.read_text()
    assert found.arms[0].backtracking.percent() in text and found.arms[0].right.percent() in text
    assert page.with_name("figures").joinpath("rates_by_condition.html").is_file()


def test_the_sweeps_keep_their_counts_and_lose_their_accuracy(shared_data, tmp_path):
    found = import_run(shared_data / "published_runs" / PHASE2, out=tmp_path)
    cell = found.cells[0]
    assert (cell.subset, cell.completions, cell.backtracking.value) == ("baseline", 480, 304 / 480)
    assert cell.backtracking.high - cell.backtracking.low > 0.17  # 120 problems, not 480 completions
    assert any("graded against other problems' answers" in line for line in found.missing)
    assert found.arms == () and not (found.folder.path / "events.parquet").exists()
    assert "mlp_late_cluster" in write_import_report(found)[0].read_text()


def test_stored_answers_are_read_anew_and_what_is_unknown_is_missing(published):
    found = import_run(published)
    events = pd.read_parquet(found.folder.path / "events.parquet")
    assert list(events.columns[: len(Event.__annotations__)]) == list(Event.__annotations__)
    assert events["verdict"].tolist() == [
        "right", "right", "right", "unparsed", "wrong", "unparsed", "right", "wrong"
    ]  # fmt: skip
    assert events["stored_correct"].isna().tolist() == [False] * 5 + [True] + [False] * 2
    for name in ("finish_reason", "degenerate", "onset_index", "in_think", "completion_tokens"):
        assert events[name].isna().all(), name
    assert events["onset_char"].isna().tolist() == [False, False, True, False, True, True, True, False]
    assert events["at_cap"].tolist() == [True, True, False] + [True] * 5
    baseline, targeted = found.arms
    assert (baseline.stored_accuracy.value, baseline.right.value, baseline.unparsed.value) == (0.5, 0.75, 0.25)
    assert (targeted.stored_accuracy.value, targeted.right.value) == (0.25, 0.25)
    (pair,) = found.pairs
    assert (pair.pairs, pair.backtracking.value, pair.accuracy.value) == (4, -0.5, -0.5)


def test_the_manifest_names_the_source_and_its_hashes(published):
    found = import_run(published)
    manifest = found.folder.manifest()
    assert manifest["imported"] is True and manifest["status"] == "finished"
    digest = hashlib.sha256((published / "meta.json").read_bytes()).hexdigest()
    assert manifest["source"]["sha256"]["meta.json"] == digest
    assert manifest["source"]["meta"]["run_id"] == "7"
    assert manifest["missing"] == list(found.missing)


def test_rows_of_unknown_problems_are_kept_without_a_verdict_and_counted(published):
    write(published, [*ROWS, row(9, 0, "baseline", True, "3", True), row(9, 0, "targeted_ablation", False, "3", True)])
    found = import_run(published)
    assert (found.arms[0].completions, found.arms[0].regraded) == (5, 4)
    assert found.arms[0].backtracking.value == 0.8
    assert found.arms[0].right.value == 0.75
    assert any("2 of 10 rows belong to problems that are not at hand" in line for line in found.missing)
    assert "4 of 5" in write_import_report(found)[0].read_text()


def test_without_any_known_problem_nothing_is_regraded(published):
    (published.parent / "data" / "golds.jsonl").write_text('{"id": 50, "question": "x", "gold": "1"}')
    found = import_run(published)
    assert math.isnan(found.arms[0].right.value)
    assert "unknown regraded" in write_import_report(found)[0].read_text()


def test_arms_that_hold_other_samples_are_not_paired_and_it_is_said(published):
    write(published, ROWS[:-1])
    found = import_run(published)
    assert found.pairs == ()
    assert any(line.startswith("targeted_ablation (v) is not paired") for line in found.missing)


def test_other_problems_are_noticed(published):
    golds = [{"id": 0, "question": "a", "gold": "1"}, {"id": 1, "question": "b", "gold": "2"}]
    (published.parent / "data" / "golds.jsonl").write_text("\n".join(map(json.dumps, golds)))
    with pytest.raises(InputError, match="only 0 % of the rows that small calls right .* --problems"):
        import_run(published)


def test_a_damaged_sweep_is_one_clear_line(published):
    (published / "analysis" / "backtracking_events.csv").unlink()
    sweep = published / "analysis" / "subset_sweep_results.csv"
    for content, message in {
        "subset_name,total\na,1\n": "has no columns .*'num_components'",
        "subset_name,num_components,total,backtracking_count,correct_count\na,1,4,x,1\n": "a count or a scale",
        "subset_name,num_components,total,backtracking_count,correct_count\na,1,4\n": "a count or a scale",
    }.items():
        sweep.write_text(content)
        with pytest.raises(InputError, match=message):
            import_run(published)
    sweep.write_text("subset_name,num_components,total,backtracking_count,correct_count\na,1,4,2,1\n")
    assert import_run(published).cells[0].backtracking.value == 0.5


def test_problems_beside_the_run_are_found_from_anywhere(published, monkeypatch):
    (published.parent / "data" / "golds.jsonl").rename(published.parent / "golds.jsonl")
    (published / "elsewhere").mkdir()
    monkeypatch.chdir(published / "elsewhere")
    assert import_run(str(published), out="runs").arms


def test_a_second_import_is_refused_and_leaves_the_first(published):
    first = import_run(published)
    before = (first.folder.path / "manifest.json").read_bytes()
    with pytest.raises(InputError, match="is imported already"):
        import_run(published)
    assert (first.folder.path / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: shutil.rmtree(f), "no folder"),
        (lambda f: (f / "config_resolved.yaml").unlink(), "holds no config_resolved.yaml"),
        (lambda f: (f / "meta.json").unlink(), "holds no meta.json"),
        (lambda f: (f / "meta.json").write_text("{"), "meta.json is damaged"),
        (lambda f: (f / "meta.json").write_text("[]"), "meta.json is damaged"),
        (lambda f: (f / "analysis" / "backtracking_events.csv").unlink(), "nothing to import"),
        (lambda f: (f.parent / "data" / "golds.jsonl").unlink(), "give the file with --problems"),
        (lambda f: write(f, ["1,2"], header="example_id,sample_id"), "has no columns"),
        (lambda f: write(f, [ROWS[0], "1,0,v,base"]), "damaged: .*has_backtracking_strict"),
        (lambda f: write(f, [ROWS[0], ROWS[1].replace(",10,512", ",10")]), "line 3 has no completion_tokens"),
        (lambda f: write(f, [ROWS[0].replace(",10,512", ",ten,512")]), "prompt_tokens holds what is no Int64"),
        (lambda f: write(f, [ROWS[0], ROWS[0]]), "line 3 repeats a sample"),
        (lambda f: write(f, ['"an open quote']), "damaged"),
        (lambda f: (f / "analysis" / "backtracking_events.csv").write_bytes(b""), "damaged"),
        (
            lambda f: (f / "analysis" / "backtracking_events.csv").write_bytes(b"\xff\xfe\x00,\x81"),
            "damaged|no columns",
        ),
        (lambda f: (f / "analysis" / "condition_comparison.csv").write_text("a,b\n1,2\n"), "condition_comparison.csv"),
    ],
)
def test_a_damaged_folder_is_one_clear_line_and_leaves_no_run(published, damage, message):
    damage(published)
    with pytest.raises(InputError, match=message) as caught:
        import_run(published)
    assert "\n" not in str(caught.value)
    assert not list((published.parent / "runs").glob("*/manifest.json"))
