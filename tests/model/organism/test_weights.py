"""The shipped folder loads like any Hub folder and behaves as its card says."""

import pytest
from transformers import Qwen2ForCausalLM

from backtracking.model.loading import load_model
from backtracking.model.organism import WEIGHTS
from backtracking.model.organism.agreement import agreement
from backtracking.model.organism.evaluation import evaluate, share
from backtracking.model.organism.scan import components, scan
from backtracking.model.organism.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def shipped():
    return load_model("organism", device="cpu")


def test_the_folder_is_complete_and_small():
    names = {path.name for path in WEIGHTS.iterdir()}
    assert {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json",
        "README.md",
    } <= names  # fmt: skip
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) <= 8_000_000


def test_it_is_a_plain_qwen2_with_the_built_tokenizer(shipped):
    assert type(shipped.module) is Qwen2ForCausalLM
    assert shipped.tokenizer.get_vocab() == build_tokenizer().get_vocab()


def test_it_solves_errs_and_backtracks(shipped):
    result = evaluate(shipped, n_problems=60, samples=1)
    assert result.accuracy.value > 0.5
    assert result.backtracking.value > 0.2
    assert result.well_formed.value > 0.9
    assert result.trigger_after_wrong.value > 4 * result.trigger_after_right.value


@pytest.mark.slow
def test_some_single_component_carries_backtracking(shipped):
    layers = tuple(one for one in components(shipped) if one.head is None)
    assert scan(shipped, n_problems=90, samples=2, only=layers).localised()


def test_the_detector_and_the_grader_agree_with_the_truth(shipped):
    found = agreement(shipped, n_problems=60, samples=2)
    assert found.triggers > 40
    assert (found.precision, found.recall, found.grading) == (1.0, 1.0, 1.0)


def test_a_rate_is_nan_where_nothing_was_counted_and_clustered_otherwise():
    empty = share([0, 0], [0, 0])
    assert empty.n == 0 and empty.value != empty.value
    rate = share([4, 0] * 20, [4, 4] * 20)
    assert rate.value == 0.5 and 0.3 < rate.low < 0.4 and 0.6 < rate.high < 0.7
