"""Ablation scan: which sites write the trigger, found by scaling each at the position that predicts it.

At every event each site is scaled (zeroed by default) at the prediction position, or at the last few positions up to
it where the decision may be prepared, so the context before is untouched. All changes are ablated - baseline:
NEGATIVE means that the site writes the trigger. A zeroed site also changes the scale of the norms behind it; the
controls show what that alone does, and how much the site matters to any text.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from backtracking.core.errors import InputError
from backtracking.core.interventions import BASELINE, Condition, Scale
from backtracking.core.sites import Component
from backtracking.measures.component_sites import component_sites
from backtracking.measures.decision_points import DecisionPoints
from backtracking.measures.scan_tables import AblationScan
from backtracking.measures.trigger_reading import trigger_tensor
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling.scoring import next_logits

READ_AT_ONCE = 4_000_000
"""Logits that are read together, about."""


def ablation_scan(
    model: HookedReasoner,
    points: DecisionPoints,
    *,
    trigger_ids: Sequence[int],
    components: Sequence[Component] = ("attn", "mlp"),
    layers: Sequence[int] | None = None,
    heads: bool = False,
    factor: float = 0.0,
    window: int = 1,
) -> AblationScan:
    """Scale every site at every decision point and see what becomes of the trigger.

    Contexts are run once each, or together with others that begin alike, and their logits under all conditions leave
    memory as soon as some of them (`READ_AT_ONCE`) are read.

    Args:
        model: The reasoner that wrote the completions.
        points: Events, and controls if there are any; controls cost as much as events.
        trigger_ids: Tokens that begin a trigger, as `tokens_that_begin` gives them for the lexicon.
        components: Of which sites every layer's is scanned.
        layers: Only these; all if not given.
        heads: Scan every attention head of those layers besides.
        factor: What sites are scaled by; 1 changes nothing.
        window: Positions at which they are scaled: the prediction position and those before it, as far as they
            hold sampled tokens. 1 is the prediction position alone.

    Raises:
        InputError: There are no events, a window below 1, trigger ids that are none or not the model's, or a site
            the model does not have.
    """
    if not points.events:
        raise InputError("there are no events to scan; sample more completions")
    if window < 1:
        raise InputError(f"window is {window}; the least is 1, the prediction position alone")
    triggers = trigger_tensor(model, trigger_ids)
    sites = component_sites(model, components, layers, heads)
    conditions = (BASELINE, *(Condition(str(site), [Scale(site, factor, "decode")]) for site in sites))
    every = points.all
    read = np.full((3, len(every), len(conditions)), np.nan)
    kl = np.full((len(every), len(sites)), np.nan)
    contexts = [point.context for point in every]
    prompts = [min(max(len(p.context) - window, p.prompt_tokens), len(p.context) - 1) for p in every]
    tokens = torch.tensor([point.token_id for point in every], device=triggers.device)
    for indices, logits in _in_groups(next_logits(model, contexts, conditions, prompts=prompts)):
        log_probs = logits.double().log_softmax(-1)
        base = log_probs[:, :1]
        kl[indices] = (base.exp() * (base - log_probs[:, 1:])).sum(-1).cpu().numpy()
        read[:, indices] = _read(log_probs, tokens[indices], triggers).cpu().numpy()
    base, changes = read[:, :, 0], read[:, :, 1:] - read[:, :, :1]
    return AblationScan(
        points=points,
        sites=sites,
        factor=factor,
        window=window,
        kl=kl,
        trigger_ids=tuple(triggers.tolist()),
        log_prob=changes[0],
        trigger_log_prob=changes[1],
        logit_difference=changes[2],
        baseline_log_prob=base[0],
        baseline_trigger_log_prob=base[1],
        baseline_logit_difference=base[2],
    )


def _in_groups(
    found: Iterable[tuple[int, Float[Tensor, "condition vocab"]]],
) -> Iterator[tuple[list[int], Float[Tensor, "context condition vocab"]]]:
    """Contexts that are read together, with their indices."""
    indices: list[int] = []
    logits: list[Tensor] = []
    for index, each in found:
        indices.append(index)
        logits.append(each)
        if (len(logits) + 1) * each.numel() > READ_AT_ONCE:
            yield indices, torch.stack(logits)
            indices, logits = [], []
    if logits:
        yield indices, torch.stack(logits)


def _read(
    log_probs: Float[Tensor, "context condition vocab"], tokens: Int[Tensor, " context"], triggers: Tensor
) -> Float[Tensor, "quantity context condition"]:
    """Log-probability of the token, of all triggers together, and triggers against the best other token."""
    of_token = log_probs.gather(-1, tokens[:, None, None].expand(-1, log_probs.shape[1], 1))[..., 0]
    together = log_probs[..., triggers].logsumexp(-1)
    best_other = log_probs.index_fill(-1, triggers, -torch.inf).amax(-1)
    return torch.stack([of_token, together, together - best_other])
