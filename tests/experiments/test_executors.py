"""Executors without a cluster: the store, what is refused, failures that are told, and the local run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from typer.testing import CliRunner

from backtracking.core.errors import FailedUnitsError, InputError
from backtracking.core.settings import Settings
from backtracking.experiments.comparison import run_comparison
from backtracking.experiments.config import Config
from backtracking.experiments.config_sections import ModelSection
from backtracking.experiments.executors import ATTEMPTS, Driver, Failed, LocalExecutor, SamplingJob
from backtracking.experiments.models import open_model
from backtracking.experiments.ray_cluster import Staff, sized
from backtracking.experiments.ray_executor import RayExecutor
from backtracking.experiments.remote_store import RemoteStore
from backtracking.faces.commands import app
from tests.experiments.ray_jobs import Misbehaving, completions_of, unit_of


@pytest.fixture
def config(tiny_folder, tmp_path):
    lines = [json.dumps({"id": i, "question": f"a {'b ' * i}c", "gold": str(i)}) for i in range(4)]
    (tmp_path / "problems.jsonl").write_text("\n".join(lines))
    content = {
        "run": {"name": "tiny", "output_dir": str(tmp_path / "runs")},
        "model": {"hf_id": str(tiny_folder), "device": "cpu"},
        "dataset": {"name": str(tmp_path / "problems.jsonl")},
        "prompting": {"template": "{question}"},
        "generation": {"num_samples_per_prompt": 4, "max_new_tokens": 6, "batch_size": 2, "temperature": 2.0},
        "conditions": {"mlp off": ["mlp.1*0@decode"]},
    }
    return Config.model_validate(content)


class Unlucky:
    """Does every unit in this process, the last first, except some that fail."""

    def __init__(self, *failing: int):
        self.failing = failing
        self.asked: list[int] = []

    def run(self, units, job, driver):
        for unit in reversed(units):
            self.asked.append(unit.number)
            if unit.number in self.failing:
                yield Failed(unit, ATTEMPTS, "ValueError: it is cursed")
            else:
                yield from LocalExecutor().run([unit], job, driver)

    def close(self):
        pass


def test_the_order_in_which_units_are_done_has_no_part_in_the_tables(config, tmp_path):
    other = config.model_copy(update={"run": config.run.model_copy(update={"output_dir": str(tmp_path / "other")})})
    here, there = run_comparison(config), run_comparison(other, executor=Unlucky())
    assert len(list(here.folder.path.glob("completions/*.parquet"))) == 4
    for name in ("conditions", "paired_differences", "receipts"):
        assert here.folder.table(name).to_csv() == there.folder.table(name).to_csv()
    assert here.completions == there.completions


def test_units_that_fail_are_told_in_log_and_manifest_and_tried_again_by_the_same_command(config):
    with pytest.raises(
        FailedUnitsError, match=r"2 units of work of 'arms' failed 3 times each: arms-00003, arms-00001"
    ):
        run_comparison(config, executor=Unlucky(1, 3))
    (folder,) = (path.parent for path in Path(config.run.output_dir).glob("*/manifest.json"))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [each["number"] for each in manifest["failed_units"]["arms"]] == [3, 1]
    assert manifest["failed_units"]["arms"][0]["reason"] == "ValueError: it is cursed"
    assert manifest["status"] == "started"
    logged = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [each["number"] for each in logged if each["event"] == "unit failed"] == [3, 1]
    assert sorted(file.stem for file in (folder / "completions").iterdir()) == ["arms-00000", "arms-00002"]
    after = Unlucky()
    result = run_comparison(config, executor=after)
    assert after.asked == [3, 1]
    assert result.manifest["failed_units"] == {}
    assert len(result.completions) == 32


@pytest.mark.parametrize("kind", ["folder", "file", "memory"])
def test_a_unit_in_the_store_is_whole_under_its_own_name_and_of_its_own_plan(tmp_path, kind):
    url = {
        "folder": str(tmp_path / "a" / "b"),
        "file": f"file://{tmp_path}/units",
        "memory": f"memory://{tmp_path.name}",
    }
    store, unit = RemoteStore(url[kind]), unit_of(4)
    store.check()
    assert store.load(unit) is None
    store.save(unit, completions_of(unit))
    store.save(unit, completions_of(unit))
    assert store.load(unit) == completions_of(unit)
    assert store.load(unit_of(4, plan="another")) is None
    filesystem, path = url_to_fs(store.place(unit))
    assert [file.rpartition("/")[2] for file in filesystem.find(path.rpartition("/")[0])] == ["arms-00004.parquet"]
    content = filesystem.cat_file(path)
    filesystem.pipe_file(path, content[: len(content) // 2])
    assert store.load(unit) is None


def test_a_driver_that_dies_between_writing_and_moving_leaves_no_unit(tmp_path, monkeypatch):
    def dying(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalFileSystem, "mv", dying)
    store = RemoteStore(str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        store.save(unit_of(0), completions_of(unit_of(0)))
    assert store.load(unit_of(0)) is None


def test_units_that_the_store_has_need_no_cluster(tmp_path, tiny):
    store = RemoteStore(str(tmp_path / "store"))
    units = [unit_of(number) for number in range(3)]
    for unit in units:
        store.save(unit, completions_of(unit))
    executor = RayExecutor(address="127.0.0.1:1", store=store)
    driver = Driver(tiny, lambda event, **values: None, lambda: None)
    found = list(executor.run(units, Misbehaving(tmp_path), driver))
    assert [each.completions for each in found] == [completions_of(unit) for unit in units]
    with pytest.raises(InputError, match=r"nothing answers at 127.0.0.1:1 .*ray start --head"):
        list(executor.run([unit_of(9)], Misbehaving(tmp_path), driver))


def test_a_worker_refuses_other_weights_versions_and_devices(tiny_folder, tiny):
    section = ModelSection(hf_id=str(tiny_folder), device="cpu")
    job = SamplingJob.of(section, open_model(section), Settings(), "packed")
    assert callable(job.begin())
    for change, reason in (
        ({"weights_hash": "other"}, "weights .* are not the driver's"),
        ({"device": "cuda"}, "a worker's model is on cpu, the driver's on cuda"),
        ({"versions": (("torch", "1.0"),)}, r"a worker has torch .* \(not 1.0\); install the same"),
    ):
        with pytest.raises(InputError, match=reason):
            replace(job, **change).begin()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--executor", "slurm"], "unknown executor 'slurm'; use local or ray"),
        (["--workers", "2"], "--workers is for --executor ray"),
        (["--address", "auto"], "--address is for --executor ray"),
        (["--executor", "ray", "--workers", "0"], "workers is 0; at least 1"),
        (["--executor", "ray", "--address", "ray://head:10001"], "address auto"),
        (["--executor", "ray", "--store", "nowhere://x"], "the store 'nowhere://x' cannot be written to"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_loaded(options, reason):
    result = CliRunner().invoke(app, ["run", "--config", "configs/demo.yaml", *options])
    assert isinstance(result.exception, InputError)
    assert reason in str(result.exception)


def test_a_missing_ray_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr("backtracking.experiments.ray_executor.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[ray\]'"):
        RayExecutor()


MACHINE = {"CPU": 16.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("asked", "cluster", "expected"),
    [
        (Staff(gpus=1), [MACHINE, MACHINE], Staff(8, 1, 1)),
        (Staff(gpus=2), [MACHINE, MACHINE], Staff(4, 1, 2)),
        (Staff(), [MACHINE, MACHINE], Staff(2, 1, 0)),
        (Staff(3, 4), [MACHINE], Staff(3, 4, 0)),
        (Staff(20, 4), [MACHINE], Staff(20, 4, 0)),
    ],
)
def test_there_is_a_worker_for_each_gpu_or_machine_with_the_threads_of_the_driver(asked, cluster, expected):
    assert torch.get_num_threads() == 1
    assert sized(asked, cluster, may_grow=True) == expected


@pytest.mark.parametrize(
    ("asked", "may_grow", "room"),
    [(Staff(5, 4), False, 4), (Staff(1, 17), True, 0), (Staff(1, 1, 5), True, 0)],
)
def test_workers_without_room_are_refused(asked, may_grow, room):
    with pytest.raises(InputError, match=f"there is room for {room} workers of {asked.threads} processors"):
        sized(asked, [MACHINE], may_grow=may_grow)
