"""The probability of a trigger at every token, against a plain forward pass of another copy of the model."""

import numpy as np
import pytest
import torch

from backtracking.core.completions import Completion
from backtracking.core.errors import InputError
from backtracking.measures.trigger_probability import trigger_probability
from backtracking.model.sampling import sample
from backtracking.model.tokens import tokens_that_begin


@pytest.fixture(scope="module")
def completion(tiny, problems) -> Completion:
    return sample(tiny, problems[:1], max_new_tokens=12, temperature=1.5)[0]


def plain_forward(module, completion) -> torch.Tensor:
    ids = torch.tensor([[*completion.prompt_ids, *completion.ids]])
    with torch.no_grad():
        return module(ids).logits[0].double()


def test_it_is_the_summed_softmax_over_every_token_that_begins_a_trigger(twin, problems):
    model, module = twin
    completion = sample(model, problems[:1], max_new_tokens=6, temperature=1.5, engine="bridge")[0]
    read = trigger_probability(model, completion)
    triggers = list(tokens_that_begin(model.tokenizer, ("Wait", "Actually", "Hold on")))
    chances = plain_forward(module, completion).softmax(-1)[:, triggers].sum(-1)
    start = len(completion.prompt_ids)
    expected = [float(chances[start + index - 1]) for index in range(len(completion.ids))]
    np.testing.assert_allclose(read.probability, expected, rtol=2e-4)
    assert len(read.tokens) == len(completion.ids)
    assert "".join(read.tokens) == completion.text


def test_triggers_of_ones_own_choice_are_read(tiny, twins, completion):
    read = trigger_probability(tiny, completion, trigger_ids=[7])
    expected = plain_forward(twins("qwen2")[1], completion).log_softmax(-1)[len(completion.prompt_ids) - 1 : -1, 7]
    np.testing.assert_allclose(read.log_prob, expected.numpy(), atol=2e-4)


def test_an_intervention_acts_while_reading_and_is_gone_after_it(tiny, completion):
    before = trigger_probability(tiny, completion)
    off = trigger_probability(tiny, completion, interventions=["mlp.1*0@decode"])
    again = trigger_probability(tiny, completion)
    assert off.under == "mlp.1*0@decode"
    # The first token is chosen from the untouched prompt.
    assert off.log_prob[0] == before.log_prob[0]
    assert not np.allclose(off.log_prob[1:], before.log_prob[1:])
    np.testing.assert_array_equal(again.log_prob, before.log_prob)


def test_what_cannot_be_read_is_refused(tiny, completion):
    from dataclasses import replace

    with pytest.raises(InputError, match="has no tokens"):
        trigger_probability(tiny, replace(completion, ids=(), offsets=(), text=""))
    with pytest.raises(InputError, match="takes 256"):
        trigger_probability(tiny, replace(completion, prompt_ids=completion.prompt_ids * 100))
    with pytest.raises(InputError, match="give it to sample"):
        trigger_probability(tiny, completion, interventions=["ban(Wait)"])
