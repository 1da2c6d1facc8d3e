"""Both phases on the embedded model: what they find, that a killed run ends the same, and the commands."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from backtracking.core.completions import Completion, Completions
from backtracking.core.errors import InputError
from backtracking.core.interventions import Condition, Scale
from backtracking.core.multiplicity import holm
from backtracking.core.sites import Site
from backtracking.core.turns import spread
from backtracking.experiments import phase1, phase2, published
from backtracking.experiments.config import Config, load_config
from backtracking.experiments.forking import FORK_SAMPLES, _within
from backtracking.experiments.opening import open_study, reopen
from backtracking.experiments.phases import run_phases
from backtracking.experiments.planning import plan
from backtracking.experiments.runs import RunFolder
from backtracking.experiments.selection import SelectedSites, save_selection, saved_selection, select
from backtracking.experiments.study import Study
from backtracking.faces.commands import app
from backtracking.faces.phase_findings import warnings
from backtracking.faces.phase_report import compose_phases, write_phase_report
from backtracking.measures.decision_points import DecisionPoint
from backtracking.measures.traces import measure_traces

TABLES = (
    "formatting", "decision_points", "logit_lens", "logit_attribution", "ablation_scan", "conditions",
    "paired_differences", "receipts", "self_check", "targeted_against_random", "baseline_metrics",
    "subset_sweep", "subset_sweep_paired", "subset_sweep_behaviour", "scale_sweep",
    "scale_sweep_paired", "tradeoff", "continuation_ablation", "forks", "fork_differences",
    "subset_sweep_flows", "scale_sweep_flows", "conditions_behaviour", "conditions_flows", "text_harm",
)  # fmt: skip


def config_in(folder, **changes) -> Config:
    content = {
        "run": {"name": "phases", "seed": 3, "output_dir": str(folder)},
        "model": {"hf_id": "organism", "device": "cpu"},
        "dataset": {"name": "organism", "max_examples": 24},
        "prompting": {
            "formatting_variants": [{"name": "a", "think_open": "<think>\n"}, {"name": "b", "think_open": ""}]
        },
        "generation": {"num_samples_per_prompt": 2, "max_new_tokens": 110, "batch_size": 256},
        "analysis": {"scan_heads": True, "topk_layers_for_generation": 1, "max_events": 30, "control_samples": 30},
        "phase2": {
            "scale_sweep": {"scales": [0, 0.5]},
            "continuation_ablation": {"max_events": 30, "fork_max_events": 8, "fork_samples": 1},
        },
    }
    return Config.model_validate(content | changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phases")
    return run_phases(config_in(folder / "runs"))


def tables(folder: RunFolder) -> dict[str, bytes]:
    found = {name: (folder.path / "tables" / f"{name}.csv").read_bytes() for name in TABLES}
    found["selected_sites"] = (folder.path / "tables" / "selected_sites.json").read_bytes()
    return found | {"events": pd.read_parquet(folder.path / "events.parquet").to_csv().encode()}


def test_the_scan_names_the_head_that_notices_errors_and_switching_it_off_removes_backtracking(finished):
    """The embedded model's known truth: attn.1.h0, planted when it was trained."""
    first, _ = finished
    assert first.selection.sites == (Site("attn", 1, 0),)
    row = next(row for row in first.comparison.paired if row.condition == "targeted_ablation")
    assert row.backtracking.high < 0
    baseline = first.comparison.row("baseline").backtracking.value
    assert baseline + row.backtracking.value < baseline / 2
    assert first.targeted is not None and first.targeted.draws == 20


def test_a_site_that_harms_ordinary_text_throughout_is_left_out_and_named(finished, tmp_path):
    """mlp.4 is significant, but switched off throughout it costs the organism most of its accuracy."""
    first, second = finished
    study, completions = first.study, phase1.generate(first.study)
    analysis = study.config.analysis.model_copy(update={"max_control_kl": None})
    shutil.copytree(study.folder.path, tmp_path / "free")
    config = study.config.model_copy(update={"analysis": analysis})
    free = replace(study, config=config, folder=RunFolder(tmp_path / "free"))
    found = select(free, first.scan, completions)
    assert "mlp.4" in {str(each.site) for each in found.left_out if each.where == "throughout"}
    assert Site("mlp", 4) not in found.sites and Site("attn", 1, 0) in found.sites
    (line,) = [line for line in found.lines() if line.startswith("left out for harm to ordinary text: ")]
    assert "mlp.4 (up to 0.1" in line

    strict = study.config.model_copy(
        update={"analysis": study.config.analysis.model_copy(update={"max_text_kl": 1e-9})}
    )
    none = select(replace(free, config=strict), first.scan, completions)
    assert none.significant == 0 and none.sites == (Site("attn", 1, 0),), "the strongest of those harmless at controls"
    assert (
        "of those that are so at the controls" in none.note and "where analysis.max_text_kl allows 1e-09" in none.note
    )

    table = study.folder.table("text_harm").set_index("condition")
    own = table.loc["targeted_ablation"]
    assert own["interventions"] == "attn.1.h0*0@decode" and own["text_kl_high"] < 0.003
    assert own["text_kl"] == pytest.approx(table.loc["attn.1.h0", "text_kl"])
    report = compose_phases(first, second)
    assert "Harm to ordinary text" in [grid.title for grid in report.grids]
    assert any("nats per token" in sentence for sentence in report.methods)
    for each in first.selection.left_out:
        assert str(each) in report.findings[0]


def test_without_a_limit_on_harm_sites_are_selected_by_the_scan_alone(finished, tmp_path):
    first, _ = finished
    analysis = first.study.config.analysis.model_copy(update={"max_text_kl": None, "max_control_kl": None})
    config = first.study.config.model_copy(update={"analysis": analysis})
    study = replace(first.study, config=config, folder=RunFolder(tmp_path / "null"))
    found = select(study, first.scan, Completions(()))
    expected = first.scan.select(1, quantity="trigger_log_prob", against_controls=True, min_change=analysis.min_change)
    assert found.left_out == () and set(found.sites) <= set(expected.sites) and Site("mlp", 0) in found.sites
    assert not (study.folder.path / "tables").exists()


def test_every_step_has_its_table_and_the_report_answers_four_questions(finished):
    first, second = finished
    for name in TABLES:
        assert len(first.study.folder.table(name)), name
    report = compose_phases(first, second)
    for answer, question in zip(
        report.findings, ("Where is it", "What removes", "At what cost", "How sure"), strict=True
    ):
        assert answer.startswith(question)
    assert "attn.1.h0" in report.findings[0]
    behaviour = first.study.folder.table("conditions_behaviour").set_index("condition")
    assert list(behaviour.index) == ["baseline", "targeted_ablation", "ban"]
    for arm in ("targeted_ablation", "ban"):
        silent, moved = (100 * behaviour.loc[arm, name] for name in ("silent_change", "silent_change_difference"))
        assert f"{silent:.1f} % ({moved:+.1f} [" in report.findings[1]
    assert "without any trigger word" in report.findings[1]
    scan = first.scan.to_pandas().set_index(["site", "quantity"]).loc[("attn.1.h0", "trigger_log_prob")]
    assert f"q against controls = {scan['difference_q']:.2g})" in report.findings[0]
    assert "of 36 sites (layers and their heads)" in report.findings[0]
    read, left = len(first.points.events), first.points.skipped.subsampled
    assert (f"{read} of {read + left} onsets were read" in report.findings[3]) == bool(left)
    headings = [heading for heading, _ in report.examples]
    assert [heading.split(",")[0] for heading in headings] == ["baseline", "targeted_ablation", "ban"]
    assert len({heading.split(":")[0].partition(",")[2] for heading in headings}) == 1, "one problem and sample"
    assert ": backtracks, " in headings[0]
    assert any(word in report.examples[0][1] for word in ("Wait", "Actually", "Hold on"))
    markdown, page = write_phase_report(first, second)
    text = page.read_text()
    assert all(grid.title in text for grid in report.grids)
    assert "http" not in markdown.read_text()
    assert (first.study.folder.path / "figures" / "ablation_scan.html").is_file()


def test_a_report_warns_of_a_ban_that_was_passed(finished):
    first, second = finished
    onset = next(row for row in first.onsets if row.condition == "baseline" and row.counts and row.strict)
    passed = replace(first, onsets=(replace(onset, condition="ban", onset_phrase="WAIT"),))
    (warning,) = set(warnings(passed, second)) - set(warnings(first, second))
    assert warning.startswith("ban: banned triggers count as backtracking in 1 of its completions ('WAIT')")


def test_controls_stand_beside_every_sweep(finished):
    _, second = finished
    for sweep, direction, matched in (
        (second.subsets, "random_direction", "subset: all_selected"),
        (second.scales, "random_direction: scale", "scale: 0"),
    ):
        assert sweep.matched == matched
        names = {row.condition for row in sweep.comparison.rows}
        assert {"baseline", "ban", direction} <= names
        ban = sweep.comparison.row("ban")
        assert ban.backtracking.value < sweep.comparison.row("baseline").backtracking.value
    arms = {row.arm for row in second.forks.comparison.rows}
    assert arms == {"resample", "ablated", "ban"}


def test_forks_are_ablated_at_the_decision_too(finished):
    """The arm is in force on all that was sampled, the position that predicts the cut token included."""
    _, second = finished
    study = second.study
    originals = {(c.problem_id, c.sample_id): c for c in phase1.generate(study)}
    forks = [c for c in study.folder.completions(phase1.FORKED) if c.condition == "fork: ablated"]
    assert forks
    for each in forks:
        original = originals[each.problem_id, each.sample_id - FORK_SAMPLES]
        decoded = len(each.prompt_ids) + len(each.ids) - len(original.prompt_ids)
        assert {receipt.positions for receipt in each.receipts} == {decoded - 1}
        assert each.prompt_tokens == len(original.prompt_ids)
    traces = measure_traces(study.model, forks[:2], lexicon=study.config.lexicon())  # their replay agrees with receipts
    assert [len(trace.token_log_prob) for trace in traces] == [len(each.ids) for each in forks[:2]]


def test_the_decision_is_really_measured(finished):
    """The chance of a trigger falls at onsets under the ablation, as a full forward pass says."""
    first, second = finished
    row = second.decisions.row("all_selected x0")
    assert row.log_odds_change.high < 0
    assert row.probability.value < second.decisions.row("baseline").probability.value
    point = first.points.events[0]
    model = first.study.model
    with model.intervening(["attn.1.h0*0@decode"], prompt_lengths=[point.prompt_tokens]):
        logits = model.logits(point.context)[0, -1].double()
    from backtracking.model.tokens import tokens_that_begin

    triggers = tokens_that_begin(model.tokenizer, first.study.config.lexicon().strict)
    expected = logits.softmax(-1)[list(triggers)].sum().item()
    frame = second.decisions.points
    here = frame[(frame["condition"] == "all_selected x0") & (frame["point"] == 0)]["probability"].item()
    assert here == pytest.approx(expected, rel=1e-3)


def test_a_killed_run_ends_in_the_same_tables(finished, tmp_path, monkeypatch):
    """Killed in phase 1, and again in phase 2."""
    config = config_in(tmp_path / "runs")
    save = Completions.save

    def dying(group):
        def die(self, path, **options):
            if path.name.startswith(group):
                raise KeyboardInterrupt
            save(self, path, **options)

        return die

    for group in ("random", "forks"):
        with monkeypatch.context() as patch:
            patch.setattr(Completions, "save", dying(group))
            with pytest.raises(KeyboardInterrupt):
                run_phases(config, resume=group == "forks")
    first, _ = run_phases(config, resume=True)
    assert len(list((tmp_path / "runs").glob("*/manifest.json"))) == 1
    assert tables(first.study.folder) == tables(finished[0].study.folder)


def test_every_arm_is_in_the_events_once(finished):
    """The ban is sampled once for all sweeps; forks continue other completions and are none of a problem."""
    folder = finished[0].study.folder
    events = pd.read_parquet(folder.path / "events.parquet")
    assert not events.duplicated(["example_id", "sample_id", "variant", "condition"]).any()
    arms = set(events["condition"])
    assert {"baseline", "targeted_ablation", "ban", "random_direction", "random_direction: scale"} <= arms
    assert not any(arm.startswith("fork") for arm in arms)
    assert sum(len(folder.completions(group)) for group in ("baseline.a", "ban")) == 2 * 48


def test_random_draws_are_no_hypotheses(finished):
    """Holm goes over the targeted ablation and the ban alone."""
    paired = {row.condition: row for row in finished[0].comparison.paired}
    two = [paired[name] for name in ("targeted_ablation", "ban")]
    assert [row.backtracking_p_holm for row in two] == pytest.approx(holm([row.backtracking_p for row in two]))
    drawn = [row for name, row in paired.items() if name.startswith("random_ablation_")]
    assert len(drawn) == 20 and np.isnan([row.backtracking_p_holm for row in drawn]).all()
    sites = {str(site) for site in finished[0].selection.sites}
    receipts = finished[0].study.folder.table("receipts")
    touched = receipts[receipts["condition"].str.startswith("random_ablation_")]["intervention"]
    assert not any(each.partition("*")[0] in sites for each in touched)


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0, -0.5, -3.0, 1.0])
def test_the_random_direction_is_as_long_as_what_a_factor_takes_away(factor, tmp_path, monkeypatch):
    """Of an activation of length 4; a receipt tells by how much its length changes."""
    name = str(Scale("mlp.1", factor, "decode"))
    table = pd.DataFrame({"intervention": [name], "mean_change": [4 * abs(factor) - 4]})
    monkeypatch.setattr(phase2, "receipts_table", lambda completions: table)
    study = Study(Config.model_validate({"phase2": {}}), RunFolder(tmp_path), (), lambda *_: None, None)
    ablated = Condition("x", [Scale("mlp.1", factor, "decode")])
    (added,) = phase2.direction_condition(study, Completions(()), ablated).interventions
    assert added.scale == pytest.approx(4 * abs(1 - factor))


def test_forks_are_spread_over_the_problems_and_have_no_more_tokens_than_their_originals():
    points = [point(problem, sample) for problem in range(6) for sample in range(4)]
    few = spread(points, 6, seed=0)
    assert sorted(each.problem_id for each in few) == list(range(6))
    assert spread(points, 6, seed=0) == few != spread(points, 6, seed=1)
    assert spread(points, 100, seed=0) == tuple(points)
    assert Counter(each.problem_id for each in spread(points, 15, seed=0)).most_common()[-1][1] == 2
    whole = Completion(0, 0, "a", "fork: ban", (1,), (5, 6, 7), "abcdef", "stop", (0, 2, 4))
    cut = _within(whole, 2)
    assert (cut.ids, cut.text, cut.offsets, cut.finish_reason) == ((5, 6), "abcd", (0, 2), "length")
    assert _within(whole, 3) == whole


def point(problem, sample) -> DecisionPoint:
    return DecisionPoint(problem, sample, "a", "event", 0, (1, 2), 1, 1, 9)


def test_a_step_with_another_config_says_so(finished, tmp_path):
    source = finished[0].study.folder.path
    shutil.copytree(source, tmp_path / "runs" / "mine")
    other = config_in(tmp_path / "runs", analysis={"accuracy_margin": 0.4}, detection={"triggers_relaxed": ["So"]})
    for config, said in ((config_in(tmp_path / "runs"), False), (other, True)):
        reopen(RunFolder(tmp_path / "runs" / "mine"), config).release()
        log = (tmp_path / "runs" / "mine" / "log.jsonl").read_text()
        assert ("analysis.accuracy_margin" in log and "detection.triggers_relaxed" in log) == said


def test_analyse_reads_a_run_as_its_config_says(finished, tmp_path):
    """Its triggers, variants and groups: the baseline has the rate of the run's own table."""
    folder = finished[0].study.folder
    done = CliRunner().invoke(app, ["analyse", str(folder.path), "--out", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    own = folder.table("conditions").set_index("condition")
    found = {row["condition"]: row for row in json.loads(done.stdout)["conditions"]["a"]}
    for arm in ("baseline", "ban", "targeted_ablation"):
        assert found[arm]["backtracking"] == pytest.approx(own.loc[arm, "backtracking"])
    assert len([name for name in found if name.startswith("random_ablation_")]) == 20
    paired = pd.read_csv(tmp_path / "tables" / "paired_differences_a.csv")
    assert "targeted_ablation" in set(paired["condition"])
    assert not paired["condition"].str.startswith("random_ablation_").any()
    assert paired["backtracking_p_holm"].tolist() == pytest.approx(holm(paired["backtracking_p"].tolist()))


def test_phase_2_runs_on_a_phase_1_whose_generations_are_gone(finished, tmp_path):
    source = finished[0].study.folder.path
    gone = tmp_path / "runs" / "phase1"
    shutil.copytree(source, gone)
    shutil.rmtree(gone / "completions")
    study = open_study(
        config_in(tmp_path / "runs", run={"name": "two", "seed": 3, "output_dir": str(tmp_path / "runs")})
    )
    save_selection(study, SelectedSites((Site("mlp", 1),), 1, 12, "its own"))
    notes = phase2.adopt(study, RunFolder(gone))
    assert notes[0].startswith("only the selected sites are taken over from phase1: baseline, metrics")
    assert notes[1].startswith("the generations of phase1 are gone; nothing here needs them")
    assert phase2.adopt(study, finished[0].study.folder)[1:] == ()
    assert phase2.selection_of(study).sites == finished[0].selection.sites
    assert saved_selection(study).sites == (Site("mlp", 1),)  # which a scan of its own may write at any time
    with pytest.raises(InputError, match=r"has no tables/selected_sites.json"):
        phase2.adopt(study, RunFolder(tmp_path / "absent"))


def test_the_seeds_commands_do_the_steps_one_by_one(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "config.yaml"
    content = config_in("runs").model_dump(mode="json")
    content["dataset"]["max_examples"] = 8
    content["analysis"] |= {"max_events": 6, "control_samples": 6, "scan_heads": False}
    content["ablation_generation"]["num_samples_per_prompt"] = 1
    file.write_text(yaml.safe_dump(content))
    runner = CliRunner()

    def run(*arguments: str) -> str:
        done = runner.invoke(app, [*arguments, "--config", str(file)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    run("init-run", "--run-id", "mine")
    assert (tmp_path / "runs" / ".current_run_id").read_text().strip() == "mine"
    assert "8 problems" in run("prepare-data")
    assert "16 completions of baseline" in run("generate", "--condition", "baseline", "--variant", "a")
    run("generate", "--variant", "b")
    lines = run("detect-events").splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == ["baseline, variant a", "baseline, variant b"]
    assert all("of 16 completions backtrack" in line for line in lines[:2]) and "32 completions" not in lines[2]
    rates = json.loads(run("detect-events", "--json"))["rates"]
    assert [(rate["condition"], rate["variant"], rate["completions"]) for rate in rates] == [
        ("baseline", "a", 16), ("baseline", "b", 16)
    ]  # fmt: skip
    assert lines[0].split()[3] == str(rates[0]["backtracking"])
    for command in ("logit-lens", "ablation-scan"):
        run(command)
    assert "16 completions" in run("generate", "--condition", "targeted_ablation").replace(
        "32 completions", "16 completions"
    )
    for command in ("compare-conditions", "formatting-sweep", "make-report", "metrics-v2", "phase2-subset-sweep"):
        run(command)
    run("phase2-scale-sweep", "--run-id", "mine")
    run("phase2-continuation-ablation", "--phase1-run-id", "mine")
    assert "report:" in run("make-report-phase2", "--phase1-run-id", "mine")
    assert (tmp_path / "runs" / "mine" / "report.html").is_file()
    assert "tokens/s (measured now" in run("plan")


def test_unknown_conditions_and_missing_steps_say_what_to_do(tmp_path):
    study = open_study(config_in(tmp_path / "runs"))
    with pytest.raises(InputError, match="has no selected sites; run: backtracking ablation-scan"):
        phase1.generate_condition(study, "targeted_ablation")
    with pytest.raises(InputError, match="has no completions yet; run: backtracking generate"):
        phase1.detect(study)
    (study.folder.path / "tables").mkdir()
    (study.folder.path / "tables" / "selected_sites.json").write_text(
        json.dumps({"sites": ["mlp.1"], "significant": 1, "tested": 12, "note": ""})
    )
    with pytest.raises(InputError, match="unknown condition 'x'; use baseline, targeted_ablation or random_ablation"):
        phase1.generate_condition(study, "x")


def test_a_plan_counts_before_anything_runs(tmp_path):
    rows = {"num_samples_per_prompt": 2, "max_new_tokens": 110, "batch_size": 64}
    found = plan(config_in(tmp_path / "runs", generation=rows), workers=4)
    by_name = {stage.name: stage for stage in found.stages}
    assert by_name["baseline, by variant"].completions == 2 * 24 * 2
    assert by_name["random ablations"].completions == 20 * 24 * 2
    assert found.tokens == sum(stage.completions for stage in found.stages) * 110
    assert found.rate > 0 and found.memory.rows == 48
    assert found.device_hours == pytest.approx(found.tokens / found.rate / 3600)
    assert found.seconds_on(1) == pytest.approx(found.seconds)
    # units of 64 rows at once and 4 rounds: the random ablations are 4, the subset sweep two, each other stage one
    many, subsets = by_name["random ablations"], by_name["subset sweep"]
    # a head, an attention layer and an MLP layer at most, both of attention, all, a random direction
    assert (many.completions, subsets.completions) == (960, 6 * 48)
    assert found.seconds_on(4) * found.rate == pytest.approx(
        found.tokens - many.tokens * 3 / 4 - subsets.tokens * 1 / 2
    )
    assert any("the most sites that the scan of this config can select, 3;" in line for line in found.lines())
    assert any("machine-hours (CPU)" in line for line in found.lines())
    with pytest.raises(InputError, match="workers is 0"):
        plan(config_in(tmp_path / "runs"), workers=0)
    assert not (tmp_path / "runs").exists()


def test_the_published_configs_load_unchanged(shared_data):
    for run in ("20251223_232541", "20251224_045331"):
        assert load_config(shared_data / "published_runs" / run / "config_resolved.yaml").run.run_id == run
    assert published.__doc__
