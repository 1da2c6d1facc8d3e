"""Receiver heads: heads to whose few favourite sentences all later sentences look back.

A head's attention is averaged over the tokens of each pair of sentences. A sentence's score is the mean attention it
gets from sentences at least `apart` later; the kurtosis of these scores over a completion's sentences is large where
few sentences stand out (Bogdan, Macar, Nanda and Conmy 2025, "Thought Anchors", arXiv 2506.19143). Tags, blank lines
and labels are no sentences.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import kurtosis
from torch import Tensor

from backtracking.core.clustered_means import clustered_means
from backtracking.core.completions import Completion
from backtracking.core.errors import InputError
from backtracking.measures.text_regions import sentence_spans
from backtracking.model.last_position import last_logits_only
from backtracking.model.reasoner import HookedReasoner

APART = 4
LEAST_SCORES = 4
"""Sentences that must have a score for a kurtosis to be stated."""


@dataclass(frozen=True)
class ReceiverHeads:
    """Kurtosis of the attention that sentences receive, by completion and head; positive: few sentences stand out."""

    problems: tuple[Hashable, ...]
    """Of each completion that was read."""
    apart: int
    kurtosis: Float[np.ndarray, "completion layer head"]
    """Excess kurtosis (0 for a normal distribution), biased, as scipy's default."""
    too_short: int
    """Completions without enough sentences, left out."""

    def to_pandas(self) -> pd.DataFrame:
        """One row per head, highest score first; intervals are 95 %, clustered by problem.

        `score` is the mean kurtosis over the `completions` that have one: where a head gives every sentence the same
        (a window too short to look back), none stands out and the kurtosis is missing.
        """
        _, layers, heads = self.kurtosis.shape
        cells = self.kurtosis.reshape(len(self.kurtosis), -1)
        place = np.indices((layers, heads)).reshape(2, -1)
        names = ("score", "score_low", "score_high", "completions", "problems")
        columns = {name: np.full(cells.shape[1], np.nan) for name in names}
        for known in np.unique(np.isfinite(cells), axis=1).T:  # heads known for the same completions, together
            alike = (np.isfinite(cells) == known[:, None]).all(0)
            problems = [problem for problem, here in zip(self.problems, known, strict=True) if here]
            means = clustered_means(cells[known][:, alike], problems)
            found = (means.value, means.low, means.high, means.n, means.clusters)
            for name, values in zip(names, found, strict=True):
                columns[name][alike] = values
        counts = {name: columns.pop(name).astype(int) for name in names[3:]}
        sites = [f"attn.{layer}.h{head}" for layer, head in place.T.tolist()]
        table = pd.DataFrame({"site": sites, "layer": place[0], "head": place[1]} | columns | counts)
        table = table.assign(too_short=self.too_short)
        return table.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def receiver_heads(model: HookedReasoner, completions: Sequence[Completion], *, apart: int = APART) -> ReceiverHeads:
    """Score every head of the model on whole completions, one at a time.

    Args:
        model: The reasoner that wrote them.
        completions: Those of one condition.
        apart: A sentence's score counts sentences so many later, at the least.

    Raises:
        InputError: No completion has enough sentences, completions of several conditions, or `apart` below 1.
    """
    if apart < 1:
        raise InputError(f"apart is {apart}; a sentence is looked back at from at least 1 later")
    conditions = {completion.condition for completion in completions}
    if len(conditions) > 1:
        raise InputError(f"completions of {len(conditions)} conditions are mixed; give those of one")
    found, problems = [], []
    for completion in completions:
        spans = sentence_spans(completion)
        if len(spans) - apart < LEAST_SCORES:
            continue
        scores = received_attention(model, completion, spans, apart=apart)
        found.append(_kurtosis(scores))
        problems.append(completion.problem_id)
    if not found:
        raise InputError(
            f"none of {len(completions)} completions has {apart + LEAST_SCORES} sentences; give longer ones or a "
            "smaller apart"
        )
    return ReceiverHeads(tuple(problems), apart, np.stack(found), len(completions) - len(found))


def _kurtosis(scores: Float[np.ndarray, "layer head sentence"]) -> Float[np.ndarray, "layer head"]:
    varied = np.ptp(scores, axis=-1) > 0
    found = np.full(scores.shape[:2], np.nan)
    found[varied] = kurtosis(scores[varied], axis=-1)
    return found


@torch.no_grad()
def received_attention(
    model: HookedReasoner, completion: Completion, spans: Sequence[tuple[int, int]], *, apart: int
) -> Float[np.ndarray, "layer head sentence"]:
    """Mean attention that each sentence gets from the tokens of sentences at least `apart` later, per token pair.

    Tokens outside the spans, such as tags and blank lines, count neither way. The last `apart` sentences have no such
    successors and no score. One layer's attention is in memory at a time.
    """
    ids = [*completion.prompt_ids, *completion.ids]
    prompt = len(completion.prompt_ids)
    member = torch.zeros(len(spans), len(ids), device=model.device)
    for sentence, (first, end) in enumerate(spans):
        member[sentence, prompt + first : prompt + end] = 1.0 / (end - first)
    scored = len(spans) - apart
    found = np.zeros((model.cfg.n_layers, model.cfg.n_heads, scored))
    later = torch.ones(len(spans), scored, device=model.device).tril(-apart)
    later = later / later.sum(0)

    def keep(layer: int) -> Any:
        def read(pattern: Float[Tensor, "1 head query key"], **_: Any) -> None:
            between = member @ pattern[0].float() @ member.T  # head x later sentence x earlier sentence
            found[layer] = (between[:, :, :scored] * later).sum(1).double().cpu().numpy()

        return read

    hooks = [(f"blocks.{layer}.attn.hook_pattern", keep(layer)) for layer in range(model.cfg.n_layers)]
    model.run_with_hooks(ids, hooks, **last_logits_only(model))
    return found
