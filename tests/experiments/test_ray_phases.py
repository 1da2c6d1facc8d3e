"""Phase 2 of the organism on two machines that lose a worker, a machine and the driver: the local run's tables."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from tests.experiments.cluster import ROOT, add_machine, two_machines

CONFIG = {
    "run": {"name": "phases", "seed": 3, "output_dir": "runs"},
    "model": {"hf_id": "organism", "device": "cpu"},
    "dataset": {"name": "organism", "max_examples": 24},
    "prompting": {"formatting_variants": [{"name": "a", "think_open": "<think>\n"}]},
    "generation": {"num_samples_per_prompt": 2, "max_new_tokens": 110, "batch_size": 6},
    "analysis": {"scan_heads": True, "topk_layers_for_generation": 1, "max_events": 30, "control_samples": 30},
    "ablation_generation": {"num_samples_per_prompt": 1},
    "phase2": {
        "scale_sweep": {"scales": [0, 0.5]},
        "continuation_ablation": {"max_events": 30, "fork_max_events": 8, "fork_samples": 1},
    },
}
PATIENCE = 400.0
"""Seconds after which something that should have happened has not."""


class Run:
    """A run in a folder of its own, driven by a process that can be killed."""

    def __init__(self, folder: Path):
        folder.mkdir()
        self.folder = folder
        (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))

    def drive(self, *options: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "backtracking.cli", "run", "--config", "config.yaml", "--quiet", *options]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with (self.folder / "said.txt").open("a") as said:
            return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=said, stderr=said)

    def finish(self, process: subprocess.Popen) -> None:
        assert process.wait(PATIENCE) == 0, (self.folder / "said.txt").read_text()

    def log(self, event: str) -> list[dict]:
        files = list(self.folder.glob("runs/*/log.jsonl"))
        lines = files[0].read_text().splitlines() if files else []
        return [entry for line in lines if (entry := json.loads(line))["event"] == event]

    def wait_for_units(self, process: subprocess.Popen, more: int) -> None:
        """Until so many more units are done than now."""
        goal, end = len(self.log("unit")) + more, time.monotonic() + PATIENCE
        while len(self.log("unit")) < goal:
            assert process.poll() is None, (self.folder / "said.txt").read_text()
            assert time.monotonic() < end
            time.sleep(0.05)

    def results(self) -> dict[str, bytes]:
        (run,) = self.folder.glob("runs/*/manifest.json")
        return {file.name: file.read_bytes() for file in sorted((run.parent / "tables").iterdir())}


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("ray") / "local")
    run.finish(run.drive())
    return run.results()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_workers_machines_and_drivers_leave_the_tables_of_a_local_run(local, tmp_path):
    run = Run(tmp_path / "ray")
    with two_machines() as cluster:
        where = ("--address", cluster.address, "--store", str(tmp_path / "store"))
        options = ("--executor", "ray", "--workers", "2", *where)
        first = run.drive(*options)
        run.wait_for_units(first, 4)
        psutil.Process(run.log("worker ready")[-1]["pid"]).kill()
        run.wait_for_units(first, 4)
        first.send_signal(signal.SIGKILL)
        first.wait()
        second = run.drive(*options)
        run.wait_for_units(second, 4)
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        run.wait_for_units(second, 3)
        add_machine(cluster)
        run.finish(second)
    assert run.results() == local
    assert len(local) >= 15
    assert len(run.log("started")) == len(run.log("continued")) == 1
    assert run.log("worker lost")
    assert {entry["worker"] for entry in run.log("unit")} >= {"worker-1", "worker-2"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_number_of_workers_has_no_part_in_the_results(local, tmp_path, workers):
    run = Run(tmp_path / "ray")
    run.finish(run.drive("--executor", "ray", "--workers", workers))
    assert run.results() == local
