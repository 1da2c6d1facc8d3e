"""Logits under many conditions at once equal those of the bridge under each, one at a time."""

import pytest
import torch

from backtracking.core.errors import InputError
from backtracking.core.interventions import BASELINE, At, Ban, Condition, Replace
from backtracking.model.sampling import next_logits
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
    plain = [prefix.ids for prefix in ran if not prefix.spec]
    assert sorted(plain) == sorted(map(tuple, (LONG[:-1], [*LONG[:9], 50], [3, *LONG[1:-1]])))
    # A condition that reaches into the prompt has each context run for itself, equal ones once.
    assert len(ran) - len(plain) == (5 if reaching else 0)
    for index, context in enumerate(nested):
        alone = dict(next_logits(tiny, [context], arms))[0]
        torch.testing.assert_close(found[index], alone, atol=1e-5, rtol=1e-5)


def test_what_cannot_be_scored_is_refused(tiny):
    with pytest.raises(InputError, match="takes 2 to 256"):
        list(next_logits(tiny, [[1]], [BASELINE]))
    with pytest.raises(InputError, match="cannot be scored"):
        list(next_logits(tiny, CONTEXTS, [Condition("ban", [Ban(["a"])])]))
    with pytest.raises(InputError, match="no contexts or no conditions"):
        list(next_logits(tiny, CONTEXTS, []))
    with pytest.raises(InputError, match="does not fit"):
        list(next_logits(tiny, CONTEXTS, [BASELINE], prompts=[4, 9, 3]))
