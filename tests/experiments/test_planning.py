"""What a plan says of a run too small for any comparison."""

from backtracking.experiments.config import Config
from backtracking.experiments.planning import plan


def test_a_plan_of_one_problem_says_that_it_can_find_nothing(tmp_path):
    content = {
        "run": {"name": "one", "output_dir": str(tmp_path / "runs")},
        "model": {"hf_id": "organism", "device": "cpu"},
        "dataset": {"name": "organism", "max_examples": 1},
        "generation": {"num_samples_per_prompt": 2, "max_new_tokens": 20, "batch_size": 2},
    }
    found = plan(Config.model_validate(content))
    assert found.problems == 1 and found.detectable == ()
    assert [line for line in found.lines() if "detectable" in line or "80 % power" in line] == [
        "no difference is detectable with one problem: problems are the clusters of every test"
    ]
