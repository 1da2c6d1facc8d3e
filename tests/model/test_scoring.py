"""Logits under many conditions at once equal those of the bridge under each, one at a time."""

import copy
from collections import Counter

import pytest
import torch
import transformers as hf

from backtracking.core.errors import InputError, ReceiptError
from backtracking.core.interventions import BASELINE, At, Ban, Condition, Replace
from backtracking.core.problems import Problem
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling import context_runs, next_logits, passes, prefixes, sample, scoring
from backtracking.model.sampling.edits import Edits
from backtracking.model.sampling.refusals import steady_length
from backtracking.model.sampling.scored_contexts import UNEVEN, Reaching, Scored, batches, with_longer_ones
from tests.tiny import tiny_hf, tiny_tokenizer

LONG = [1, 44, 3, 5, 7, 9, 23, 31, 50, 2, 19, 22, 17, 6, 4, 4, 30, 12, 9, 8, 7, 6]
CONTEXTS = [[1, 5, 9, 30, 12, 7, 18, 33, 21, 40, 11], [1, 8, 8, 31], LONG]


def conditions(model):
    last = [Condition(str(site), [f"{site}*0@decode"]) for site in model.sites()]
    return (
        BASELINE,
        *last,
        Condition("head", ["attn.1.h3*0@decode", "mlp.0*0.5"]),
        Condition("prompt", ["attn.0*0@prompt", Replace("resid_post.1", [0.1] * 32, At([1, 3, 5]))]),
    )


@pytest.mark.parametrize("prompts", [None, [4, 2, 9], [10, 3, 1]])
def test_they_equal_the_bridges_one_at_a_time(twin, prompts):
    model = twin[0]
    arms = conditions(model)
    found = dict(next_logits(model, CONTEXTS, arms, prompts=prompts))
    assert sorted(found) == [0, 1, 2]
    lengths = prompts or [len(context) - 1 for context in CONTEXTS]
    for index, context in enumerate(CONTEXTS):
        plain = model.logits(context)[0, -1]
        moved = 0
        for row, arm in zip(found[index], arms, strict=True):
            with model.intervening([*arm.interventions], prompt_lengths=[lengths[index]]):
                expected = model.logits(context)[0, -1]
            torch.testing.assert_close(row, expected, atol=2e-4, rtol=2e-4)
            moved += not torch.allclose(expected, plain, atol=1e-3)
        assert moved >= 3


@pytest.mark.parametrize("reaching", [False, True])
def test_beginnings_of_one_another_are_run_once_unless_a_condition_reaches_into_them(tiny, monkeypatch, reaching):
    """As the contexts of a completion's events are; a context given twice is one of them."""
    nested = [LONG[:6], LONG, LONG[:15], LONG[:6], [*LONG[:9], 50, 51], [3, *LONG[1:]]]
    arms = [BASELINE, Condition("last", ["mlp.1*0@decode"])]
    arms += [Condition("prompt", ["mlp.0*0.5@prompt"])] if reaching else []
    ran = []

    def plan(prefixes):
        found = context_runs.planned(prefixes)
        ran.extend(run.prefix for runs in found for run in runs)
        return found

    monkeypatch.setattr(scoring, "planned", plan)
    found = dict(next_logits(tiny, nested, arms))
    assert sorted(found) == list(range(len(nested)))
    apart = {tuple(context[:-1]) for context in nested}
    together = {tuple(context) for context in (LONG[:-1], [*LONG[:9], 50], [3, *LONG[1:-1]])}
    assert sorted(prefix.ids for prefix in ran if not prefix.spec) == sorted(apart if reaching else together)
    assert len([prefix for prefix in ran if prefix.spec]) == (len(apart) if reaching else 0)
    for index, context in enumerate(nested):
        alone = dict(next_logits(tiny, [context], arms))[0]
        torch.testing.assert_close(found[index], alone, atol=1e-5, rtol=1e-5)


def test_contexts_that_begin_alike_come_out_as_alone(twin, monkeypatch):
    """On every architecture, with windows shorter than what is shared, and a beginning that is itself a copy."""
    model, generator = twin[0], torch.Generator().manual_seed(3)
    text = torch.randint(2, 60, (90,), generator=generator).tolist()
    alike = [
        [*text[:60], 5, *text[:9]],
        [*text[:60], 9, 9],
        text,
        [*text[:80], 7, 4],
        [*text[:22], 3, 8],
        [7, *text[:40]],
    ]
    arms = conditions(model)[:-1]
    monkeypatch.setattr(context_runs, "TOKENS_AT_ONCE", {"cpu": 100})
    ran = []
    monkeypatch.setattr(context_runs, "forward", lambda *a, **b: ran.append(a[1].numel()) or prefixes.forward(*a, **b))
    found = dict(next_logits(model, alike, arms))
    whole = sum(len(context) - 1 for context in alike)
    differing = 40 + 89 + 1 + 9 + 1 + 1
    assert sum(ran) == whole + differing  # a condition reaches into them: under that each is run by itself
    for index, context in enumerate(alike):
        torch.testing.assert_close(
            found[index], dict(next_logits(model, [context], arms))[0], atol=2e-5, rtol=2e-5, msg=str(index)
        )


def test_a_pass_of_which_nothing_is_read_ends_with_the_last_keys_and_leaves_no_trace(tiny):
    calls = []
    handle = tiny.plain.module.model.layers[-1].mlp.register_forward_hook(lambda *given: calls.append(len(given[2])))
    found = [dict(next_logits(tiny, CONTEXTS, [BASELINE]))[0] for _ in range(2)]
    handle.remove()
    assert calls == [3, 3]  # one token of each context: the step
    torch.testing.assert_close(found[0], found[1], atol=0, rtol=0)
    torch.testing.assert_close(found[0][0], tiny.logits(CONTEXTS[0])[0, -1], atol=1e-4, rtol=1e-4)


def test_rows_are_one_until_their_conditions_act(tiny):
    """A block holds the rows of conditions that act in it or before it, and one more of each context."""
    rows = []
    layers = tiny.plain.module.model.layers
    handles = [each.mlp.register_forward_hook(lambda *given: rows.append(len(given[2]))) for each in layers]
    arms = [Condition(str(site), [f"{site}*0@decode"]) for site in tiny.sites()]
    list(next_logits(tiny, CONTEXTS, [*arms, BASELINE, Condition("again", [])]))
    for handle in handles:
        handle.remove()
    per_context = [1 + 2 * (layer + 1) for layer in range(len(layers))]
    per_context[-1] += 1  # the second that changes nothing joins at last
    assert rows[-len(layers) :] == [3 * number for number in per_context]


def contexts_of(lengths, *, text, fed=1, start=0, specs=((),)):
    reaching = Reaching(specs)
    return [
        Scored(start + n, (*text[:length], *[1] * fed), length, fed, reaching.into(length, length))
        for n, length in enumerate(lengths)
    ]


def test_a_batch_runs_no_more_tokens_than_it_may():
    """Whether a condition reaches into nested contexts or not; nor is one run padded to the members of another."""
    text = tuple(range(2, 2100))
    lengths = range(200, 2000, 8)
    prompt = Condition("x", ["mlp.0*0.5@prompt"]).interventions
    for specs, runs in (([()], 1), ([(), prompt], len(lengths))):
        nested = contexts_of(lengths, text=text, specs=specs)
        rows = with_longer_ones(nested)
        found = list(batches(rows, most=256, tokens=2048))
        assert sorted(each.index for batch in found for each in batch) == list(range(len(nested)))
        assert len({each.whole for each in rows}) == runs
        for batch in found:
            kept = {prefix for each in batch for prefix in each.prefixes}
            assert len(batch) == 1 or runs == 1 or len(kept) * max(len(each.whole) for each in batch) <= 2048
    nested = contexts_of(lengths, text=text)
    others = [each for n in range(40) for each in contexts_of([1000], text=(n + 9000, *text), start=1000 + n)]
    for batch in batches(with_longer_ones(nested + others), most=10**6, tokens=10**9):
        of_run = Counter(each.whole for each in batch)
        assert len(of_run) * max(of_run.values()) <= UNEVEN * len(batch)


def test_contexts_that_begin_alike_are_in_one_batch():
    texts = [tuple(range(start, start + 300)) for start in (10, 1000, 2000)]
    rows = [
        each
        for n, text in enumerate(texts)
        for k in range(4)
        for each in contexts_of([140], text=(*text[: 80 + 10 * k], 5, k, *text), start=4 * n + k)
    ]
    found = list(batches(with_longer_ones(rows), most=4, tokens=10**6))
    assert [sorted(each.index for each in batch) for batch in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_contexts_that_feed_other_numbers_of_tokens_are_not_run_together():
    text = tuple(range(2, 300))
    rows = contexts_of([100, 250], text=text) + contexts_of([98], text=text, fed=2, start=2)
    found = {each.index: len(each.whole) for each in with_longer_ones(rows)}
    assert found == {0: 250, 1: 250, 2: 98}


@pytest.mark.parametrize("scope", ["all", "prompt", "decode", At([3]), At([0, 9]), At([7, 8])])
@pytest.mark.parametrize("length", [1, 3, 4, 7, 8, 12])
@pytest.mark.parametrize("prompt", [1, 4, 8])
def test_what_reaches_into_a_context_is_what_reaches_into_it_alone(scope, length, prompt):
    """Cases are told apart by little; each is as if asked for itself."""
    spec = (Replace("mlp.0", [0.1], scope), Replace("mlp.1", [0.1], At([5])))
    together = Reaching([spec, ()])
    for other in range(1, 14):
        together.into(other, 6)
    expected = (tuple(each for each in spec if prefixes.reaches(each, length, prompt)), ())
    assert together.into(length, prompt) == expected


def test_keys_that_turn_by_the_length_of_the_text_are_refused_where_they_do(tiny, monkeypatch):
    config = tiny.plain.module.config
    assert steady_length(tiny) is None
    for kind, limit in (("longrope", 12), ("dynamic", config.max_position_embeddings)):
        parameters = {"rope_type": kind, "original_max_position_embeddings": 12}
        monkeypatch.setattr(config, "rope_parameters", parameters)
        assert steady_length(tiny) == limit
        monkeypatch.setattr(config, "rope_parameters", {"full_attention": parameters, "sliding": {}})
        assert steady_length(tiny) == limit
    monkeypatch.setattr(config, "rope_parameters", {"rope_type": "longrope", "original_max_position_embeddings": 12})
    with pytest.raises(InputError, match="up to 22 tokens; beyond 12 .* score shorter contexts"):
        list(next_logits(tiny, CONTEXTS, [BASELINE]))
    problem = Problem(1, "2 + 2", "4")
    with pytest.raises(InputError, match="lower max_new_tokens, or sample with engine=.bridge."):
        sample(tiny, [problem], max_new_tokens=60)


def test_small_batches_equal_the_bridges(twin, monkeypatch):
    """Many batches and passes one after another, sites on the stream itself, conditions that reach into the text."""
    model, generator = twin[0], torch.Generator().manual_seed(4)
    monkeypatch.setattr(scoring, "ROWS_AT_ONCE", {"cpu": 30})
    monkeypatch.setattr(scoring, "KEPT", {"cpu": 150})
    monkeypatch.setattr(context_runs, "TOKENS_AT_ONCE", {"cpu": 40})
    text = torch.randint(2, 60, (40,), generator=generator).tolist()
    many = [[*text[:30], 5, *text[:9]], [*text[:30], 9, 9], text, text, [7, *text[:20]], [3, 4, 5]]
    streams = [f"resid_{side}.{layer}" for side in ("pre", "post") for layer in range(model.cfg.n_layers)]
    vector = torch.randn(model.cfg.d_model, generator=generator).tolist()
    arms = [Condition(f"{name} replaced", [Replace(name, vector, "decode")]) for name in streams]
    arms.append(Condition("two", ["mlp.0*0.5@prompt", "attn.1.h1*0@decode"]))
    arms.append(Condition("all", ["attn.1*0", Replace("mlp.0", vector, At([2]))]))
    prompts = [31, 20, 39, 30, 4, 2]
    found = dict(next_logits(model, many, arms, prompts=prompts))
    for index, (context, prompt) in enumerate(zip(many, prompts, strict=True)):
        for row, arm in zip(found[index], arms, strict=True):
            with model.intervening([*arm.interventions], prompt_lengths=[prompt]):
                expected = model.logits(context)[0, -1]
            torch.testing.assert_close(row, expected, atol=5e-4, rtol=5e-4, msg=f"{index} {arm.name}")


def test_bfloat16_is_as_far_from_float32_as_the_bridges():
    module, tokenizer = tiny_hf("qwen2"), tiny_tokenizer()
    exact = HookedReasoner.from_hf(copy.deepcopy(module), tokenizer, name="exact")
    model = HookedReasoner.from_hf(module.to(torch.bfloat16), tokenizer, name="bfloat16")
    arms = [BASELINE, Condition("mlp", ["mlp.1*0@decode"]), Condition("head", ["attn.0.h1*0@decode"])]
    alike = [LONG, [*LONG[:19], 9, 9]]
    expected, found = dict(next_logits(exact, alike, arms)), dict(next_logits(model, alike, arms))
    for index, context in enumerate(alike):
        bridge = (model.logits(context)[0, -1].float() - exact.logits(context)[0, -1]).abs().mean()
        assert (found[index] - expected[index]).abs().mean() < 2 * bridge


def test_receipts_that_disagree_stop_the_scoring(tiny, monkeypatch):
    monkeypatch.setattr(Edits, "_act", lambda self, place, activation: activation)
    with pytest.raises(ReceiptError, match=r"mlp.1\*0@decode touched 0 positions of 11 tokens, not 1"):
        list(next_logits(tiny, CONTEXTS[:1], [Condition("off", ["mlp.1*0@decode"])]))


def test_an_architecture_that_keeps_less_is_refused(tiny, monkeypatch):
    attend, layers = context_runs.Together.attend, tiny.cfg.n_layers

    def less(self, layer, *given, **named):
        read = attend(self, layer, *given, **named)
        self.layers.discard(0)
        return read

    monkeypatch.setattr(context_runs.Together, "attend", less)
    with pytest.raises(InputError, match=f"keeps keys and values in {layers - 1} of its {layers} layers"):
        list(next_logits(tiny, CONTEXTS, [Condition("all", ["mlp.1*0"])]))


def test_a_site_whose_rows_cannot_be_told_apart_is_refused():
    """OPT hands the MLP rows and positions together."""
    config = hf.OPTConfig(
        vocab_size=len(tiny_tokenizer()), hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, word_embed_proj_dim=32,
    )  # fmt: skip
    model = HookedReasoner.from_hf(hf.OPTForCausalLM(config), tiny_tokenizer(), name="tiny-opt")
    with pytest.raises(InputError, match=r"has the shape .*, not row, position and width.*engine=.bridge."):
        list(next_logits(model, CONTEXTS, [BASELINE, Condition("off", ["mlp.1*0@decode"])]))


def test_texts_that_longrope_leaves_alone_equal_the_bridges():
    """Up to the length at which it changes; see `steady_length`."""
    module = tiny_hf("llama")
    factors = {"short_factor": [1.0, 1.5, 2.0, 3.0], "long_factor": [4.0, 5.0, 6.0, 7.0], "rope_theta": 10000.0}
    config = copy.deepcopy(module.config)
    config.rope_parameters = {"rope_type": "longrope", "original_max_position_embeddings": 24, "factor": 2.0, **factors}
    model = HookedReasoner.from_hf(type(module)(config), tiny_tokenizer(), name="long")
    found = dict(next_logits(model, CONTEXTS, [BASELINE, Condition("off", ["mlp.1*0@decode"])]))
    for index, context in enumerate(CONTEXTS):
        torch.testing.assert_close(found[index][0], model.logits(context)[0, -1], atol=2e-4, rtol=2e-4)
    with pytest.raises(InputError, match="beyond 24"):
        list(next_logits(model, [*CONTEXTS, LONG + LONG], [BASELINE]))


def test_hooks_are_gone_while_and_after_it_is_read_and_after_an_error(tiny, monkeypatch):
    def hooks():
        modules = list(tiny.plain.module.modules())
        own = sum("forward" in each.__dict__ for each in modules)
        return own, sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in modules)

    arms = [BASELINE, *(Condition(str(site), [f"{site}*0@decode"]) for site in tiny.sites())]
    reading = next_logits(tiny, CONTEXTS, arms)
    next(reading)
    assert hooks() == (0, 0)
    reading.close()
    assert hooks() == (0, 0)

    def broken(*given, **named):
        assert all(hooks())
        raise RuntimeError("in the middle")

    monkeypatch.setattr(passes.Decode, "attend_turning", broken)
    with pytest.raises(RuntimeError, match="in the middle"):
        list(next_logits(tiny, CONTEXTS, arms))
    assert hooks() == (0, 0)


def test_weights_that_change_between_two_batches_count(monkeypatch):
    model = HookedReasoner.from_hf(tiny_hf("qwen2"), tiny_tokenizer(), name="tiny")
    contexts = [[5, 6, 7, 8], [9, 8, 7, 6]]
    monkeypatch.setitem(scoring.ROWS_AT_ONCE, "cpu", 1)
    found = next_logits(model, contexts, [BASELINE])
    (first, before) = next(found)
    for parameter in model.plain.module.parameters():
        parameter.data = parameter.data * 1.5
    (second, after) = next(found)
    anew = dict(next_logits(model, contexts, [BASELINE]))
    torch.testing.assert_close(after, anew[second])
    assert (before - anew[first]).abs().max() > 0.1


def test_what_cannot_be_scored_is_refused(tiny):
    with pytest.raises(InputError, match="takes 2 to 256"):
        list(next_logits(tiny, [[1]], [BASELINE]))
    with pytest.raises(InputError, match="cannot be scored"):
        list(next_logits(tiny, CONTEXTS, [Condition("ban", [Ban(["a"])])]))
    with pytest.raises(InputError, match="no contexts or no conditions"):
        list(next_logits(tiny, CONTEXTS, []))
    with pytest.raises(InputError, match="does not fit"):
        list(next_logits(tiny, CONTEXTS, [BASELINE], prompts=[4, 9, 3]))
