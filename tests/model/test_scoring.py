"""Logits under many conditions at once equal those of the bridge under each, one at a time."""

from collections import Counter

import pytest
import torch

from backtracking.core.errors import InputError
from backtracking.core.interventions import BASELINE, At, Ban, Condition, Replace
from backtracking.model.sampling import context_runs, next_logits, prefixes, scoring
from backtracking.model.sampling.scored_contexts import (
    UNEVEN,
    Reaching,
    Scored,
    batches,
    turns_by_length,
    with_longer_ones,
)

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

    def plan(prefixes, *, share):
        found = context_runs.planned(prefixes, share=share)
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
            whole = {each.whole for each in batch}
            assert len(whole) == 1 or len(whole) * max(map(len, whole)) <= 2048
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


def test_keys_that_turn_by_the_length_of_the_text_are_not_shared(tiny, monkeypatch):
    assert not turns_by_length(tiny)
    monkeypatch.setattr(tiny.plain.module.config, "rope_parameters", {"rope_type": "longrope"})
    assert turns_by_length(tiny)


def test_what_cannot_be_scored_is_refused(tiny):
    with pytest.raises(InputError, match="takes 2 to 256"):
        list(next_logits(tiny, [[1]], [BASELINE]))
    with pytest.raises(InputError, match="cannot be scored"):
        list(next_logits(tiny, CONTEXTS, [Condition("ban", [Ban(["a"])])]))
    with pytest.raises(InputError, match="no contexts or no conditions"):
        list(next_logits(tiny, CONTEXTS, []))
    with pytest.raises(InputError, match="does not fit"):
        list(next_logits(tiny, CONTEXTS, [BASELINE], prompts=[4, 9, 3]))
