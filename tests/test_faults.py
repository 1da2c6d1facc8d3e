"""The fault campaign in small: three kills, and every case once."""

import json
import os
import subprocess
import sys
from pathlib import Path


def test_every_fault_ends_in_the_same_tables_or_in_one_clear_line(tmp_path):
    command = [sys.executable, "-m", "benchmarks.faults", "--kills", "3", "--both", "0"]
    command += ["--tries", "1", "--workers", "2"]
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads((tmp_path / "faults.json").read_text())["outcomes"]
    assert len(outcomes) == 15
    assert all(each["held"] == each["tries"] for each in outcomes), outcomes
