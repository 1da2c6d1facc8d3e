"""The compiled loops of a step, made ready together."""

from functools import cache

import numpy as np
import torch

from backtracking.model.sampling import fused, step_attention, step_choice
from backtracking.model.sampling.compiled import LANES, serves


@cache
def prepare() -> None:
    """Compile the loops of a step, or load them, in this process: those forked from it have them then.

    They are run once on numbers of the kinds that the engine gives them.
    """
    one, row = (
        torch.zeros(shape, dtype=kind, device="cpu") for shape, kind in (((1, 1, 1, 8), torch.float32), (1, torch.long))
    )
    if not serves(one):
        return
    room = np.zeros((1, 1, 8, LANES), np.float32), np.zeros((1, 1, LANES, 8), np.float32)
    where = step_attention.Where(*(row.numpy() for _ in range(4)))
    new = one.numpy()
    step_attention.attend(new, new, new, prompts=room, own=room, where=where, filled=0, window=None, scaling=1.0)
    step_choice.sampled(one[0, 0], temperature=1.0, top_p=0.5, keys=row, positions=row)
    weight, epsilon = one[0, 0, 0].numpy(), np.float32(1e-6)
    fused.rms_norm(one[0], weight, epsilon)
    fused.added_and_normed(one[0], one[0], weight, epsilon)
    fused.rotated(one, one, one[0], one[0])
    fused.gated(one[0], one[0])
    fused.scaled(one[0], one[0], one[0, :, :, 0].contiguous(), head=None, heads=1, change=one[0, 0, 0])
