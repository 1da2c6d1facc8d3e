"""How much a model is about to write a trigger, as one number per row of logits."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from backtracking.core.errors import InputError
from backtracking.model.reasoner import HookedReasoner

Reading = Literal["logit_difference", "trigger_log_prob"]
READINGS: tuple[Reading, ...] = get_args(Reading)


def trigger_tensor(model: HookedReasoner, trigger_ids: Sequence[int]) -> Int[Tensor, " trigger"]:
    """The trigger ids, sorted and once each, where the model is.

    Raises:
        InputError: There are none, one is not of the model's vocabulary, or they are all of it.
    """
    found = sorted(set(trigger_ids))
    if not found or found[0] < 0 or found[-1] >= model.cfg.d_vocab or len(found) >= model.cfg.d_vocab:
        raise InputError(
            f"{len(found)} trigger ids do not fit a vocabulary of {model.cfg.d_vocab}; "
            "give those of tokens_that_begin(model.tokenizer, lexicon.markers)"
        )
    return torch.tensor(found, device=model.device)


def check_reading(reading: str) -> None:
    """Refuse a reading that does not exist.

    Raises:
        InputError: It is none of `READINGS`.
    """
    if reading not in READINGS:
        raise InputError(f"no reading is called {reading!r}; give one of {', '.join(READINGS)}")


def trigger_reading(
    logits: Float[Tensor, "row vocab"], triggers: Int[Tensor, " trigger"], reading: Reading
) -> Float[Tensor, " row"]:
    """Read every row, in nats; gradients flow through it.

    `logit_difference`: logsumexp of the trigger tokens' logits minus the best other token's logit, which does not
    saturate; positive where triggers together beat every other token. `trigger_log_prob`: log-probability of all
    triggers together, at most 0.
    """
    together = logits[:, triggers].logsumexp(-1)
    if reading == "trigger_log_prob":
        return together - logits.logsumexp(-1)
    return together - logits.index_fill(1, triggers, -torch.inf).amax(-1)
