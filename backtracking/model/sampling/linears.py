"""Large linear layers in bfloat16 on a CPU, with the weights as the left one of the two matrices.

oneDNN brings the right matrix of a product into an order of its own, anew in every call. `linear` has the weights
there, and for the few rows of a step that costs up to as much as the product itself. Here the rows stand there, so
what is found has the rows side by side; it is turned where somebody is to see it. The weights stay as they are, and
what a row gives depends less on how many others there are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from backtracking.model.loading import multiplies_bfloat16
from backtracking.model.sampling.compiled import serves
from backtracking.model.sampling.fused import upright

_AT_ONCE = 2**20
"""Numbers found before they are turned: few enough to stay in the processor's cache."""
_GRAIN = 64
"""What the numbers found of a row at once are a multiple of."""
_LEAST = 2**17
"""Weights of a layer from which on that pays: a smaller one takes little longer than starting the operations."""
_FORWARD = nn.Linear.forward
_KINDS = (Tensor, nn.Parameter, type(None))
"""Of weights; others may know no product but `linear`, as quantized ones."""


def is_plain(layer: nn.Module) -> bool:
    """Whether it is a linear layer that nobody has changed, with a weight and a bias, or none, that it keeps."""
    own = type(layer) is nn.Linear and type(layer).forward is _FORWARD and "forward" not in layer.__dict__
    return own and layer._parameters.get("weight") is not None and "bias" in layer._parameters


@dataclass(frozen=True, eq=False)
class Linear:
    """The forward of such a layer."""

    before: Callable[..., Tensor]
    """Its own."""
    parameters: Mapping[str, Tensor | None]
    """The layer's, as they are at every call."""

    @classmethod
    def of(cls, layer: nn.Module) -> "Linear | None":
        """The forward of a large linear layer in bfloat16, where the processor has instructions for it."""
        if not is_plain(layer):
            return None
        found = cls(layer.forward, layer._parameters)
        return found if multiplies_bfloat16() and found.serves else None

    @property
    def weight(self) -> Float[Tensor, "out d"]:
        """Of the layer."""
        weight = self.parameters["weight"]
        assert weight is not None
        return weight

    @property
    def serves(self) -> bool:
        """Whether the layer is a large one in bfloat16 on a CPU."""
        weight, bias = self.weight, self.parameters["bias"]
        half = weight.dtype is torch.bfloat16 and (bias is None or bias.dtype is torch.bfloat16)
        half = half and all(type(each) in _KINDS for each in (weight, bias))
        return half and weight.numel() >= _LEAST and weight.is_contiguous() and serves(weight, torch.bfloat16)

    def takes(self, given: Tensor) -> bool:
        """Whether that can be multiplied this way."""
        weight = self.weight
        if given.dtype is not weight.dtype or not given.ndim or torch.is_autocast_enabled("cpu"):
            return False
        alike = given.shape[-1] == weight.shape[1] and given.numel() > 0
        return alike and serves(given, torch.bfloat16) and self.serves

    def __call__(self, *given: Tensor, **named: Tensor) -> Tensor:
        """What the layer gives."""
        (inputs,) = (*given, *named.values())
        if not self.takes(inputs):
            return self.before(inputs)
        rows = inputs.reshape(-1, inputs.shape[-1])
        return self.of_lying(rows.t()).view(*inputs.shape[:-1], -1)

    def lying(self, rows: Float[Tensor, "row d"]) -> Float[Tensor, "out row"]:
        """What the layer gives of some rows, as it is found."""
        return _product(self.weight, self.parameters["bias"], rows.t())

    def of_lying(self, lying: Float[Tensor, "d row"]) -> Float[Tensor, "row out"]:
        """What the layer gives of what lies like that."""
        weight, bias = self.weight, self.parameters["bias"]
        out, rows = len(weight), lying.shape[1]
        found = lying.new_empty(rows, out)
        step = max(_AT_ONCE // rows // _GRAIN, 1) * _GRAIN
        for first in range(0, out, step):
            part = slice(first, first + step)
            upright(_product(weight[part], None if bias is None else bias[part], lying), found, first)
        return found


def _product(weight: Tensor, bias: Tensor | None, lying: Tensor) -> Tensor:
    return torch.mm(weight, lying) if bias is None else torch.addmm(bias[:, None], weight, lying)
