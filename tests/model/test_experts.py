"""Mixtures of experts run through the packed engine as through Hugging Face."""

import copy

import pytest

from backtracking.core.interventions import BASELINE, Condition
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling import sample
from tests.model.reference import ablated, greedy
from tests.tiny import tiny_hf, tiny_tokenizer

ARMS = (BASELINE, *(Condition(text, [text]) for text in ("mlp.1*0@decode", "attn.2*0.3@decode")))
NEW = 12


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_greedy_under_interventions_equals_hugging_face(family, problems):
    module = tiny_hf(family)
    model = HookedReasoner.from_hf(copy.deepcopy(module), tiny_tokenizer(), name=f"tiny-{family}")
    found = sample(model, problems, conditions=ARMS, max_new_tokens=NEW, temperature=0)
    assert len({completion.ids for completion in found}) > len(problems)
    for completion in found:
        arm = next(arm for arm in ARMS if arm.name == completion.condition)
        with ablated(module, arm.interventions):
            assert list(completion.ids) == greedy(module, completion.prompt_ids, NEW)
