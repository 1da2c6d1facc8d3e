"""What becomes of a row: a completion whose receipts agree with its tokens, or an error that names its arm."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from backtracking.core.completions import Completion, FinishReason
from backtracking.core.degeneration import ends_in_a_loop
from backtracking.core.errors import NotFiniteError
from backtracking.core.receipts import Receipt, check_receipts
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling.plan import Row
from backtracking.model.tokens import decode_with_offsets


def completion_of(
    model: HookedReasoner, row: Row, ids: Sequence[int], receipts: tuple[Receipt, ...], stop_ids: set[int]
) -> Completion:
    """The completion of a row from its sampled ids, the stop token included.

    Raises:
        ReceiptError: An intervention touched other positions than the ids say.
    """
    check_receipts(
        receipts,
        row.condition.interventions,
        prompt_tokens=row.prompt_tokens,
        sampled=len(ids),
        sampled_before=row.sampled_before,
    )
    stopped = ids[-1] in stop_ids
    text, offsets = decode_with_offsets(model.tokenizer, list(ids[:-1] if stopped else ids))
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


def not_finite(rows: Sequence[Row], logits: Float[Tensor, "row vocab"]) -> NotFiniteError:
    """The error for rows some of which have no token that could be sampled: it names their arms and a remedy."""
    finite = torch.isfinite(logits.max(dim=-1).values).tolist()
    broken = {row.condition.name: row.condition for row, sound in zip(rows, finite, strict=True) if not sound}
    whose = "; ".join(f"{name} ({arm})" if arm.interventions else name for name, arm in broken.items())
    if any(not arm.interventions for arm in broken.values()):
        cause = f"the model itself breaks in {str(logits.dtype).removeprefix('torch.')}; load it in another dtype"
    else:
        cause = "an intervention broke the model; make its factor or scale smaller"
    return NotFiniteError(f"the logits are not finite in the arms {whose}: {cause}")
