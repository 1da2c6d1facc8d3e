"""The engine, and the tests of the measurements, on a device that is not the CPU: see `tests.elsewhere`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ENGINE = "tests/model/on_another_device.py"
MEASURES = [
    f"tests/measures/test_{name}.py" for name in ("ablation_scan", "activation_patching", "attribution", "logit_lens")
]
HERE = [
    f"tests/measures/{test}"
    for test in (
        "test_attribution.py::test_it_agrees_with_a_plain_reading_of_the_cache",
        "test_attribution.py::test_it_agrees_with_the_attribution_of_transformer_lens_by_component_and_by_head",
        "test_decision_points.py::test_entropy_is_that_of_the_models_next_token",
        "test_logit_lens.py::test_every_layer_equals_hugging_faces_hidden_states",
        "test_path_patching.py::test_paths_between_heads_equal_transformer_lens",
        "test_point_activations.py::test_every_row_is_the_bridges_own_activation",
        "test_steering_directions.py::test_the_mean_difference_is_that_of_contexts_run_alone",
        "test_steering_directions.py::test_the_unembedding_score_names_the_direction_that_writes_the_word",
    )
]
"""Tests that themselves hold what they expect on the CPU."""


def passes(*options):
    """Run tests with every model elsewhere, and without checks of types at run time; how many passed."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.elsewhere", "-p", "no:xdist", "-p", "no:cacheprovider"]
    deselected = [option for test in HERE for option in ("--deselect", test)]
    done = subprocess.run(
        [*command, "-q", "-o", "addopts=", *options, *deselected],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0 and found, done.stdout[-6000:] + done.stderr[-2000:]
    return int(found[1])


def test_the_engine_and_measurements_run_there():
    assert passes(ENGINE, *MEASURES, "-k", "on_another_device or not [", "-m", "not slow and not gpu") > 40


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_tests_of_all_measurements_pass_there():
    assert passes(ENGINE, "tests/measures", "-m", "not gpu") > 250
