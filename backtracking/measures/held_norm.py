"""A norm as the linear map it is while its scale is held at what it is on a given activation.

What several components write passes a norm together. At a held scale their parts pass it one by one and still add up.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_PROBE = 16.0
"""Large beside the epsilon of any norm."""


@torch.no_grad()
def through_held_norm(
    norm: Any, activation: Float[Tensor, "row d_model"], target: Float[Tensor, "row d_model"], *, dtype: torch.dtype
) -> Float[Tensor, "row d_model"]:
    """Directions before a norm whose products with what goes in are those of `target` with what comes out.

    The norm's bias is left out, as it is nobody's to write.

    Args:
        norm: The module: any that subtracts the mean or does not, divides by one number per row, and multiplies each
            coordinate by a gain of its own.
        activation: What goes in, by which the scale is held.
        target: Directions after the norm.
        dtype: Number format the norm runs in.
    """

    def run(inputs: Tensor) -> Tensor:
        out: Tensor = norm(inputs.to(dtype)[:, None])[:, 0].float()
        bias = getattr(norm, "bias", None)
        return out if bias is None else out - bias.float()

    width = activation.shape[1]
    probe = torch.full((1, width), _PROBE, device=activation.device)
    flat = run(probe)
    probe[:, ::2] *= -1
    swinging = run(probe)
    centres = bool(flat.abs().max() < 0.01 * swinging.abs().max())
    inner, probe = (_centred(each) if centres else each for each in (activation.float(), probe))
    gain = swinging / probe * probe.pow(2).mean().sqrt()
    passed = inner * gain
    scale = (run(activation) * passed).sum(1, keepdim=True) / passed.pow(2).sum(1, keepdim=True)
    mapped = target * gain * scale
    return _centred(mapped) if centres else mapped


def _centred(values: Tensor) -> Tensor:
    return values - values.mean(-1, keepdim=True)
