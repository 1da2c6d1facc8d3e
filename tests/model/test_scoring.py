"""Logits under many conditions at once equal those of the bridge under each, one at a time."""

from collections import Counter

import pytest
import torch

from backtracking.core.errors import InputError
from backtracking.core.interventions import BASELINE, At, Ban, Condition, Replace
from backtracking.model.sampling import next_logits, scoring
from backtracking.model.sampling.prefixes import Prefixes

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
    run_next = Prefixes.run_next
    monkeypatch.setattr(Prefixes, "run_next", lambda self: ran.extend(batch := run_next(self)) or batch)
    found = dict(next_logits(tiny, nested, arms))
    assert sorted(found) == list(range(len(nested)))
    apart = {tuple(context[:-1]) for context in nested}
    together = {tuple(context) for context in (LONG[:-1], [*LONG[:9], 50], [3, *LONG[1:-1]])}
    assert sorted(prefix.ids for prefix in ran if not prefix.spec) == sorted(apart if reaching else together)
    assert len([prefix for prefix in ran if prefix.spec]) == (len(apart) if reaching else 0)
    for index, context in enumerate(nested):
        alone = dict(next_logits(tiny, [context], arms))[0]
        torch.testing.assert_close(found[index], alone, atol=1e-5, rtol=1e-5)


def contexts_of(lengths, *, text, fed=1, start=0):
    return [scoring._Context(start + n, (*text[:length], 1), length, fed) for n, length in enumerate(lengths)]


def test_a_batch_runs_no_more_tokens_than_it_may():
    """Whether a condition reaches into nested contexts or not; nor is one run padded to the members of another."""
    text = tuple(range(2, 2100))
    nested = contexts_of(range(200, 2000, 8), text=text)
    reaching = [(), Condition("x", ["mlp.0*0.5@prompt"]).interventions]
    for specs, runs in (([()], 1), (reaching, len(nested))):
        rows = scoring._with_longer_ones(nested, specs)
        batches = list(scoring._batches(rows, most=256, tokens=2048))
        assert sorted(each.index for batch in batches for each in batch) == list(range(len(nested)))
        assert len({each.whole for each in rows}) == runs
        for batch in batches:
            whole = {each.whole for each in batch}
            assert len(whole) == 1 or len(whole) * max(map(len, whole)) <= 2048
    others = [each for n in range(40) for each in contexts_of([1000], text=(n + 9000, *text), start=1000 + n)]
    for batch in scoring._batches(scoring._with_longer_ones(nested + others, [()]), most=10**6, tokens=10**9):
        of_run = Counter(each.whole for each in batch)
        assert len(of_run) * max(of_run.values()) <= scoring.UNEVEN * len(batch)


def test_contexts_that_feed_other_numbers_of_tokens_are_not_run_together():
    text = tuple(range(2, 300))
    rows = contexts_of([100, 250], text=text) + contexts_of([99], text=text, fed=2, start=2)
    found = {each.index: len(each.whole) for each in scoring._with_longer_ones(rows, [()])}
    assert found == {0: 250, 1: 250, 2: 98}


def test_keys_that_turn_by_the_length_of_the_text_are_not_shared(tiny, monkeypatch):
    assert not scoring._turns_by_length(tiny)
    monkeypatch.setattr(tiny.plain.module.config, "rope_parameters", {"rope_type": "longrope"})
    assert scoring._turns_by_length(tiny)


def test_what_cannot_be_scored_is_refused(tiny):
    with pytest.raises(InputError, match="takes 2 to 256"):
        list(next_logits(tiny, [[1]], [BASELINE]))
    with pytest.raises(InputError, match="cannot be scored"):
        list(next_logits(tiny, CONTEXTS, [Condition("ban", [Ban(["a"])])]))
    with pytest.raises(InputError, match="no contexts or no conditions"):
        list(next_logits(tiny, CONTEXTS, []))
    with pytest.raises(InputError, match="does not fit"):
        list(next_logits(tiny, CONTEXTS, [BASELINE], prompts=[4, 9, 3]))
