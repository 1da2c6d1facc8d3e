"""Logit bans: tokens that a row may not sample, and what that took from the model."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from backtracking.core.interventions import Ban
from backtracking.core.receipts import Receipt
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling.choice import AT_ONCE
from backtracking.model.sampling.plan import Row
from backtracking.model.tokens import tokens_that_begin


class Bans:
    """The logit bans of a unit of work."""

    def __init__(self, model: HookedReasoner, rows: Sequence[Row]) -> None:
        """Read from the vocabulary which tokens begin the triggers of each ban."""
        self._tokens: dict[Ban, Tensor] = {}
        self._under: dict[Ban, Tensor] = {}
        for ban in dict.fromkeys(i for row in rows for i in row.condition.interventions if isinstance(i, Ban)):
            tokens = tokens_that_begin(model.tokenizer, ban.triggers)
            self._tokens[ban] = torch.tensor(tokens, device=model.device)
            under = [ban in row.condition.interventions for row in rows]
            self._under[ban] = torch.tensor(under, device=model.device)
        self._applied = {ban: torch.zeros(len(rows), device=model.device) for ban in self._tokens}
        self._removed = {ban: torch.zeros(len(rows), device=model.device) for ban in self._tokens}

    def apply(
        self,
        logits: Float[Tensor, "active vocab"],
        rows: Int[Tensor, " active"],
        counted: Bool[Tensor, " active"] | None = None,
    ) -> Tensor:
        """Make every banned token impossible for the rows under the ban, in the logits given, and return them.

        Args:
            logits: Of the next token; changed in place, since a copy would be as large as all that a step holds.
            rows: Index of each among the rows of the unit.
            counted: Which of them are sampled; all if not given.
        """
        for ban, tokens in self._tokens.items():
            under = self._under[ban][rows]
            here = (under if counted is None else under & counted).nonzero().flatten()
            if not len(here):
                continue
            for some in here.split(max(1, AT_ONCE // logits.shape[1])):
                theirs = logits[some].float()
                probability = (theirs[:, tokens] - theirs.logsumexp(-1, keepdim=True)).exp().sum(1)
                self._applied[ban][rows[some]] += 1
                self._removed[ban][rows[some]] -= probability
            logits[here[:, None], tokens] = float("-inf")
        return logits

    def receipts(self, row: int) -> tuple[Receipt, ...]:
        """One receipt per ban in force on the row; the change is mean probability, negative."""
        found = []
        for ban, under in self._under.items():
            if bool(under[row]):
                steps = int(self._applied[ban][row])
                found.append(Receipt(str(ban), steps, float(self._removed[ban][row]) / steps))
        return tuple(found)
