"""The command line as a stranger meets it: help that teaches, JSON for scripts, one line for what is wrong."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import typer
import yaml
from rich.console import Console
from typer.testing import CliRunner

from backtracking.faces.commands import app
from backtracking.faces.condition_table import print_conditions
from backtracking.faces.options import config_files, run_ids
from backtracking.faces.output import answer
from tests.commands import command, forked

ROOT = Path(__file__).parents[2]
ROOT_COMMAND = typer.main.get_command(app)


def leaves(command, path=()):
    """Every command with its words."""
    if not hasattr(command, "commands"):
        return [(path, command)]
    return [leaf for name, each in command.commands.items() for leaf in leaves(each, (*path, name))]


COMMANDS = leaves(ROOT_COMMAND)
names = pytest.mark.parametrize(("words", "command"), COMMANDS, ids=[" ".join(words) for words, _ in COMMANDS])


@pytest.fixture(scope="module")
def work(tmp_path_factory, tiny_folder):
    """A working folder with a config of two arms for the tiny model."""
    path = tmp_path_factory.mktemp("manners")
    lines = [json.dumps({"id": i, "question": f"a {'b ' * i}c", "gold": str(i)}) for i in range(4)]
    (path / "problems.jsonl").write_text("\n".join(lines))
    config = {
        "run": {"name": "tiny"},
        "model": {"hf_id": str(tiny_folder), "device": "cpu"},
        "dataset": {"name": "problems.jsonl"},
        "prompting": {"template": "{question}"},
        "generation": {"num_samples_per_prompt": 2, "max_new_tokens": 6, "batch_size": 6, "temperature": 2.0},
        "conditions": {"mlp off": ["mlp.1*0@decode"]},
    }
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    return path


def invoke(folder, monkeypatch, *arguments):
    """The command in this process, where torch is loaded already."""
    monkeypatch.chdir(folder)
    return CliRunner().invoke(app, [str(each) for each in arguments], prog_name="backtracking")


@names
def test_every_command_teaches_with_an_example_that_parses(words, command):
    (example,) = re.findall(r"Example: backtracking (.+)", command.help or "")
    given = example.split()
    assert tuple(given[: len(words)]) == words
    with command.make_context(" ".join(words), given[len(words) :]) as context:
        assert context.command is command
    configs = [word for word in given if word.endswith(".yaml")]
    assert [name for name in configs if not (ROOT / name).is_file()] == []
    assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0


@names
def test_every_command_speaks_json(words, command):
    assert "--json" in {option for each in command.params for option in each.opts}


def test_the_root_help_documents_the_exit_statuses():
    text = " ".join(CliRunner().invoke(app, ["--help"]).output.split())
    assert "0 done, 1 a check failed, 2 something given cannot be used, 130 interrupted" in text


def test_the_command_line_answers_without_loading_torch():
    code = "import sys, backtracking.faces.commands as c; assert 'torch' not in sys.modules; assert c.app"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_run_in_json_is_one_document_on_standard_output(work):
    done = forked(work, "run", "--config", "config.yaml", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert Path(work / document["report"]).is_file()
    table = pd.read_csv(work / document["folder"] / "tables" / "conditions.csv")
    assert [row["condition"] for row in document["conditions"]] == table["condition"].tolist()
    shown = [row["backtracking"] for row in document["conditions"]]
    assert shown == pytest.approx(table["backtracking"].tolist())
    assert [row["condition"] for row in document["paired_differences"]] == ["mlp off"]
    assert "\x1b" not in done.stdout + done.stderr


STEPS = {
    "plan": {"model", "stages", "tokens", "seconds", "rate", "detectable"},
    "init-run": {"run_id", "folder"},
    "generate": {"run_id", "condition", "completions", "folder"},
    "detect-events": {"rates", "triggers", "events"},
    "prepare-data": {"problems", "path"},
    "formatting-sweep": {"run_id", "table", "rows", "notes"},
}


def test_steps_in_json_are_one_document(work, monkeypatch):
    for step, keys in STEPS.items():  # one after another: most need the run that init-run begins
        named = ["--run-id", "named"] if step == "init-run" else []
        done = invoke(work, monkeypatch, step, "--config", "config.yaml", *named, "--json")
        assert done.exit_code == 0, (step, done.output)
        assert keys <= set(json.loads(done.stdout)), step


def test_a_document_has_null_for_what_is_not_a_number(capsys):
    answer({"a": float("nan"), "b": [float("inf"), 1.5], "c": Path("x")}, [], as_json=True)
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5], "c": "x"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--config", "confg.yaml"], "no config file at confg.yaml; . has config.yaml"),
        (["run", "--config", "."], "no config file at .; . has config.yaml"),
        (["init-run", "--config", "config.yaml", "--run-id", "../x"], "letters, digits, '_', '-' and '.'"),
        (["logit-lens", "--config", "config.yaml", "--run-id", "nope"], "no run 'nope' in runs"),
        (["metrics-v2", "--config", "config.yaml", "--phase1-run-id", "nope"], "no run 'nope' in runs"),
        (["generate", "--config", "config.yaml", "--condition", "foo"], "unknown condition 'foo'; use baseline"),
        (["generate", "--config", "config.yaml", "--variant", "foo"], "unknown formatting variant 'foo'"),
        (["organism", "train", "--out", "config.yaml"], "cannot make the folder config.yaml"),
        (["organism", "card", "--weights", "absent"], "no folder absent"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_used_is_told_in_one_line(work, monkeypatch, capsys, arguments, message):
    from backtracking.faces.commands import main

    monkeypatch.chdir(work)
    invoke(work, monkeypatch, "init-run", "--config", "config.yaml", "--run-id", "named")
    monkeypatch.setattr(sys, "argv", ["backtracking", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert ended.value.code == 2
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    assert told.err.startswith("backtracking: ")
    assert message in told.err


def test_a_section_given_as_a_value_names_the_keys_it_has(work, monkeypatch):
    from backtracking.core.errors import InputError
    from backtracking.experiments.config import load_config

    (work / "flat.yaml").write_text("model: organism\n")
    with pytest.raises(InputError, match="model: a section, not a value; its keys are hf_id"):
        load_config(work / "flat.yaml")
    (work / "broken.yaml").write_text("a: [b\n")
    with pytest.raises(InputError, match="is not YAML") as told:
        load_config(work / "broken.yaml")
    assert "unicode string" not in str(told.value)


def test_an_interrupt_while_the_library_loads_is_one_line_and_status_130(work):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_START], cwd=work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.startswith("backtracking: interrupted")
    assert len(stderr.splitlines()) == 1


SLOW_START = """
import sys, time
from backtracking.faces import commands
import backtracking.workspace.doctor as doctor

def slowly():
    print("loading", flush=True)
    time.sleep(60)

doctor.examine = slowly
sys.argv = ["backtracking", "doctor"]
commands.main()
"""


def conditions() -> pd.DataFrame:
    """Rows of two arms with long names and twenty random draws."""
    shares = ("backtracking", "right", "wrong", "unparsed", "truncated")
    arms = ["baseline", "attn.1.h0 and mlp.27 halved while decoding", *(f"random_ablation_{i}" for i in range(1, 21))]
    estimate = {
        f"{share}{end}": value for share in shares for end, value in (("", 1.0), ("_low", 0.973), ("_high", 1.0))
    }
    return pd.DataFrame([{"condition": name, "completions": 2400, **estimate} for name in arms])


def shown(console: Console) -> list[str]:
    print_conditions(conditions(), console)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_the_table_of_conditions_fits_a_terminal_of_80_columns(tmp_path):
    import io

    lines = shown(Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None))
    assert max(map(len, lines)) <= 80
    heading = next(line for line in lines if "backtracking" in line)
    assert all(name in heading for name in ("n", "right", "wrong", "unparsed", "truncated"))
    assert sum("100 [97, 100]" in line for line in lines) == 2
    assert any("20 random ablations" in line for line in lines)


def test_a_pipe_gets_one_unwrapped_line_per_condition():
    import io

    lines = shown(Console(file=io.StringIO(), force_terminal=False, width=80))
    (row,) = [line for line in lines if "halved while decoding" in line]
    assert row.split()[-3:] == ["100", "100", "100"]
    assert not [line for line in lines if set(line) & set("│┃─━╭")]


def test_completion_offers_config_files_and_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_files("") == []
    (tmp_path / "configs" / "more").mkdir(parents=True)
    for name in ("demo.yaml", "other.yml", "note.txt"):
        (tmp_path / "configs" / name).touch()
    for name in ("20260101_a", "20260102_b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "manifest.json").touch()
    assert config_files("") == ["configs/demo.yaml", "configs/more/", "configs/other.yml"]
    assert config_files("configs/d") == ["configs/demo.yaml"]
    assert config_files("con") == ["configs/"]
    assert run_ids("") == ["20260102_b", "20260101_a"]
    assert run_ids("20260101") == ["20260101_a"]


def test_the_shell_gets_its_completions_and_can_install_them(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.yaml").touch()
    typed = "backtracking run --config "
    asked = {"_BACKTRACKING_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": "3"}
    done = command(tmp_path, env=os.environ | asked)
    assert done.stdout.split() == ["configs/demo.yaml"]
    home = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = command(tmp_path, "--install-completion", "bash", env=os.environ | home)
    assert done.returncode == 0, done.stderr
    assert "_BACKTRACKING_COMPLETE=complete_bash" in "".join(
        path.read_text() for path in tmp_path.rglob("*") if path.is_file() and "backtracking" in path.name
    )


def test_the_version_is_that_of_the_package():
    import backtracking

    said = CliRunner().invoke(app, ["--version"])
    assert (said.exit_code, said.output) == (0, f"backtracking {backtracking.__version__}\n")
    assert f'version = "{backtracking.__version__}"' in (ROOT / "pyproject.toml").read_text()


REFUSED = """
import sys
from backtracking.faces.commands import main
for command in ("run", "plan", "init-run", "prepare-data", "generate", "ablation-scan", "metrics-v2", "make-report"):
    sys.argv = ["backtracking", command, "--config", "config.yaml"]
    try:
        main()
    except SystemExit as end:
        assert end.code == 2, command
print(sorted({"torch", "transformers", "transformer_lens"} & set(sys.modules)))
"""


def test_a_config_is_refused_before_the_libraries_of_models_are_loaded(tmp_path):
    (tmp_path / "config.yaml").write_text("generation: {top_p: 2}\n")
    done = subprocess.run([sys.executable, "-c", REFUSED], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr
    assert done.stderr.count("generation.top_p") == 8, done.stderr


def test_the_package_is_the_command(tmp_path):
    done = subprocess.run([sys.executable, "-m", "backtracking", "--version"], capture_output=True, text=True)
    assert done.stdout == command(tmp_path, "--version").stdout != ""
