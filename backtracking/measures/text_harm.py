"""Harm to ordinary text of interventions that are in force throughout, as the arms of a run have them.

Where a scan switches a site off at a few positions, an arm switches it off at every sampled token, and what each
position loses adds up. Here baseline completions are read again on their own tokens, under each condition, and
compared with the model's own next-token distribution: KL(baseline || condition), in nats per token. Nothing is
sampled, and no outcome of an arm (its rate, its accuracy) has a part in it, so sites may be selected by it.

Ordinary tokens are the sampled ones that keep clear of every trigger, before and behind; the first is left out,
since an untouched prompt chose it. Tokens that begin a trigger are taken out of both distributions: that a trigger
becomes less likely where it might have come is what a site is selected for, and no harm.

How much is too much? The KL divergence of whole texts is the sum over their tokens, so 0.01 nats per token, what a run
allows if not told, is one nat in 100 tokens. On the organism (`data/benchmarks/text_harm.csv`, upper ends of
intervals) the head it was taught to notice errors with does 0.0016. Of the 17 sites up to 0.01 one costs 11 points of
accuracy when off throughout, and no other more than that head, 6; of the 19 beyond, two make the organism err less and
the others cost 10 to 86 points, more or less in the order of their harm (mlp.4: 0.13, 68 points).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from backtracking.core.clustered_means import ClusteredMeans, clustered_means
from backtracking.core.completions import Completion
from backtracking.core.errors import InputError
from backtracking.core.interventions import BASELINE, Condition, Intervention
from backtracking.core.onsets import DEFAULT_LEXICON, Lexicon
from backtracking.core.receipts import check_receipts
from backtracking.core.sites import Site
from backtracking.core.statistics import Estimate
from backtracking.core.turns import spread
from backtracking.measures.control_pools import Marks
from backtracking.measures.decision_points import CLEARANCE
from backtracking.measures.logit_lens import LensError, lens_logits
from backtracking.measures.tails import batches
from backtracking.measures.trigger_reading import trigger_tensor
from backtracking.model.hooks import NOWHERE
from backtracking.model.last_position import last_logits_only
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.self_check import LOOSE, TOLERANCE

TEXTS = 64
"""Completions that are read, if not told."""
_VALUES_AT_ONCE = 2**24


@dataclass(frozen=True)
class TextHarm:
    """How far each condition moves the next-token distribution of ordinary text."""

    conditions: tuple[Condition, ...]
    kl: ClusteredMeans
    """KL(baseline || condition) in nats per ordinary token, one cell a condition; 0 is no harm. Intervals are 95 %,
    clustered by problem: NaN for one problem. All are NaN where no token is ordinary."""
    texts: int
    """Completions that were read, those without an ordinary token included."""

    def of(self, name: str) -> Estimate:
        """The estimate of a condition, `n` being ordinary tokens.

        Raises:
            InputError: It was not measured.
        """
        names = [condition.name for condition in self.conditions]
        if name not in names:
            raise InputError(f"the harm of {name} was not measured; there are {', '.join(names) or 'none'}")
        cell, kl = names.index(name), self.kl
        return Estimate(float(kl.value[cell]), float(kl.low[cell]), float(kl.high[cell]), kl.n, kl.clusters)

    def to_pandas(self) -> pd.DataFrame:
        """One row per condition: name, interventions, `text_kl` with its interval, tokens, problems, texts."""
        return pd.DataFrame(
            {
                "condition": [condition.name for condition in self.conditions],
                "interventions": [" + ".join(map(str, condition.interventions)) for condition in self.conditions],
                "text_kl": self.kl.value,
                "text_kl_low": self.kl.low,
                "text_kl_high": self.kl.high,
                "tokens": self.kl.n,
                "problems": self.kl.clusters,
                "texts": self.texts,
            }
        )


def text_harm(
    model: HookedReasoner,
    completions: Sequence[Completion],
    conditions: Sequence[Condition],
    *,
    trigger_ids: Sequence[int],
    lexicon: Lexicon = DEFAULT_LEXICON,
    clearance: int = CLEARANCE,
    texts: int = TEXTS,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> TextHarm:
    """Read baseline completions under every condition and measure what it does to their ordinary text.

    One forward pass per batch of completions and condition, besides one for the baseline.

    Args:
        model: The reasoner that wrote the completions.
        completions: Of which the baseline's are read; those of other conditions are left out.
        conditions: What is in force, such as `Scale(site, 0, "decode")` for a site that is switched off throughout.
        trigger_ids: Tokens that begin a trigger, as `tokens_that_begin` gives them for the lexicon.
        lexicon: The triggers that ordinary text keeps clear of.
        clearance: By how many tokens, on both sides.
        texts: How many completions are read at most: one of every problem at random, then another of each, and so on.
        seed: Of their choice, and of the intervals.
        progress: Told how many texts are done.

    Raises:
        InputError: There is no completion of the baseline with two tokens, a number too small, a completion longer
            than the context, a ban, a window, or a site the model does not have.
        ReceiptError: An intervention touched other positions than it would while sampling.
        LensError: The last layer of the lens is not the model's logits.
    """
    for name, value, least in (("texts", texts, 1), ("clearance", clearance, 0)):
        if value < least:
            raise InputError(f"{name} is {value}; give at least {least}")
    long_enough = [row for row in completions if row.condition == BASELINE.name and row.prompt_ids and len(row.ids) > 1]
    if not long_enough:
        raise InputError("no completion of the baseline has two tokens; sample the baseline first")
    chosen = spread(long_enough, texts, seed=seed)
    lengths = [len(row.prompt_ids) + len(row.ids) - 1 for row in chosen]
    if max(lengths) > model.context:
        raise InputError(f"a completion has {max(lengths) + 1} tokens with its prompt; {model.name} takes fewer")
    marks = Marks((), clearance=clearance, lexicon=lexicon)
    triggers, read, problems, done = trigger_tensor(model, trigger_ids), [], [], 0
    for indices in batches(lengths, model):
        batch = [chosen[index] for index in indices]
        places = [(row, at) for row, each in enumerate(batch) for at in _ordinary(each, marks)]
        read.append(_divergences(model, batch, places, conditions, triggers))
        problems += [batch[row].problem_id for row, _ in places]
        done += len(batch)
        if progress is not None:
            progress("harm to ordinary text", done, len(chosen))
    found = clustered_means(np.concatenate(read), problems, seed=seed)
    return TextHarm(tuple(conditions), found, len(chosen))


def _ordinary(completion: Completion, marks: Marks) -> list[int]:
    """Indices of the ordinary tokens of a completion."""
    return [at for at in range(1, len(completion.ids)) if not marks.near(completion, at)]


def _divergences(
    model: HookedReasoner,
    batch: Sequence[Completion],
    places: Sequence[tuple[int, int]],
    conditions: Sequence[Condition],
    triggers: Int[Tensor, " trigger"],
) -> Float[np.ndarray, "token condition"]:
    """KL divergence at every place: row of the batch, and index of the sampled token that is predicted there."""
    rows = [row for row, _ in places]
    columns = [len(batch[row].prompt_ids) - 1 + at for row, at in places]
    base = _last_layer(model, batch, ())[rows, columns]
    found = np.empty((len(places), len(conditions)))
    at_once = max(1, _VALUES_AT_ONCE // int(model.cfg.d_vocab))
    for number, condition in enumerate(conditions):
        changed = _last_layer(model, batch, condition.interventions)[rows, columns]
        for start in range(0, len(places), at_once):
            part = slice(start, start + at_once)
            own, other = (_without(lens_logits(model, each[None, part])[0], triggers) for each in (base, changed))
            found[part, number] = (own.exp() * (own - other)).sum(-1).cpu().numpy()
    return found


def _without(logits: Float[Tensor, "token vocab"], triggers: Int[Tensor, " trigger"]) -> Float[Tensor, "token other"]:
    """Log-probabilities, in nats, of all tokens but those, given that none of those comes."""
    kept = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device).index_fill(0, triggers, False)
    return logits[:, kept].double().log_softmax(-1)


def _last_layer(
    model: HookedReasoner, batch: Sequence[Completion], interventions: Sequence[Intervention]
) -> Float[Tensor, "row pos d_model"]:
    """Residual stream after the last layer, padded on the right, under interventions whose receipts are checked."""
    fed = [[*each.prompt_ids, *each.ids[:-1]] for each in batch]
    width, device = max(map(len, fed)), model.device
    ids = torch.tensor([each + [model.pad_id] * (width - len(each)) for each in fed], device=device)
    mask = torch.arange(width, device=device) < torch.tensor([[len(each)] for each in fed], device=device)
    positions = torch.where(mask, torch.arange(width, device=device), NOWHERE)
    name = Site("resid_post", model.cfg.n_layers - 1).hook_name
    prompts = [each.prompt_tokens for each in batch]
    with model.intervening(list(interventions), rows=len(batch), prompt_lengths=prompts) as state:
        state.locate(positions)
        logits, cache = model.run_with_cache(
            ids, attention_mask=mask.long(), names_filter=[name], **last_logits_only(model)
        )
    for each, receipts in zip(batch, state.receipts(), strict=True):
        check_receipts(receipts, interventions, prompt_tokens=each.prompt_tokens, sampled=len(each.ids))
    resid = cache[name].reshape(len(batch), width, -1)
    longest = max(range(len(fed)), key=lambda row: len(fed[row]))  # the row whose last column is no padding
    off = float((lens_logits(model, resid[None, longest, -1:])[0, 0] - logits[longest, -1].float()).abs().max())
    if not off <= TOLERANCE.get(model.dtype, LOOSE):
        raise LensError(f"the last layer of the lens differs from the logits of {model.name} by {off:.3g}")
    return resid
