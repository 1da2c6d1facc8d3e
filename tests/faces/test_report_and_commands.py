"""Report and command line: what a person sees, and that bad input is one line and status 2."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from backtracking.core.completions import Completions
from backtracking.core.events import OnsetRow
from backtracking.core.interventions import BASELINE, Ban, Condition
from backtracking.core.onsets import Lexicon, find_onsets
from backtracking.experiments.comparison import run_comparison
from backtracking.experiments.config import Config
from backtracking.faces.comparison_report import compose
from backtracking.faces.figures import rates_by_condition
from backtracking.faces.report import write_report
from backtracking.faces.report_content import ban_warnings
from tests.commands import command, forked

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_folder):
    """A working folder with problems and a config for the tiny model."""
    path = tmp_path_factory.mktemp("work")
    lines = [json.dumps({"id": i, "question": f"a {'b ' * i}c", "gold": str(i)}) for i in range(4)]
    (path / "problems.jsonl").write_text("\n".join(lines))
    config = {
        "run": {"name": "tiny <b>", "output_dir": "runs"},
        "model": {"hf_id": str(tiny_folder), "device": "cpu"},
        "dataset": {"name": "problems.jsonl"},
        "prompting": {"template": "{question}"},
        "generation": {"num_samples_per_prompt": 3, "max_new_tokens": 6, "batch_size": 6, "temperature": 2.0},
        "conditions": {"mlp|off": ["mlp.1*0@decode"]},
    }
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def result(folder):
    config = Config.model_validate(yaml.safe_load((folder / "config.yaml").read_text()))
    outside = config.run.model_copy(update={"output_dir": str(folder / "api-runs")})
    data = config.dataset.model_copy(update={"name": str(folder / "problems.jsonl")})
    return run_comparison(config.model_copy(update={"run": outside, "dataset": data}))


def test_a_banned_trigger_that_is_written_all_the_same_is_warned_of(result):
    """Of the other triggers, of other arms and of uses that do not count there is no word."""
    text = "Wait, WAIT. A mistake."
    found = find_onsets(text, lexicon=Lexicon())
    rows = tuple(
        OnsetRow(1, 0, "v", arm, o.index, o.marker, o.phrase, o.char, 0, 0, 0, "", 0, o.strict, False, o.context, True)
        for arm in ("baseline", "mlp|off") for o in found[1:]
    )  # fmt: skip
    banned = Condition("mlp|off", [Ban(["wait", "Hold on"])])
    (warning,) = ban_warnings([BASELINE, banned], rows)
    assert warning.startswith("mlp|off: banned triggers count as backtracking in 1 of its completions ('WAIT')")
    uncounted = [replace(row, counts=False) for row in rows]
    assert ban_warnings([BASELINE, banned], uncounted) == ()
    report = compose(replace(result, conditions=(BASELINE, banned), onsets=rows))
    assert warning in report.warnings and not any("banned" in each for each in compose(result).warnings)


def test_the_report_is_one_file_without_network(result):
    markdown, page = write_report(result)
    text = page.read_text()
    outside = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", outside)
    assert page.stat().st_size < 6_000_000
    assert "tiny &lt;b&gt;" in outside
    assert "tiny <b>" not in outside
    for grid in ("Conditions", "Against the baseline", "Receipts", "Self-check", "Provenance", "Triggers found"):
        assert grid in outside
        assert f"## {grid}" in markdown.read_text()
    assert (result.folder.path / "figures" / "rates_by_condition.html").is_file()


def test_what_a_model_writes_is_shown_as_text(result):
    from dataclasses import replace

    evil = '<script>alert(1)</script> | ☃ \u202e {{ 7 * 7 }} "quoted"'
    rows = Completions(replace(row, text=evil) for row in result.completions)
    _, page = write_report(replace(result, completions=rows))
    text = page.read_text()
    assert "<script>alert(1)" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "{{ 7 * 7 }}" in text


def test_tables_in_markdown_have_as_many_cells_as_headings(result):
    markdown, _ = write_report(result)
    for block in re.findall(r"(?:^\|.*\n)+", markdown.read_text(), flags=re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block


def test_the_figure_shows_every_condition_with_its_interval(result):
    figure = rates_by_condition(result.comparison)
    backtracking, right = figure.data
    for trace, share in ((backtracking, "backtracking"), (right, "right")):
        for index, row in enumerate(result.comparison.rows):
            estimate = getattr(row, share)
            assert trace.x[index] == pytest.approx(100 * estimate.value)
            assert trace.x[index] + trace.error_x.array[index] == pytest.approx(100 * estimate.high)
            assert trace.x[index] - trace.error_x.arrayminus[index] == pytest.approx(100 * estimate.low)
    assert "n = 12 completions of 4 problems" in figure.layout.title.text


def test_the_command_runs_and_names_its_report(folder):
    done = command(folder, "run", "--config", "config.yaml")
    assert done.returncode == 0, done.stderr
    report = re.search(r"report: (\S+)", done.stdout)
    assert report is not None
    assert (folder / report[1]).is_file()
    assert "baseline" in done.stdout
    quiet = forked(folder, "run", "--config", "config.yaml", "--quiet")
    assert quiet.stdout.startswith("report: ")
    assert quiet.stderr == ""


def test_a_config_says_whether_there_is_a_report_and_where_its_copy_goes(folder):
    content = yaml.safe_load((folder / "config.yaml").read_text())
    for name, report in (("none", {"make_report": False}), ("copy", {"report_path": "copies/here.md"})):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content | {"report": report}))
    none = forked(folder, "run", "--config", "none.yaml", "--json")
    run = Path(json.loads(none.stdout)["folder"])
    assert json.loads(none.stdout)["report"] is None
    assert (folder / run / "tables" / "conditions.csv").is_file()
    assert not (folder / run / "report.html").exists()
    copied = json.loads(forked(folder, "run", "--config", "copy.yaml", "--json").stdout)
    own = (folder / copied["folder"] / "report.md").read_text()
    assert (folder / "copies" / "here.md").read_text() == own


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conditions": {"x": ["mlp.9*0"]}}, "mlp.9 is out of range"),
        ({"conditions": {"x": ["mpl.1*0"]}}, "cannot read the site 'mpl.1'"),
        ({"generation": {"max_new_token": 5}}, "did you mean 'max_new_tokens'?"),
        ({"generation": {"max_new_tokens": 5000}}, "overflows the context"),
        ({"dataset": {"name": "absent.jsonl"}}, "no problem file at absent.jsonl"),
        ({"dataset": {"name": "empty.jsonl"}}, "the problem set is empty"),
        ({"model": {"hf_id": "./absent"}}, "no model './absent'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(folder, change, message):
    (folder / "empty.jsonl").write_text("")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config |= {key: config.get(key, {}) | value if key != "conditions" else value for key, value in change.items()}
    (folder / "bad.yaml").write_text(yaml.safe_dump(config))
    done = forked(folder, "run", "--config", "bad.yaml")
    assert done.returncode == 2
    assert message in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.strip() and "loading" not in line]) == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_config_and_a_wrong_command_are_status_2(folder):
    done = command(folder, "run", "--config", "absent.yaml")
    assert done.returncode == 2
    assert re.fullmatch(r"backtracking: no config file at absent.yaml; . has .*config.yaml.*\n", done.stderr)
    assert forked(folder, "rnu").returncode == 2


def test_an_interrupted_run_says_so_and_continues(folder):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["run"]["output_dir"] = "interrupted"
    config["generation"] |= {"num_samples_per_prompt": 10, "max_new_tokens": 60, "batch_size": 8}
    (folder / "long.yaml").write_text(yaml.safe_dump(config))
    process = subprocess.Popen(
        [sys.executable, "-m", "backtracking.cli", "run", "--config", "long.yaml"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(folder.glob("interrupted/*/completions/*.parquet")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "the same command continues" in stderr
    assert "Traceback" not in stderr
    done = forked(folder, "run", "--config", "long.yaml", "--resume", "--quiet")
    assert done.returncode == 0, done.stderr
    assert len(list((folder / "interrupted").glob("*/manifest.json"))) == 1


def test_doctor_looks_and_shows_no_token(folder):
    token = "hf_" + "a1B2" * 9
    done = command(folder, "doctor", "--json", env=os.environ | {"HF_TOKEN": token})
    findings = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert findings["HF_TOKEN"]["value"] == "present"
    assert findings["torch"]["verdict"] == "ok"
    assert token not in done.stdout + done.stderr


def test_smoke_tries_every_part(folder, tiny_folder):
    done = command(folder, "smoke", "--model", tiny_folder, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "tokens sampled" in done.stdout
    assert forked(folder, "smoke", "--model", "./absent").returncode == 2
