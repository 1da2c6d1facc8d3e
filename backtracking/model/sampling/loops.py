"""The compiled loops of a step, made ready together."""

from functools import cache

import numpy as np
import torch

from backtracking.model.sampling import fused, step_attention, step_choice
from backtracking.model.sampling.compiled import LANES, bits, serves


@cache
def prepare(kind: torch.dtype = torch.float32) -> None:
    """Compile the loops of a step, or load them, in this process: those forked from it have them then.

    They are run once on numbers of the kinds that the engine gives them.

    Args:
        kind: Of the model's numbers.
    """
    one, row = (torch.zeros(shape, dtype=kind, device="cpu") for shape, kind in (((1, 1, 1, 8), kind), (1, torch.long)))
    if not serves(one, torch.bfloat16):
        return
    room = bits(one.new_zeros(1, 1, 8, LANES)), bits(one.new_zeros(1, 1, LANES, 8))
    where = step_attention.Where(*(row.numpy() for _ in range(4)))
    wide = one.float()
    new = bits(one)
    step_attention.attend(new, new, new, prompts=room, own=room, where=where, filled=0, window=None, scaling=1.0)
    step_choice.sampled(one[0, 0], temperature=1.0, top_p=0.5, keys=row, positions=row)
    weight, epsilon = wide[0, 0, 0].numpy(), np.float32(1e-6)
    fused.rms_norm(one[0], weight, epsilon)
    fused.added_and_normed(one[0], one[0], weight, epsilon)
    fused.gated(one[0], one[0])
    fused.upright(one[0, 0], one.new_zeros(8, 1), 0)
    fused.rotated(wide, wide, wide[0], wide[0])  # on which parts of a model are tried, whatever its kind
    if kind is torch.float32:
        fused.scaled(one[0], one[0], one[0, :, :, 0].contiguous(), head=None, heads=1, change=one[0, 0, 0])
