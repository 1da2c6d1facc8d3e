"""A model with a known answer that is prepared one token early: two heads, of which the first acts before the end.

Where a boundary token follows a chosen one, the head of layer 1 notes there that it saw it. At the next token, the
prediction position, the head of layer 2 looks at the boundary, reads the note and writes the trigger. What the first
head does at the prediction position itself nothing reads.
"""

import torch

from backtracking.measures.decision_points import DecisionPoints
from backtracking.model.reasoner import HookedReasoner
from tests.measures.planted_head import (
    CHOSEN,
    CONSTANT,
    SEES,
    WRITES,
    Draw,
    blank_model,
    drawn_points,
    trigger_in,
    wire_head,
)

NOTED, BOUNDARY = 3, 4
FULL_STOP = 80
NOTES, TELLS = (1, 2), (2, 1)
"""Layer and head of the one that notes and of the one that tells."""


def planted_relay(seed: int = 0) -> tuple[HookedReasoner, int]:
    """The model and the id of its trigger; every other site is random but writes none of the five coordinates."""
    module, tokenizer, trigger = blank_model(seed, silent=(SEES, WRITES, CONSTANT, NOTED, BOUNDARY))
    with torch.no_grad():
        embed = module.model.embed_tokens.weight
        embed[:, [NOTED, BOUNDARY]] = 0
        embed[FULL_STOP, BOUNDARY] = 3
        trigger_in(module, trigger)
        wire_head(module, *NOTES, looks_for=SEES, reads=SEES, writes=NOTED)
        wire_head(module, *TELLS, looks_for=BOUNDARY, reads=NOTED, writes=WRITES)
    return HookedReasoner.from_hf(module, tokenizer, name="planted relay"), trigger


def relay_points(token: int, *, problems: int = 12, seed: int = 0) -> DecisionPoints:
    """Events have a chosen token two or three before the full stop, controls have none; both end one token after it."""

    def mark(context: list[int], chosen: bool, draw: Draw) -> None:
        context[-2] = FULL_STOP
        if chosen:
            context[-draw(4, 6)] = CHOSEN[draw(0, len(CHOSEN))]

    return drawn_points(token, problems=problems, seed=seed, shortest=8, mark=mark)
