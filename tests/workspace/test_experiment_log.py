"""The log is a line per event; sinks get its numbers, and one that fails never stops a run."""

import json
import os
import subprocess
import sys

import pytest

from backtracking.core.errors import InputError
from backtracking.experiments.comparison import run_comparison
from backtracking.experiments.config import Config, load_config
from backtracking.experiments.runs import RunFolder
from backtracking.workspace import log_sinks
from backtracking.workspace.experiment_log import ExperimentLog, machine
from backtracking.workspace.log_sinks import require_sinks, sink_errors

TOKEN = "hf_" + "b" * 34


def read(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def open_log(folder, sinks=()):
    return ExperimentLog(RunFolder(folder).log, folder=folder, name="some run", sinks=sinks, config={"a": 1})


class Recorder:
    """A sink that remembers, and fails when told to."""

    made = []

    def __init__(self, folder, name, config):
        self.numbers, self.closed, self.fault = [], False, None
        Recorder.made.append(self)

    def write(self, numbers):
        if self.fault is not None:
            raise self.fault
        self.numbers.append(dict(numbers))

    def close(self):
        self.closed = True


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setitem(log_sinks.SINKS, "tensorboard", Recorder)
    Recorder.made = []
    return Recorder.made


def test_a_line_has_time_event_and_level_and_the_machine_is_written_once(tmp_path):
    log = open_log(tmp_path)
    log.log("note", level="warning", text="a")
    log.unit(tokens=500, seconds=2.0, group="arms", number=0)
    log.unit(tokens=5, seconds=0.0, group="arms", number=1)
    log.end(completions=3)
    lines = read(tmp_path)
    assert [(line["event"], line["level"]) for line in lines] == [
        ("machine", "info"), ("note", "warning"), ("unit", "info"), ("unit", "info"), ("finished", "info")
    ]  # fmt: skip
    assert all(line["time"].endswith("+00:00") for line in lines)
    assert lines[0]["processors"] == os.cpu_count() and "gpu" in lines[0]
    assert lines[2]["tokens_per_second"] == 250.0
    assert "tokens_per_second" not in lines[3]
    assert not {"node", "hostname", "user"} & set(machine())


def test_a_timed_block_writes_its_seconds_and_an_error_its_kind(tmp_path):
    log = open_log(tmp_path)
    with log.timed("scan", layer=3):
        pass
    with pytest.raises(KeyError), log.timed("scan"):
        raise KeyError("x")
    good, bad = read(tmp_path)[1:]
    assert good["layer"] == 3 and 0 <= good["seconds"] < 5
    assert (bad["level"], bad["error"]) == ("error", "KeyError")


def test_a_sink_gets_the_numbers_alone(tmp_path, recorder):
    log = open_log(tmp_path, ("tensorboard",))
    log.log("words", text="a", flag=True)
    log.unit(tokens=10, seconds=2.0, group="arms")
    log.end()
    (sink,) = recorder
    assert sink.numbers[-1] == {"unit/tokens": 10.0, "unit/seconds": 2.0, "unit/tokens_per_second": 5.0}
    assert all(isinstance(value, float) for numbers in sink.numbers for value in numbers.values())
    assert not any("words" in name for numbers in sink.numbers for name in numbers)
    assert sink.closed and log.sinks == ()


def faults():
    import wandb
    from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

    return [
        OSError(28, "No space left"), ConnectionError("gone"), EOFError(), RuntimeError("closed"), ImportError("x"),
        AttributeError("x"), KeyError("x"), TypeError("x"), ValueError("x"), ZeroDivisionError(),
        wandb.Error("x"), wandb.errors.CommError("x"), wandb.errors.UsageError("x"),
        MailboxClosedError(), HandleAbandonedError(),
    ]  # fmt: skip


@pytest.mark.parametrize("fault", faults(), ids=lambda fault: type(fault).__name__)
def test_a_sink_that_fails_is_dropped_said_once_and_written_once(tmp_path, recorder, fault):
    log = open_log(tmp_path, ("tensorboard",))
    recorder[0].fault = fault
    with pytest.warns(UserWarning, match="the log sink tensorboard failed and is dropped") as said:
        for number in range(3):
            log.unit(tokens=10, seconds=1.0, number=number)
        log.end()
    assert len(said) == 1
    lines = read(tmp_path)
    assert [line["event"] for line in lines] == ["machine", "unit", "sink failed", "unit", "unit", "finished"]
    assert lines[2]["reason"].startswith(type(fault).__name__)
    assert not recorder[0].closed


def test_an_interrupt_in_a_sink_is_no_failure_of_the_sink(tmp_path, recorder):
    log = open_log(tmp_path, ("tensorboard",))
    recorder[0].fault = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        log.unit(tokens=1, seconds=1.0)
    assert MemoryError not in sink_errors() and Exception not in sink_errors()


def test_a_sink_that_cannot_begin_or_end_does_not_stop_the_run(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError("no route")

    monkeypatch.setitem(log_sinks.SINKS, "tensorboard", broken)
    with pytest.warns(UserWarning, match="no route"):
        log = open_log(tmp_path, ("tensorboard",))
    log.end()
    assert [line["event"] for line in read(tmp_path)] == ["sink failed", "machine", "finished"]


def test_a_token_in_a_sinks_error_is_not_written(tmp_path, recorder, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", TOKEN)
    log = open_log(tmp_path, ("tensorboard",))
    recorder[0].fault = RuntimeError(f"refused\nthe key {TOKEN}")
    with pytest.warns(UserWarning) as said:
        log.unit(tokens=1, seconds=1.0)
    assert TOKEN not in (tmp_path / "log.jsonl").read_text() + str(said[0].message)
    assert "refused the key <WANDB_API_KEY>" in str(said[0].message)


def test_tensorboard_reads_the_numbers_back(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = open_log(tmp_path, ("tensorboard",))
    for number in range(3):
        log.unit(tokens=100 * number, seconds=2.0, number=number)
    assert log.sinks == ("tensorboard",)
    log.end()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("unit/tokens_per_second")]
    assert found == [(0, 0.0), (1, 50.0), (2, 100.0)]


def test_wandb_offline_keeps_its_files_in_the_run_and_prints_nothing(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom backtracking.experiments.runs import RunFolder\n"
        "from backtracking.workspace.experiment_log import ExperimentLog\n"
        "folder = Path(sys.argv[1])\n"
        "log = ExperimentLog(RunFolder(folder).log, folder=folder, name='r', sinks=('wandb',), config={'a': 1})\n"
        "log.unit(tokens=100, seconds=2.0)\nlog.end()\n"
    )
    environment = os.environ | {"WANDB_MODE": "offline", "HOME": str(tmp_path / "home")}
    environment.pop("WANDB_API_KEY", None)
    folder = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], env=environment, cwd=tmp_path, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "sink failed" not in done.stderr + (folder / "log.jsonl").read_text()
    (file,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    assert b"unit/tokens_per_second" in file.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "home") == ["run"]


def test_a_missing_package_or_key_is_one_line_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(log_sinks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"asks for tensorboard, which is not installed; .*'\.\[log\]'"):
        require_sinks(("tensorboard",))
    config = Config.model_validate({"run": {"log_sinks": ["wandb"], "output_dir": str(tmp_path / "runs")}})
    with pytest.raises(InputError, match="asks for wandb, which is not installed"):
        run_comparison(config)
    assert not (tmp_path / "runs").exists()


def test_wandb_without_a_key_is_refused_unless_offline(monkeypatch):
    import wandb

    monkeypatch.setattr(wandb, "login", lambda **_: False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(InputError, match="no WANDB_API_KEY; set it, or set WANDB_MODE=offline"):
        require_sinks(("wandb",))
    monkeypatch.setenv("WANDB_MODE", "offline")
    require_sinks(("wandb", "tensorboard"))


def test_an_unknown_sink_is_refused_by_the_config(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("run: {log_sinks: [mlflow]}")
    with pytest.raises(InputError, match="run.log_sinks.0: .*'wandb' or 'tensorboard' .given: 'mlflow'"):
        load_config(path)


def test_a_run_logs_tokens_per_second_of_each_unit_and_sinks_change_no_result(tmp_path, recorder):
    sections = {
        "dataset": {"name": "organism", "max_examples": 2}, "generation": {"max_new_tokens": 20},
        "conditions": {"no Wait": ["ban(Wait)"]},
    }  # fmt: skip
    runs = {"output_dir": str(tmp_path / "runs"), "run_id": "a"}
    run = run_comparison(Config.model_validate(sections | {"run": runs | {"log_sinks": ["tensorboard"]}}))
    lines = read(run.folder.path)
    units = [line for line in lines if line["event"] == "unit"]
    assert sum(line["tokens"] for line in units) == sum(len(completion.ids) for completion in run.completions)
    assert all(line["tokens_per_second"] > 0 and line["seconds"] > 0 for line in units)
    assert [line["event"] for line in lines].count("machine") == 1
    assert recorder[0].closed and any("unit/tokens" in numbers for numbers in recorder[0].numbers)
    again = run_comparison(Config.model_validate(sections | {"run": runs}))  # the same run: no sink is decisive
    assert again.folder.run_id == "a"
    assert [row.ids for row in again.completions] == [row.ids for row in run.completions]
