"""What is read of a continuation of a fork."""

import pytest

from backtracking.core.completions import Completion
from backtracking.core.problems import Problem
from backtracking.experiments import forking
from backtracking.experiments.config import Config
from backtracking.experiments.runs import RunFolder
from backtracking.experiments.study import Study

CONFIG = {
    "run": {"name": "forks"},
    "model": {"hf_id": "organism", "device": "cpu"},
    "dataset": {"name": "organism", "max_examples": 1},
    "prompting": {"formatting_variants": [{"name": "a", "think_open": "<think>\n"}]},
    "generation": {"num_samples_per_prompt": 1, "max_new_tokens": 100},
}


@pytest.mark.parametrize("stop", [(), (0,)])
def test_a_loop_is_degenerate_whether_or_not_a_stop_token_ended_it(tmp_path, stop):
    study = Study(Config.model_validate(CONFIG), RunFolder(tmp_path), (), lambda *_: None, None)
    original = Completion("p", 0, "a", "baseline", (1, 2), (3, 4), "ab", "length", (0, 1))
    looped = Completion(
        "p", forking.FORK_SAMPLES, "a", "fork: resample", (1, 2, 3), (5,) * 80 + stop, "b" * 80,
        "stop" if stop else "length", tuple(range(80 + len(stop))),
    )  # fmt: skip
    problems = {"p": Problem("p", "question", "7")}
    assert forking._fork(study, looped, {("p", 0): original}, problems, samples=1).degenerate


@pytest.mark.parametrize(
    ("continued", "at_once", "again", "later"),
    [
        (" Wait, 5. So", True, True, False),
        ("\n\nWait, 5. So", True, True, False),
        ("\n 5 it is. Wait, 6", False, False, True),
        (" \n5. \n Wait, 6", False, False, True),
        ("So 5, wait. No", False, True, True),
    ],
)
def test_blank_text_before_a_continuation_is_no_part_of_its_beginning_or_first_sentence(
    tmp_path, continued, at_once, again, later
):
    study = Study(Config.model_validate(CONFIG), RunFolder(tmp_path), (), lambda *_: None, None)
    original = Completion("p", 0, "a", "baseline", (1, 2), (3, 4, 9), "4. Wait", "length", (0, 1, 2))
    row = Completion(
        "p", forking.FORK_SAMPLES, "a", "fork: resample", (1, 2, 3, 4), (5,) * len(continued), continued, "length",
        tuple(range(len(continued))),
    )  # fmt: skip
    found = forking._fork(study, row, {("p", 0): original}, {"p": Problem("p", "question", "7")}, samples=1)
    assert (found.triggers_at_once, found.triggered_again, found.triggers_later) == (at_once, again, later)
