"""Logits under many conditions at once equal those of the bridge under each, one at a time."""

import pytest
import torch

from backtracking.core.errors import InputError
from backtracking.core.interventions import BASELINE, At, Ban, Condition, Replace
from backtracking.model.sampling import next_logits

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


def test_what_cannot_be_scored_is_refused(tiny):
    with pytest.raises(InputError, match="takes 2 to 256"):
        list(next_logits(tiny, [[1]], [BASELINE]))
    with pytest.raises(InputError, match="cannot be scored"):
        list(next_logits(tiny, CONTEXTS, [Condition("ban", [Ban(["a"])])]))
    with pytest.raises(InputError, match="no contexts or no conditions"):
        list(next_logits(tiny, CONTEXTS, []))
    with pytest.raises(InputError, match="does not fit"):
        list(next_logits(tiny, CONTEXTS, [BASELINE], prompts=[4, 9, 3]))
