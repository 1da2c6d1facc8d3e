"""The reference engine: a batch decoded token by token through the bridge's own forward pass.

It is the slow and plain one: left-padded rows, Hugging Face's key-value cache, hooks as TransformerLens
runs them. Rows that have finished leave the batch when half of it is done.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from backtracking.core.completions import Completions
from backtracking.core.errors import NotFiniteError
from backtracking.core.settings import Settings
from backtracking.model.hooks import NOWHERE, Intervening, intervening
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling.alone import alone
from backtracking.model.sampling.bans import Bans
from backtracking.model.sampling.choice import choose
from backtracking.model.sampling.finish import completion_of, not_finite
from backtracking.model.sampling.noise import row_key
from backtracking.model.sampling.plan import Row
from backtracking.model.threads import threads_for


@dataclass(frozen=True)
class _Batch:
    """The rows still being decoded, with all that the next step needs."""

    active: Int[Tensor, " active"]
    """Index of each of them among the rows of the unit."""
    mask: Int[Tensor, "active pos"]
    cache: object
    next_ids: Int[Tensor, " active"]
    finished: Bool[Tensor, " active"]


@alone
@torch.inference_mode()
def run_unit(model: HookedReasoner, rows: Sequence[Row], settings: Settings) -> Completions:
    """Sample every row of a unit in one batch.

    Raises:
        ReceiptError: An intervention touched other positions than the sampled tokens say.
    """
    device, stop_ids = model.device, model.stop_ids
    lengths = torch.tensor([len(row.prompt_ids) for row in rows], device=device)
    bans = Bans(model, rows)
    keys = torch.tensor([row_key(settings.seed, row.problem_id, row.sample_id) for row in rows], device=device)
    sampled = torch.full((len(rows), settings.max_new_tokens), NOWHERE, device=device)
    interventions = [row.condition.interventions for row in rows]
    prompts = lengths - torch.tensor([row.sampled_before for row in rows], device=device)
    with threads_for(model.module), intervening(model.bridge, interventions, prompt_lengths=prompts) as state:
        logits, batch = _prefill(model, rows, state)
        for step in range(settings.max_new_tokens):
            if step:
                logits, batch = _decode(model, batch, state, lengths + step - 1)
            allowed = bans.apply(logits, batch.active, ~batch.finished)
            nucleus = {"temperature": settings.temperature, "top_p": settings.top_p}
            positions = torch.full_like(batch.active, step)
            try:
                tokens = choose(allowed, **nucleus, keys=keys[batch.active], positions=positions)
            except NotFiniteError as error:
                raise not_finite([rows[row] for row in batch.active.tolist()], allowed) from error
            going = ~batch.finished
            sampled[batch.active[going], step] = tokens[going]
            finished = batch.finished | torch.isin(tokens, stop_ids)
            batch = replace(batch, next_ids=tokens, finished=finished)
            if bool(finished.all()):
                break
        scaled = state.receipts()
    stop_set = set(stop_ids.tolist())
    return Completions(
        completion_of(model, row, ids[ids != NOWHERE].tolist(), (*scaled[index], *bans.receipts(index)), stop_set)
        for index, (row, ids) in enumerate(zip(rows, sampled, strict=True))
    )


def _prefill(
    model: HookedReasoner, rows: Sequence[Row], state: Intervening
) -> tuple[Float[Tensor, "row vocab"], _Batch]:
    width = max(len(row.prompt_ids) for row in rows)
    pads = [width - len(row.prompt_ids) for row in rows]
    ids = [[model.pad_id] * pad + list(row.prompt_ids) for pad, row in zip(pads, rows, strict=True)]
    mask = [[0] * pad + [1] * (width - pad) for pad in pads]
    tokens = torch.tensor(ids, device=model.device)
    attended = torch.tensor(mask, device=model.device)
    positions = (attended.cumsum(1) - 1).masked_fill(attended == 0, NOWHERE)
    state.locate(positions)
    logits, cache = model.forward_cached(tokens, attended, None)
    active = torch.arange(len(rows), device=model.device)
    return logits, _Batch(active, attended, cache, tokens[:, -1], torch.zeros_like(active).bool())


def _decode(
    model: HookedReasoner, batch: _Batch, state: Intervening, positions: Int[Tensor, " row"]
) -> tuple[Float[Tensor, "active vocab"], _Batch]:
    """Feed each row's last token; a finished row feeds padding that nothing attends to."""
    if 2 * int(batch.finished.sum()) >= len(batch.active):
        batch = _without_finished(batch)
    going = ~batch.finished
    mask = torch.cat([batch.mask, going[:, None].long()], dim=1)
    state.locate(torch.where(going, positions[batch.active], NOWHERE)[:, None], batch.active)
    fed = torch.where(going, batch.next_ids, model.pad_id)
    logits, cache = model.forward_cached(fed[:, None], mask, batch.cache)
    return logits, replace(batch, mask=mask, cache=cache)


def _without_finished(batch: _Batch) -> _Batch:
    keep = (~batch.finished).nonzero().flatten()
    batch.cache.batch_select_indices(keep)  # pyright: ignore[reportAttributeAccessIssue]
    return _Batch(batch.active[keep], batch.mask[keep], batch.cache, batch.next_ids[keep], batch.finished[keep])
