"""The Slurm file, run with Slurm's commands imitated."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STUBS = {
    "scontrol": 'printf "node-a\\nnode-b\\nnode-c\\n"',
    "sleep": ":",
    "hostname": "echo 10.0.0.1",
    "srun": """
node=?
while [ $# -gt 0 ]; do
  case $1 in -w) node=$2; shift 2 ;; -*) shift ;; *) break ;; esac
done
NODE=$node exec "$@"
""",
    "ray": 'echo "$NODE sees ${CUDA_VISIBLE_DEVICES:-all}: ray $*" >> "$CALLS"',
    "backtracking": """
echo "$NODE sees ${CUDA_VISIBLE_DEVICES:-all}: backtracking $*" >> "$CALLS"
if [ -n "${LONG:-}" ]; then trap 'echo told to end >> "$CALLS"; exit 130' TERM; while :; do /bin/sleep 0.1; done; fi
exit ${STATUS:-0}
""",
}


@pytest.fixture
def machine(tmp_path):
    for name, body in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    given = {"SLURM_JOB_NODELIST": "node-[a-c]", "SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "16"}
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls.txt"), "STORE": "/shared/units"}
    return {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"} | given | path


def submit(machine, **changes) -> subprocess.Popen:
    return subprocess.Popen(["bash", str(ROOT / "docs/slurm.sbatch"), "run.yaml"], env=machine | changes)


def calls(machine, least: int = 4) -> list[str]:
    """What was called, once it is that much: Ray starts in the background."""
    file, end = Path(machine["CALLS"]), time.monotonic() + 60
    while not file.is_file() or len(file.read_text().splitlines()) < least:
        assert time.monotonic() < end
        time.sleep(0.05)
    return sorted(file.read_text().splitlines())


def test_ray_starts_on_every_node_and_the_driver_has_the_first_gpu_to_itself(machine):
    assert submit(machine).wait(60) == 0
    found = calls(machine)
    assert found[0] == (
        "node-a sees 0: backtracking run --config run.yaml --executor ray --address 10.0.0.1:6379 --store /shared/units"
    )
    assert re.fullmatch(
        r"node-a sees 1,2,3: ray start --head .*--port=6379 --num-cpus=16 --num-gpus=3 .*--block", found[1]
    )
    others = [
        f"{node} sees all: ray start --address=10.0.0.1:6379 --num-cpus=16 --num-gpus=4 --block"
        for node in ("node-b", "node-c")
    ]
    assert found[2:] == others


def test_a_machine_with_one_gpu_shares_it(machine):
    assert submit(machine, SLURM_GPUS_ON_NODE="1", CUDA_VISIBLE_DEVICES="0").wait(60) == 0
    assert [line.partition(":")[0] for line in calls(machine)[:2]] == ["node-a sees 0", "node-a sees 0"]
    assert "--num-gpus=1" in calls(machine)[1]


def test_the_job_ends_as_its_driver_does(machine):
    assert submit(machine, STATUS="2").wait(60) == 2


def test_a_job_that_is_preempted_tells_its_driver(machine):
    job = submit(machine, LONG="1")
    calls(machine)
    time.sleep(0.3)
    job.send_signal(signal.SIGTERM)
    assert job.wait(60) != 0
    assert "told to end" in calls(machine, least=5)
