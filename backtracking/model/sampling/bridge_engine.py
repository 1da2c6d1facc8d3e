"""The reference engine: a batch decoded token by token through the bridge's own forward pass.

It is the slow and plain one: left-padded rows, Hugging Face's key-value cache, hooks as TransformerLens
runs them. Rows that have finished leave the batch when half of it is done.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from backtracking.core.completions import Completion, Completions, FinishReason
from backtracking.core.degeneration import ends_in_a_loop
from backtracking.core.interventions import Ban
from backtracking.core.receipts import Receipt, check_receipts
from backtracking.model.hooks import NOWHERE, Intervening, intervening
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling.choice import choose
from backtracking.model.sampling.noise import row_key
from backtracking.model.sampling.plan import Row, Settings
from backtracking.model.tokens import decode_with_offsets, tokens_that_begin


@dataclass(frozen=True)
class _Batch:
    """The rows still being decoded, with all that the next step needs."""

    active: Int[Tensor, " active"]
    """Index of each of them among the rows of the unit."""
    mask: Int[Tensor, "active pos"]
    cache: object
    next_ids: Int[Tensor, " active"]
    finished: Bool[Tensor, " active"]


@torch.inference_mode()
def run_unit(model: HookedReasoner, rows: Sequence[Row], settings: Settings) -> Completions:
    """Sample every row of a unit in one batch.

    Raises:
        ReceiptError: An intervention touched other positions than the sampled tokens say.
    """
    device, stop_ids = model.device, model.stop_ids
    lengths = torch.tensor([len(row.prompt_ids) for row in rows], device=device)
    bans = _Bans(model, rows)
    keys = torch.tensor([row_key(settings.seed, row.problem_id, row.sample_id) for row in rows], device=device)
    sampled = torch.full((len(rows), settings.max_new_tokens), NOWHERE, device=device)
    interventions = [row.condition.interventions for row in rows]
    with intervening(model.bridge, interventions, prompt_lengths=lengths) as state:
        logits, batch = _prefill(model, rows, state)
        for step in range(settings.max_new_tokens):
            if step:
                logits, batch = _decode(model, batch, state, lengths + step - 1)
            allowed = bans.apply(logits, batch)
            tokens = choose(
                allowed,
                temperature=settings.temperature,
                top_p=settings.top_p,
                keys=keys[batch.active],
                positions=torch.full_like(batch.active, step),
            )
            going = ~batch.finished
            sampled[batch.active[going], step] = tokens[going]
            finished = batch.finished | torch.isin(tokens, stop_ids)
            batch = replace(batch, next_ids=tokens, finished=finished)
            if bool(finished.all()):
                break
        scaled = state.receipts()
    return Completions(
        _completion(model, row, ids[ids != NOWHERE].tolist(), (*scaled[index], *bans.receipts(index)))
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


class _Bans:
    """The logit bans of a unit: which tokens each row may not sample, and what that removed."""

    def __init__(self, model: HookedReasoner, rows: Sequence[Row]) -> None:
        self._tokens: dict[Ban, Tensor] = {}
        self._rows: dict[Ban, Tensor] = {}
        for ban in {i for row in rows for i in row.condition.interventions if isinstance(i, Ban)}:
            tokens = tokens_that_begin(model.tokenizer, ban.triggers)
            self._tokens[ban] = torch.tensor(tokens, device=model.device)
            under = [ban in row.condition.interventions for row in rows]
            self._rows[ban] = torch.tensor(under, device=model.device)
        self._applied = {ban: torch.zeros(len(rows)) for ban in self._tokens}
        self._removed = {ban: torch.zeros(len(rows)) for ban in self._tokens}

    def apply(self, logits: Float[Tensor, "active vocab"], batch: _Batch) -> Tensor:
        """Logits in which every banned token is impossible for the rows under the ban."""
        if not self._tokens:
            return logits
        probabilities = logits.float().softmax(dim=-1)
        allowed = logits.clone()
        for ban, tokens in self._tokens.items():
            here = (self._rows[ban][batch.active] & ~batch.finished).nonzero().flatten()
            allowed[here[:, None], tokens] = float("-inf")
            rows = batch.active[here].cpu()
            self._applied[ban][rows] += 1
            self._removed[ban][rows] -= probabilities[here][:, tokens].sum(1).cpu()
        return allowed

    def receipts(self, row: int) -> tuple[Receipt, ...]:
        """One receipt per ban in force on the row; the change is mean probability, negative."""
        found = []
        for ban, under in self._rows.items():
            if bool(under[row]):
                steps = int(self._applied[ban][row])
                found.append(Receipt(str(ban), steps, float(self._removed[ban][row]) / steps))
        return tuple(found)


def _completion(model: HookedReasoner, row: Row, ids: list[int], receipts: tuple[Receipt, ...]) -> Completion:
    check_receipts(
        receipts,
        row.condition.interventions,
        prompt_tokens=len(row.prompt_ids),
        sampled=len(ids),
    )
    stopped = ids[-1] in model.stop_ids.tolist()
    text, offsets = decode_with_offsets(model.tokenizer, ids[:-1] if stopped else ids)
    reason: FinishReason = "stop" if stopped else "degenerate" if ends_in_a_loop(ids) else "length"
    return Completion(
        problem_id=row.problem_id,
        sample_id=row.sample_id,
        variant=row.variant,
        condition=row.condition.name,
        prompt_ids=row.prompt_ids,
        ids=tuple(ids),
        text=text,
        offsets=(*offsets, len(text)) if stopped else offsets,
        finish_reason=reason,
        receipts=receipts,
    )
