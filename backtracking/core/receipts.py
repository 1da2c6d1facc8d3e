"""Receipts: proof that an intervention touched a row, where the tokens say it should have."""

from collections.abc import Sequence
from dataclasses import dataclass

from backtracking.core.errors import ReceiptError
from backtracking.core.interventions import At, Ban, Intervention, Window


@dataclass(frozen=True)
class Receipt:
    """What one intervention did to one row."""

    intervention: str
    """Its text form, such as `mlp.27*0.5@decode`."""
    positions: int
    """Positions of the sequence it touched; for a ban, tokens sampled under it."""
    change: float
    """Mean over those positions of the change it made: of the activation's norm (after minus
    before), or of the probability of the banned tokens. NaN where it touched nothing."""


def expected_positions(intervention: Intervention, prompt_tokens: int, sampled: int, sampled_before: int = 0) -> int:
    """How many positions an intervention has to touch while `sampled` tokens are sampled after the earlier ones.

    The last sampled token is never fed back, so the model sees the prompt and one sampled token less.
    """
    if isinstance(intervention, Ban):
        return sampled
    fed = sampled_before + sampled - 1
    scope = intervention.scope
    if isinstance(scope, At):
        return sum(position < prompt_tokens + fed for position in scope.positions)
    if isinstance(scope, Window):
        raise ReceiptError(f"the scope {scope} cannot be in force while sampling")
    return {"all": prompt_tokens + fed, "prompt": prompt_tokens, "decode": fed}[scope]


def check_receipts(
    receipts: Sequence[Receipt],
    interventions: Sequence[Intervention],
    *,
    prompt_tokens: int,
    sampled: int,
    sampled_before: int = 0,
) -> None:
    """Raise `ReceiptError` unless every intervention touched just the positions it should have."""
    touched = {receipt.intervention: receipt.positions for receipt in receipts}
    for intervention in interventions:
        wanted = expected_positions(intervention, prompt_tokens, sampled, sampled_before)
        found = touched.get(str(intervention))
        if found != wanted:
            raise ReceiptError(
                f"{intervention} touched {found} positions, but {prompt_tokens} prompt tokens and "
                f"{sampled_before + sampled} sampled ones make {wanted}; the run cannot be trusted and was stopped"
            )
