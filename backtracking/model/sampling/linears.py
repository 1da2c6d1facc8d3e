"""Linear layers in bfloat16 on a CPU, with the weights as the left one of the two matrices.

oneDNN brings the right matrix of a product into an order of its own, anew in every call. `linear` has the weights
there, and for the few rows of a step that costs up to as much as the product itself. Here the rows stand there, so
what is found has the rows side by side; it is turned where somebody is to see it. The weights stay as they are, and
what a row gives depends less on how many others there are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from backtracking.model.loading import multiplies_bfloat16
from backtracking.model.sampling.compiled import serves
from backtracking.model.sampling.fused import upright

_AT_ONCE = 2**19
"""Numbers found before they are turned: few enough to stay in the processor's cache."""
_GRAIN = 64
"""What the numbers found of a row at once are a multiple of."""


@dataclass(frozen=True, eq=False)
class Linear:
    """The forward of such a layer."""

    before: Callable[..., Tensor]
    """Its own."""
    weight: Float[Tensor, "out d"]
    bias: Float[Tensor, " out"] | None

    @classmethod
    def of(cls, layer: nn.Module) -> "Linear | None":
        """The forward of a linear layer in bfloat16, where the processor has instructions for it."""
        if type(layer) is not nn.Linear or "forward" in layer.__dict__:
            return None
        weight, bias = layer.weight, layer.bias
        half = weight.dtype is torch.bfloat16 and (bias is None or bias.dtype is torch.bfloat16)
        if not half or not weight.is_contiguous() or not serves(weight, torch.bfloat16) or not multiplies_bfloat16():
            return None
        return cls(layer.forward, weight, bias)

    def takes(self, given: Tensor) -> bool:
        """Whether that can be multiplied this way."""
        alike = given.dtype is self.weight.dtype and given.shape[-1] == self.weight.shape[1] and given.numel() > 0
        return alike and serves(given, torch.bfloat16)

    def __call__(self, *given: Tensor, **named: Tensor) -> Tensor:
        """What the layer gives."""
        (inputs,) = (*given, *named.values())
        if not self.takes(inputs):
            return self.before(inputs)
        rows = inputs.reshape(-1, inputs.shape[-1])
        return self.of_lying(rows.t()).view(*inputs.shape[:-1], -1)

    def lying(self, rows: Float[Tensor, "row d"]) -> Float[Tensor, "out row"]:
        """What the layer gives of some rows, as it is found."""
        return _product(self.weight, self.bias, rows.t())

    def of_lying(self, lying: Float[Tensor, "d row"]) -> Float[Tensor, "row out"]:
        """What the layer gives of what lies like that."""
        out, rows = len(self.weight), lying.shape[1]
        found = lying.new_empty(rows, out)
        step = max(_AT_ONCE // rows // _GRAIN, 1) * _GRAIN
        for first in range(0, out, step):
            part = slice(first, first + step)
            bias = None if self.bias is None else self.bias[part]
            upright(_product(self.weight[part], bias, lying), found, first)
        return found


def _product(weight: Tensor, bias: Tensor | None, lying: Tensor) -> Tensor:
    return torch.mm(weight, lying) if bias is None else torch.addmm(bias[:, None], weight, lying)
