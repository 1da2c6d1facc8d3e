"""Two hundred secrets planted over every place a secret could leave by: none gets through."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest
import yaml

from backtracking.core.problems import Problem
from backtracking.experiments import opening, run_problems
from backtracking.experiments.config import Config
from backtracking.experiments.runs import RunFolder
from backtracking.faces.report import write_pages
from backtracking.faces.report_content import Grid, Report
from backtracking.workspace.guarded import HiddenSecretWarning
from backtracking.workspace.secrets import SecretError
from backtracking.workspace.snapshot import snapshot_run
from tests.workspace.planted import planted

ROOT = Path(__file__).parents[2]
PLACES = 9
KINDS = len(list(planted(0)))


def test_there_are_two_hundred():
    assert PLACES * KINDS >= 200


def everything(folder: Path) -> str:
    """All that the files hold, read without the guard's help."""
    texts = []
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".parquet":
            texts.append(json.dumps(pd.read_parquet(path).to_dict("list"), ensure_ascii=False, default=str))
        elif path.is_file():
            texts.append(path.read_text(encoding="utf-8"))
    whole = "\n".join(texts)
    for _ in range(2):  # what is escaped in the file is read as a person would
        try:
            whole += "\n" + whole.encode("ascii", "backslashreplace").decode("unicode_escape")
        except UnicodeDecodeError:
            break
    return whole + whole.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">").replace("\\/", "/")


def none_in(folder: Path, seed: int) -> None:
    text = everything(folder)
    assert "[hidden: " in text
    assert [secret.kind for secret in planted(seed) if secret.value in text] == []


def test_manifest_and_log(project):
    folder = RunFolder(project / "runs" / "one")
    with pytest.warns(HiddenSecretWarning, match="secrets hidden in manifest.json"):
        for number, secret in enumerate(planted(1)):
            folder.write_manifest(config_hash="0", **{f"note{number}": secret.text})
    for secret in planted(2):
        folder.log("failed", error=f"could not: {secret.text}")
    assert set(folder.manifest()) == {"config_hash", *(f"note{n}" for n in range(KINDS))}, "it is still JSON"
    lines = (folder.path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["failed"] * KINDS
    none_in(project / "runs", 1)
    none_in(project / "runs", 2)


def test_tables(project):
    folder = RunFolder(project / "runs" / "one")
    frame = pd.DataFrame({"n": range(KINDS), "text": [secret.text for secret in planted(3)], "none": None})
    with pytest.warns(HiddenSecretWarning, match=r"secrets hidden in (t.csv|events.parquet): .*1 hf token"):
        folder.save_table("t", frame)
        folder.save_parquet("events", frame)
    assert frame["text"].tolist() == [secret.text for secret in planted(3)], "the caller's table is as it was"
    back = pd.read_csv(folder.path / "tables" / "t.csv")
    assert back["n"].tolist() == list(range(KINDS)) and back["text"].str.contains("hidden: ").all()
    assert pd.read_parquet(folder.path / "events.parquet")["text"].str.contains("hidden: ").all()
    none_in(project / "runs", 3)


def test_report_and_figures(project):
    texts = [secret.text for secret in planted(4)]
    rows = tuple((str(number), text) for number, text in enumerate(texts))
    grids = (Grid("Table", "A note.", ("n", "text"), rows),)
    examples = tuple((f"example {number}", text) for number, text in enumerate(texts))
    layout = {"title": {"text": texts[5]}, "height": 300, "margin": {"t": 40}}
    layout["meta"] = {"title": texts[5], "caption": texts[6]}
    figure = go.Figure(go.Scatter(x=[1, 2], y=[1, 2], text=texts[:2], hovertext=texts), layout=layout)
    with pytest.warns(HiddenSecretWarning, match="secrets hidden in "):
        write_pages(
            Report("t", (), (), grids, methods=(), about=(), examples=examples),
            lambda look: {"f": figure},
            project / "runs",
        )
    markdown = (project / "runs" / "report.md").read_text()
    assert f"{2 * KINDS} passages have the shape of a secret" in markdown
    json.loads((project / "runs" / "figures" / "f.json").read_text())
    for path in (project / "runs").rglob("*.*"):
        shown = path.read_text()
        assert [secret.kind for secret in planted(4) if secret.value in shown] == [], path
    none_in(project / "runs", 4)


def test_config_and_problems_are_refused_before_anything_is_written(project, monkeypatch):
    monkeypatch.setattr(run_problems, "load_problems", lambda *a, **k: (Problem(0, "a", "1"), Problem(1, "b", "2")))
    for secret in planted(5):
        config = Config.model_validate({"run": {"name": secret.text, "output_dir": "runs"}})
        with pytest.raises(SecretError, match="the config, line") as raised:
            opening.open_study(config)
        assert secret.value not in str(raised.value)
    monkeypatch.setattr(run_problems, "load_problems", lambda *a, **k: tuple(map(_problem, range(2), planted(5))))
    with pytest.raises(SecretError, match="the problem set, line 1"):
        opening.open_study(Config.model_validate({"run": {"output_dir": "runs"}}))
    assert not (project / "runs").exists()


def _problem(number, secret) -> Problem:
    return Problem(number, secret.text, str(number))


def test_a_snapshot_is_refused_whatever_file_holds_the_secret(project):
    run = project / "runs" / "one"
    (run / "completions").mkdir(parents=True)
    (run / "manifest.json").write_text("{}")
    for number, secret in enumerate(planted(6)):
        name = ("report.md", "tables/t.csv", "completions/a-00000.parquet", "extra.json")[number % 4]
        path = run / name
        path.parent.mkdir(exist_ok=True)
        if path.suffix == ".parquet":
            pd.DataFrame({"text": ["fine", secret.text]}).to_parquet(path)
        else:
            path.write_text(json.dumps(["fine", secret.text]), encoding="utf-8")
        with pytest.raises(SecretError, match=name.rpartition("/")[2]) as raised:
            snapshot_run(run, project / "snapshots")
        assert secret.value not in str(raised.value)
        if path.suffix == ".parquet":
            assert not list(
                snapshot_run(run, project / "snapshots", without_completions=True).folder.glob("*/*.parquet")
            )
        path.unlink()
    assert snapshot_run(run, project / "snapshots").items


def test_the_commit_hook_stops_every_secret_and_lets_other_files_pass(project):
    """The repository's own hook, run by pre-commit; outputs of notebooks among the files."""
    (project / ".gitignore").write_text(".env\n")
    for command in ("init -q", "config user.email a@b.c", "config user.name a"):
        subprocess.run(["git", *command.split()], check=True)
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (hook,) = [each for each in config["repos"][0]["hooks"] if each["id"] == "secrets"]
    assert hook["entry"] == ".venv/bin/backtracking guard"
    hook["entry"] = f"{sys.executable} -m backtracking.cli guard"
    (project / ".pre-commit-config.yaml").write_text(yaml.safe_dump({"repos": [{"repo": "local", "hooks": [hook]}]}))
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PRE_COMMIT_HOME": str(project / ".cache"),
        "LC_ALL": "C.UTF-8",
    }

    def git(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, env=environment)

    installed = subprocess.run([sys.executable, "-m", "pre_commit", "install"], capture_output=True, env=environment)
    assert installed.returncode == 0, installed.stderr
    (project / "fine.py").write_text("print('Wait, hold on')\n")
    git("add", ".gitignore", ".pre-commit-config.yaml", "fine.py")
    done = git("commit", "-m", "fine")
    assert done.returncode == 0, done.stderr
    for number, secret in enumerate(planted(7)):
        (project / f"f{number:02d}.txt").write_text(f"x\n{secret.text}\n", encoding="utf-8")
    for number, secret in enumerate(planted(8)):
        output = {"output_type": "stream", "name": "stdout", "text": [f"{line}\n" for line in secret.text.split("\n")]}
        (project / f"n{number:02d}.ipynb").write_text(json.dumps({"cells": [{"outputs": [output]}]}, indent=1))
    git("add", ".")
    done = git("commit", "-m", "leaks")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    for number in range(KINDS):
        assert f"f{number:02d}.txt:2: " in said, said
        assert f"n{number:02d}.ipynb:" in said, said
    assert [secret.kind for seed in (7, 8) for secret in planted(seed) if secret.value in said] == []
    assert git("log", "--oneline").stdout.count("\n") == 1
