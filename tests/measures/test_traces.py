"""Traces: equal to a plain forward pass, with and without the condition's interventions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import backtracking as bt
from backtracking.core.completions import Completion
from backtracking.core.errors import InputError, ReceiptError
from backtracking.core.receipts import Receipt
from backtracking.measures.traces import AFTER, BEFORE, can_be_traced, measure_traces, trace_key
from backtracking.model.tokens import decode_with_offsets, tokens_that_begin

STRICT = ("Wait", "Actually", "Hold on")


def written(model, text: str, *, receipts=()) -> Completion:
    """A completion that says `text`, whoever wrote it."""
    ids = model.tokenizer.encode(text, add_special_tokens=False) + [2]
    whole, offsets = decode_with_offsets(model.tokenizer, ids[:-1])
    prompt = tuple(model.to_ids(bt.Problem(0, "a b c", "7")))
    return Completion(
        0, 0, "baseline_think_newline", "any", prompt, tuple(ids), whole, "stop", (*offsets, len(whole)), receipts
    )


def expected(module, tokenizer, completion: Completion) -> tuple[np.ndarray, np.ndarray]:
    """The two log-probabilities from one forward pass of Hugging Face's model."""
    with torch.no_grad():
        logits = module(torch.tensor([[*completion.prompt_ids, *completion.ids]])).logits[0].double()
    start = len(completion.prompt_ids)
    log_probs = logits.log_softmax(-1)[start - 1 : -1]
    triggers = list(tokens_that_begin(tokenizer, STRICT))
    own = [float(row[token]) for row, token in zip(log_probs, completion.ids, strict=True)]
    return log_probs[:, triggers].exp().sum(-1).log().numpy(), np.array(own)


@pytest.mark.parametrize("name", ["qwen2", "gemma2", "gpt2"])
def test_a_trace_equals_a_plain_forward_pass(twins, name):
    model, module = twins(name)
    completion = written(model, "a b c. Wait, a d e f. wait time b")
    (trace,) = measure_traces(model, [completion])
    together, own = expected(module, model.tokenizer, completion)
    np.testing.assert_allclose(trace.trigger_log_prob, together, atol=1e-4)
    np.testing.assert_allclose(trace.token_log_prob, own, atol=1e-4)


def test_the_last_layer_of_the_lens_is_the_model_and_the_first_is_not(twins):
    model, module = twins("qwen2")
    (trace,) = measure_traces(model, [written(model, "a b c d e f g. Wait, a b c d e f g h i j k l")])
    assert trace.lens.shape == (len(trace.lens_tokens), 3)
    np.testing.assert_allclose(trace.lens[:, -1], trace.trigger_log_prob[trace.lens_tokens], atol=1e-6)
    assert np.abs(trace.lens[:, 0] - trace.lens[:, -1]).max() > 0.1


def test_the_lens_is_read_around_every_trigger_and_nowhere_else(tiny):
    completion = written(tiny, "a b c d e f g h i j k l. Wait, a b c d e f g h i j k l m n o p")
    (trace,) = measure_traces(tiny, [completion])
    onset = completion.token_at(completion.text.index("Wait"))
    assert trace.lens_tokens.tolist() == list(range(onset - BEFORE, onset + AFTER + 1))
    (none,) = measure_traces(tiny, [written(tiny, "a b c")])
    assert none.lens.shape[0] == 0
    assert len(none.trigger_log_prob) == 4  # three letters and the stop token


def test_an_ablated_completion_is_run_under_its_own_interventions(twins):
    model, module = twins("qwen2")
    plain = written(model, "a b c. Wait, a d e f")
    fed = len(plain.ids) - 1
    ablated = replace(plain, receipts=(Receipt("mlp.1*0@decode", fed, -1.0), Receipt("ban(Wait)", len(plain.ids), 0.0)))
    start = len(plain.prompt_ids)

    def zero(_module, _inputs, output):
        return torch.cat([output[:, :start], 0 * output[:, start:]], dim=1)

    handle = module.model.layers[1].mlp.register_forward_hook(zero)
    try:
        together, _ = expected(module, model.tokenizer, ablated)
    finally:
        handle.remove()
    (trace,) = measure_traces(model, [ablated])
    np.testing.assert_allclose(trace.trigger_log_prob, together, atol=1e-4)
    (other,) = measure_traces(model, [plain])
    assert trace.key != other.key
    assert trace.trigger_log_prob[0] == pytest.approx(other.trigger_log_prob[0], abs=1e-5)  # the prompt is untouched
    assert np.abs(trace.trigger_log_prob - other.trigger_log_prob).max() > 0.01


def test_a_sampled_completion_replays_with_the_receipts_it_has(tiny, problems):
    arms = {"off": ["mlp.1*0@decode"], "pushed": ["resid_post.2+3*random(1)", "ban(Wait)"]}
    completions = bt.sample(tiny, problems[:2], conditions=arms, samples=1, max_new_tokens=12, temperature=1.0)
    traces = measure_traces(tiny, completions)
    assert [trace.key for trace in traces] == [trace_key(each) for each in completions]
    for trace, completion in zip(traces, completions, strict=True):
        assert len(trace.trigger_log_prob) == len(completion.ids)
        assert (trace.trigger_log_prob <= 0).all()


def test_what_cannot_be_replayed_is_refused(tiny):
    completion = written(tiny, "a b c")
    fixed = replace(completion, receipts=(Receipt("mlp.1+2*vec(wait)", 3, 1.0),))
    assert can_be_traced(completion)
    assert not can_be_traced(fixed)
    with pytest.raises(InputError, match="random"):
        measure_traces(tiny, [fixed])
    for positions in (0, 10**6):  # neither what was sampled, nor what a cut and continued text could have had
        with pytest.raises(ReceiptError, match="cannot be trusted"):
            measure_traces(tiny, [replace(completion, receipts=(Receipt("mlp.1*0@decode", positions, 1.0),))])
    with pytest.raises(InputError, match="0 sampled tokens"):
        measure_traces(tiny, [replace(completion, ids=(), offsets=(), text="")])
    with pytest.raises(InputError, match="does not have"):
        measure_traces(tiny, [replace(completion, ids=(*completion.ids[:-1], 10**6))])
