"""How likely a trigger was at every token of a completion that is already written."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from backtracking.core.completions import Completion
from backtracking.core.errors import InputError
from backtracking.core.interventions import Intervention
from backtracking.core.onsets import DEFAULT_LEXICON, Lexicon
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.tokens import tokens_that_begin


@dataclass(frozen=True)
class TriggerProbability:
    """For each sampled token of one completion, the probability that a trigger begins in its place."""

    problem_id: int | str
    sample_id: int
    variant: str
    condition: str
    """Under which the completion was sampled."""
    under: str
    """The interventions it was read under, or "no intervention"."""
    tokens: tuple[str, ...]
    """Text of each sampled token; the stop token's is empty."""
    log_prob: Float[np.ndarray, " token"]
    """Natural logarithm of the probability of all tokens that begin a trigger, given all that stands before."""

    @property
    def probability(self) -> Float[np.ndarray, " token"]:
        """From 0 to 1."""
        return np.exp(self.log_prob)

    def to_pandas(self) -> pd.DataFrame:
        """One row per sampled token: index, text, log_prob, probability."""
        columns = {"token": range(len(self.tokens)), "text": self.tokens, "log_prob": self.log_prob}
        return pd.DataFrame(columns | {"probability": self.probability})


def trigger_probability(
    model: HookedReasoner,
    completion: Completion,
    *,
    interventions: Sequence[Intervention | str] = (),
    trigger_ids: Sequence[int] | None = None,
    lexicon: Lexicon = DEFAULT_LEXICON,
) -> TriggerProbability:
    """Read a completion's own tokens once and take, before each of them, the log-sum-exp over all trigger tokens.

    It is the model's distribution at temperature 1, before any top-p cut.

    Args:
        model: The reasoner.
        completion: With its prompt's ids.
        interventions: In force while reading; give those of its condition to see what the sampler saw.
        trigger_ids: Tokens that begin a trigger; those of the lexicon's strict triggers if not given.
        lexicon: The triggers.

    Raises:
        InputError: The completion has no tokens, or is longer than the model's context; a ban among the
            interventions, which acts where tokens are sampled.
    """
    ids = [*completion.prompt_ids, *completion.ids]
    if not completion.ids or not completion.prompt_ids:
        raise InputError(f"sample {completion.sample_id} of problem {completion.problem_id!r} has no tokens to read")
    if len(ids) > model.context:
        raise InputError(f"the completion has {len(ids)} tokens with its prompt; {model.name} takes {model.context}")
    chosen = list(trigger_ids if trigger_ids is not None else tokens_that_begin(model.tokenizer, lexicon.strict))
    start = len(completion.prompt_ids)
    held = model.intervening(list(interventions), prompt_lengths=[start]) if interventions else nullcontext()
    with held:
        logits = model.logits(ids)[0, start - 1 : -1].float()
    among = logits[:, torch.tensor(chosen, device=logits.device)]
    log_prob = among.logsumexp(-1) - logits.logsumexp(-1)
    return TriggerProbability(
        problem_id=completion.problem_id,
        sample_id=completion.sample_id,
        variant=completion.variant,
        condition=completion.condition,
        under=", ".join(map(str, interventions)) or "no intervention",
        tokens=tuple(completion.token_text(index) for index in range(len(completion.ids))),
        log_prob=log_prob.double().cpu().numpy(),
    )
