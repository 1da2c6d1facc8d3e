"""The main job on a tiny model: what it leaves behind, and that a killed run ends the same."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from backtracking.core.completions import Completions
from backtracking.core.errors import InputError
from backtracking.experiments import executors as job
from backtracking.experiments import opening
from backtracking.experiments.comparison import run_comparison
from backtracking.experiments.config import Config
from backtracking.experiments.opening import open_study, working
from backtracking.experiments.run_list import current_run, make_current
from backtracking.experiments.runs import RunFolder
from backtracking.model.sampling import shares

TABLES = ("conditions", "paired_differences", "receipts", "self_check")


@pytest.fixture
def config(tmp_path, tiny_folder):
    lines = [json.dumps({"id": i, "question": f"a {'b ' * i}c", "gold": str(i)}) for i in range(4)]
    (tmp_path / "problems.jsonl").write_text("\n".join(lines))
    return Config.model_validate(
        {
            "run": {"name": "tiny", "seed": 3, "output_dir": str(tmp_path / "runs")},
            "model": {"hf_id": str(tiny_folder), "device": "cpu"},
            "dataset": {"name": str(tmp_path / "problems.jsonl")},
            "prompting": {"template": "{question}"},
            "generation": {"num_samples_per_prompt": 3, "max_new_tokens": 6, "batch_size": 2, "temperature": 2.0},
            "conditions": {"mlp off": ["mlp.1*0@decode"], "no wait": ["ban(Wait)"]},
        }
    )


def tables(folder) -> dict[str, str]:
    found = {name: (folder.path / "tables" / f"{name}.csv").read_text() for name in TABLES}
    return found | {name: pd.read_parquet(folder.path / f"{name}.parquet").to_csv() for name in ("events", "onsets")}


def test_a_run_leaves_everything_behind(config):
    result = run_comparison(config)
    path = result.folder.path
    assert len(result.completions) == len(result.events) == 4 * 3 * 3
    assert len(list((path / "completions").iterdir())) == 5
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["canary"]["gold_right"] == 1.0
    for key in ("config_hash", "weights_hash", "seed", "versions", "device", "model", "architecture"):
        assert manifest[key] is not None, key
    assert Config.model_validate(yaml.safe_load((path / "config.yaml").read_text())) == config
    assert current_run(config.run.output_dir).run_id == result.folder.run_id
    frame = pd.read_csv(path / "tables" / "conditions.csv")
    assert list(frame["condition"]) == ["baseline", "mlp off", "no wait"]
    shares = frame[["right", "wrong", "unparsed", "truncated"]].sum(axis=1)
    assert shares.tolist() == pytest.approx([1, 1, 1])
    assert (frame["backtracking_low"] <= frame["backtracking"]).all()
    receipts = pd.read_csv(path / "tables" / "receipts.csv")
    sampled = sum(len(c.ids) for c in result.completions.of("mlp off"))
    assert receipts.set_index("intervention").loc["mlp.1*0@decode", "positions"] == sampled - 12


def test_a_run_killed_between_units_ends_in_the_same_tables(config, monkeypatch, tmp_path):
    whole = run_comparison(config)
    other = config.model_copy(update={"run": config.run.model_copy(update={"output_dir": str(tmp_path / "other")})})
    saved = Completions.save
    count = iter(range(100))

    def dying(self, path, **options):
        if next(count) == 2:
            raise KeyboardInterrupt
        saved(self, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Completions, "save", dying)
        with pytest.raises(KeyboardInterrupt):
            run_comparison(other)
    unfinished = current_run(tmp_path / "other")
    assert unfinished.manifest()["status"] == "started"
    assert len(list((unfinished.path / "completions").glob("*.parquet"))) == 2
    sampled = []
    kept = job.sample_units
    monkeypatch.setattr(job, "sample_units", lambda *a, **k: sampled.append(1) or kept(*a, **k))
    resumed = run_comparison(other, resume=True)
    assert resumed.folder.run_id == unfinished.run_id
    assert len(sampled) == 3, "only the missing units are sampled"
    assert tables(resumed.folder) == tables(whole.folder)
    assert [c.ids for c in resumed.completions] == [c.ids for c in whole.completions]


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked under Linux only")
def test_a_run_begun_by_two_processes_ends_in_the_same_tables_in_one_also_without_its_manifest(
    config, monkeypatch, tmp_path
):
    more = {"num_samples_per_prompt": 30, "max_new_tokens": 24, "batch_size": 64}
    config = config.model_copy(update={"generation": config.generation.model_copy(update=more)})
    other = config.model_copy(update={"run": config.run.model_copy(update={"output_dir": str(tmp_path / "other")})})
    forked, run_all = [], shares._run_all
    monkeypatch.setattr(shares, "_run_all", lambda *a: forked.append(1) or run_all(*a))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 2)
        whole = run_comparison(config)
        assert len(forked) == 2 and whole.folder.manifest()["shares"] == {"arms": 2}
        saved, done = Completions.save, []

        def dying(self, path, **options):
            if done:
                raise KeyboardInterrupt
            done.append(path)
            saved(self, path, **options)

        patch.setattr(Completions, "save", dying)
        with pytest.raises(KeyboardInterrupt):
            run_comparison(other)
    assert len(forked) == 4
    (current_run(tmp_path / "other").path / "manifest.json").unlink()
    resumed = run_comparison(other, resume=True)
    assert len(forked) == 4, "with one thread the shares are decoded in turn"
    assert resumed.folder.manifest()["shares"] == {"arms": 2}
    assert tables(resumed.folder) == tables(whole.folder)
    assert [c.ids for c in resumed.completions] == [c.ids for c in whole.completions]


def test_a_finished_run_is_not_continued_but_followed_by_a_new_one(config):
    one, two = run_comparison(config), run_comparison(config)
    assert one.folder.run_id != two.folder.run_id
    with pytest.raises(InputError, match="no unfinished run"):
        run_comparison(config, resume=True)


def test_a_named_run_refuses_another_config(config):
    named = config.model_copy(update={"run": config.run.model_copy(update={"run_id": "mine"})})
    assert run_comparison(named).folder.run_id == "mine"
    changed = named.model_copy(update={"generation": named.generation.model_copy(update={"top_p": 0.5})})
    with pytest.raises(InputError, match="the run mine was made with another config"):
        run_comparison(changed)


def test_of_two_that_begin_at_once_a_given_name_lets_one(config, monkeypatch):
    named = config.model_copy(update={"run": config.run.model_copy(update={"run_id": "mine"})})
    begun = [open_study(given) for given in (config, named)]
    monkeypatch.setattr(opening, "open_run", lambda *given, **options: None)  # as before the first has its folder
    second = open_study(config)
    assert second.folder.path not in [study.folder.path for study in begun]
    with pytest.raises(InputError, match="mine has just been begun by another process; run the command again"):
        open_study(named)


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("model", "hf_id", "orgnism", "did you mean 'organism'"),
        ("generation", "max_new_tokens", 5000, "lower max_new_tokens to"),
        ("generation", "variant", "nope", "nope"),
    ],
)
def test_a_run_that_is_refused_leaves_nothing_behind(config, section, key, value, said):
    one = run_comparison(config)
    wrong = config.model_copy(update={section: getattr(config, section).model_copy(update={key: value})})
    runs = one.folder.path.parent
    with pytest.raises(InputError, match=said):
        run_comparison(wrong)
    assert [path for path in runs.iterdir() if path.is_dir()] == [one.folder.path]
    assert current_run(runs).run_id == one.folder.run_id


def test_a_run_refused_where_there_was_none_leaves_no_current_one(config):
    wrong = config.model_copy(update={"conditions": {"x": ("mlp.99*0",)}})
    with pytest.raises(InputError, match=r"mlp\.99 is out of range"):
        run_comparison(wrong)
    assert not list(Path(config.run.output_dir).iterdir())


def test_a_folder_that_was_there_and_empty_is_taken_back_too_and_two_at_once_leave_the_run_that_exists(config):
    one = run_comparison(config)
    runs = one.folder.path.parent
    (runs / "mine").mkdir()
    named = config.model_copy(update={"run": config.run.model_copy(update={"run_id": "mine"})})
    with pytest.raises(InputError, match="the first"), working(named):
        other = config.model_copy(update={"run": config.run.model_copy(update={"seed": 9})})
        with pytest.raises(InputError, match="the second"), working(other):
            (runs / ".current_run_id").unlink()
            raise InputError("the second")
        raise InputError("the first")
    assert [path for path in runs.iterdir() if path.is_dir()] == [one.folder.path]
    with pytest.raises(InputError, match="the second"), working(named):
        with pytest.raises(InputError, match="the first"), working(other):
            make_current(RunFolder(runs / "mine"))
            raise InputError("the first")
        assert current_run(runs).run_id == "mine"
        raise InputError("the second")
    assert current_run(runs).run_id == one.folder.run_id


def test_a_place_no_report_can_have_is_refused_before_anything_is_sampled(config, tmp_path):
    (tmp_path / "file").write_text("")
    for path, said in ((tmp_path, "is a folder; name a file in it"), (tmp_path / "file" / "x.md", "cannot write")):
        report = config.report.model_copy(update={"report_path": str(path)})
        with pytest.raises(InputError, match=said):
            run_comparison(config.model_copy(update={"report": report}))
    assert not (tmp_path / "runs").exists()


def test_a_run_begun_before_is_kept_when_it_is_refused(config):
    named = config.model_copy(update={"run": config.run.model_copy(update={"run_id": "mine"})})
    begun = open_study(named)
    begun.release()
    (begun.folder.path / "notes.md").write_text("mine")
    wrong = named.model_copy(update={"generation": named.generation.model_copy(update={"top_p": 0.5})})
    with pytest.raises(InputError, match="made with another config"):
        run_comparison(wrong)
    assert (begun.folder.path / "notes.md").is_file()


def test_another_runs_damaged_manifest_is_not_in_the_way(config):
    one = run_comparison(config)
    (one.folder.path / "manifest.json").write_text("{")
    two = run_comparison(config)
    assert two.folder.run_id != one.folder.run_id
    with pytest.raises(InputError, match="is damaged"):
        one.folder.manifest()


def test_a_damaged_part_is_set_aside_and_sampled_again(config):
    named = config.model_copy(update={"run": config.run.model_copy(update={"run_id": "mine"})})
    whole = run_comparison(named)
    before, part = tables(whole.folder), whole.folder.part(1, "arms")
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(InputError, match=r"arms-00001.parquet is damaged.*run the command that sampled it again"):
        whole.folder.completions()
    again = run_comparison(named)
    assert tables(again.folder) == before
    assert part.with_name("arms-00001.parquet.damaged").stat().st_size == 100
    part.unlink()
    assert len(run_comparison(named).completions) == 36


def test_an_output_folder_that_cannot_be_made_is_named(config, tmp_path):
    (tmp_path / "file").write_text("")
    blocked = config.model_copy(update={"run": config.run.model_copy(update={"output_dir": str(tmp_path / "file")})})
    with pytest.raises(
        InputError, match="cannot write .*file.*: Not a directory; make room or give the right to write there"
    ):
        run_comparison(blocked)


def test_progress_reaches_its_end(config):
    seen = {}
    run_comparison(config, progress=lambda task, done, total: seen.update({task: (done, total)}))
    assert seen == {"loading the model": (1, 1), "sampling arms": (36, 36)}


def test_the_canary_catches_a_grader_that_meets_the_wrong_problem(config, monkeypatch):
    """The published bug: gold answers looked up under the wrong index."""
    from backtracking.core import canary

    right = canary.grade
    monkeypatch.setattr(canary, "grade", lambda text, gold, **options: right(text, str(int(gold) + 1), **options))
    with pytest.raises(canary.AlignmentError):
        run_comparison(config)


def test_a_receipt_that_disagrees_stops_the_run(config, monkeypatch):
    from backtracking.core.errors import ReceiptError
    from backtracking.model.sampling import edits

    monkeypatch.setattr(edits.Edits, "_act", lambda self, place, activation: activation)
    with pytest.raises(ReceiptError, match=r"mlp.1\*0@decode touched 0 positions"):
        run_comparison(config)
