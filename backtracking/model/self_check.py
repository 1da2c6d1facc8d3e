"""Checks of the user's own model, on the user's own machine, in seconds.

Each check states a law that every measurement rests on and gives the largest difference found, in
logits. A model that fails one is not fit for the measurement the law stands under.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformer_lens.tools.analysis import logit_lens

from backtracking.core.interventions import Scale
from backtracking.model.reasoner import HookedReasoner

TOKENS = 12
PADS = 5
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
LOOSE = 0.25
"""Tolerance in half precision, in logits."""


@dataclass(frozen=True)
class Check:
    """One law, and how far the model is from it."""

    law: str
    difference: float
    """Largest absolute difference of a logit; NaN where the law could not be tried."""
    tolerance: float
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the law holds within the tolerance."""
        return self.difference <= self.tolerance


def self_check(model: HookedReasoner) -> tuple[Check, ...]:
    """Check that cache, batching, padding, lens and hooks of this model do what they should."""
    tolerance = TOLERANCE.get(model.dtype, LOOSE)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, min(1000, model.cfg.d_vocab), (2, TOKENS), generator=generator)
    ids = ids.to(model.device)
    laws: tuple[tuple[str, Callable[[HookedReasoner, Tensor], float], float], ...] = (
        ("decoding with the cache equals a full forward pass", _cached, tolerance),
        ("a row in a batch equals the row alone", _batched, tolerance),
        ("padding on the left changes nothing", _left_padding, tolerance),
        ("padding on the right changes nothing", _right_padding, tolerance),
        ("the last row of the logit lens equals the logits", _last_lens_row, tolerance),
        ("scaling every site by 1 changes nothing, bit for bit", _scale_by_one, 0.0),
        ("hooks are gone after an exception", _hooks_after_error, 0.0),
    )
    with torch.inference_mode():
        return tuple(_tried(law, check, model, ids, limit) for law, check, limit in laws)


def _tried(
    law: str,
    check: Callable[[HookedReasoner, Tensor], float],
    model: HookedReasoner,
    ids: Tensor,
    limit: float,
) -> Check:
    try:
        return Check(law, check(model, ids), limit)
    except NotImplementedError as error:
        return Check(law, float("nan"), limit, note=str(error).splitlines()[0])


def _cached(model: HookedReasoner, ids: Tensor) -> float:
    mask = torch.ones_like(ids)
    _, cache = model.forward_cached(ids[:, :-1], mask[:, :-1], None)
    last, _ = model.forward_cached(ids[:, -1:], mask, cache)
    return _apart(last, model.logits(ids)[:, -1])


def _batched(model: HookedReasoner, ids: Tensor) -> float:
    together = model.logits(ids)
    alone = torch.cat([model.logits(row[None]) for row in ids])
    return _apart(together, alone)


def _left_padding(model: HookedReasoner, ids: Tensor) -> float:
    pads = torch.full((1, PADS), model.pad_id, device=ids.device)
    padded = torch.cat([torch.cat([pads, ids[:1, PADS:]], dim=1), ids[1:]])
    mask = torch.ones_like(ids)
    mask[0, :PADS] = 0
    last, _ = model.forward_cached(padded, mask, None)
    return _apart(last[0], model.logits(ids[:1, PADS:])[0, -1])


def _right_padding(model: HookedReasoner, ids: Tensor) -> float:
    pads = torch.full((2, PADS), model.pad_id, device=ids.device)
    return _apart(model.logits(torch.cat([ids, pads], dim=1))[:, :TOKENS], model.logits(ids))


def _last_lens_row(model: HookedReasoner, ids: Tensor) -> float:
    lens = logit_lens(model.bridge, ids, positions=-1, vocab=list(range(min(50, model.cfg.d_vocab))))
    logits = model.logits(ids)[:, -1, : min(50, model.cfg.d_vocab)]
    return _apart(lens.values[-1].reshape(logits.shape), logits)


def _scale_by_one(model: HookedReasoner, ids: Tensor) -> float:
    untouched = model.logits(ids)
    with model.intervening([Scale(site, 1.0) for site in model.sites()], rows=len(ids)):
        return _apart(model.logits(ids), untouched)


class _PlannedError(Exception):
    """Raised by the check of hooks to leave their context."""


def _hooks_after_error(model: HookedReasoner, ids: Tensor) -> float:
    untouched = model.logits(ids)
    try:
        with model.intervening([Scale(site, 0.0) for site in model.sites()], rows=len(ids)):
            raise _PlannedError
    except _PlannedError:
        return _apart(model.logits(ids), untouched)


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one.float() - other.float()).abs().max())
