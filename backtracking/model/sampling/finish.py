"""What becomes of a row that has finished: a completion whose receipts agree with its tokens."""

from collections.abc import Sequence

from backtracking.core.completions import Completion, FinishReason
from backtracking.core.degeneration import ends_in_a_loop
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
    check_receipts(receipts, row.condition.interventions, prompt_tokens=len(row.prompt_ids), sampled=len(ids))
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
