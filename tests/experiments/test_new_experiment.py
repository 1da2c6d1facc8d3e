"""A new experiment's folder is complete: its config loads and runs, and its notebook executes on that run."""

import os
from pathlib import Path

import nbclient
import nbformat
import pytest
import yaml
from typer.testing import CliRunner

from backtracking.core.errors import InputError
from backtracking.experiments.config import load_config
from backtracking.experiments.new_experiment import new_experiment
from backtracking.faces.commands import app

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("phase2", [False, True])
def test_the_config_is_the_committed_one_under_a_new_name(phase2):
    made = new_experiment("a-question", phase2=phase2)
    source = load_config(ROOT / "configs" / f"organism_phase{1 + phase2}.yaml")
    run = source.run.model_copy(update={"name": "a-question", "run_id": "a-question_1"})
    assert load_config(made.config) == source.model_copy(update={"run": run})
    text = made.readme.read_text()
    assert all(f"## {part}" in text for part in ("Question", "Method", "Findings"))
    assert made.notebook.name in text and "cd experiments/a-question" in text
    cells = nbformat.read(made.notebook, 4).cells
    nbformat.validate(nbformat.read(made.notebook, 4))
    assert ("second." in str(cells)) == phase2
    assert not [cell for cell in cells if cell.cell_type == "code" and (cell.outputs or "def " in cell.source)]


def test_another_config_can_be_the_beginning_and_its_problems_are_found_from_the_folder(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.jsonl").write_text('{"question": "a", "gold": "1"}\n')
    config = tmp_path / "c.yaml"
    config.write_text("run: {seed: 7, output_dir: far}\ndataset: {save_path: data/mine.jsonl}\nphase2: {}\n")
    made = new_experiment("mine", config=config)
    loaded = load_config(made.config)
    assert (loaded.run.seed, loaded.run.output_dir, loaded.phase2) == (7, "runs", None)
    assert (made.folder / str(loaded.dataset.save_path)).resolve() == tmp_path / "data" / "mine.jsonl"
    assert load_config(new_experiment("both", phase2=True, config=config).config).phase2 is not None
    config.write_text("run: {seed: 7}\n")
    with pytest.raises(InputError, match="has no section phase2"):
        new_experiment("third", phase2=True, config=config)
    config.write_text("conditions: {halved: ['mlp.1*0.5']}\n")
    with pytest.raises(InputError, match="lists conditions"):
        new_experiment("third", config=config)
    assert not (tmp_path / "experiments" / "third").exists()


@pytest.mark.parametrize("name", ["", "../up", "Upper Case", "a/b", "-a", "a" * 65, "é", "a.b", "."])
def test_a_name_that_is_none_is_refused_with_one_that_would_do(name, tmp_path):
    with pytest.raises(InputError, match="is no name of an experiment"):
        new_experiment(name)
    assert not (tmp_path / "experiments").exists()


def test_an_existing_folder_is_left_as_it_is(tmp_path):
    made = new_experiment("one")
    made.readme.write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        new_experiment("one")
    assert made.readme.read_text() == "mine"
    assert (made.notebook.name, new_experiment("two").notebook.name) == ("01_one.ipynb", "02_two.ipynb")
    with pytest.raises(InputError, match="'upper-case' would do"):
        new_experiment("Upper Case")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make the folder"):
        new_experiment("one", folder=tmp_path / "file")


def test_plan_run_and_the_notebook_work_on_the_new_folder(monkeypatch):
    runner = CliRunner()
    done = runner.invoke(app, ["new", "small", "--phase2"])
    assert done.exit_code == 0, done.output
    folder = Path("experiments/small").resolve()
    content = yaml.safe_load((folder / "config.yaml").read_text())
    content["dataset"]["max_examples"] = 8
    content["prompting"] = {"formatting_variants": [{"name": "a", "think_open": "<think>\n"}]}
    content["generation"] |= {"num_samples_per_prompt": 1, "max_new_tokens": 110}
    content["analysis"] |= {"max_events": 10, "control_samples": 10}
    content["phase2"] = {"scale_sweep": {"scales": [0.5]}, "continuation_ablation": {"enabled": False}}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(folder)
    for command in ("plan", "run"):
        done = runner.invoke(app, [command, "--config", "config.yaml"])
        assert done.exit_code == 0, done.output
    parts = {path: path.stat().st_mtime_ns for path in folder.glob("runs/small_1/completions/*.parquet")}
    assert parts
    notebook = nbformat.read(folder / "01_small.ipynb", 4)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    nbclient.NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert "targeted_ablation" in str(outputs) and "application/vnd.plotly" in str(outputs)
    assert [path.name for path in (folder / "runs").iterdir() if path.is_dir()] == ["small_1"]
    assert {path: path.stat().st_mtime_ns for path in parts} == parts  # nothing was sampled again
