"""Root-mean-square norms of a model, shown to be such by a trial, each as one compiled loop."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from backtracking.model.sampling.compiled import serves
from backtracking.model.sampling.fused import rms_norm
from backtracking.model.sampling.trials import numbers

_EPSILON = ("variance_epsilon", "eps")
"""What transformers' norms call the number that they add."""
_tried: WeakKeyDictionary[nn.Module, dict[tuple[float, int, Any, torch.dtype], bool]] = WeakKeyDictionary()
"""Whether a module was found to be such a norm, by its epsilon, its width, its class's forward and kind of numbers."""


@dataclass(frozen=True, eq=False)
class RootMeanSquare:
    """The forward of such a norm."""

    before: Callable[..., Tensor]
    """Its own."""
    parameter: Tensor
    weight: np.ndarray
    """The same in float32."""
    epsilon: np.float32

    @classmethod
    def of(cls, norm: nn.Module) -> "RootMeanSquare | None":
        """The forward of a module, if it is shown to be such a norm."""
        if (epsilon := _epsilon_of(norm)) is None:
            return None
        weight = norm.weight
        assert isinstance(weight, Tensor)
        return cls(norm.forward, weight, weight.detach().float().numpy(), np.float32(epsilon))

    def takes(self, residual: Tensor) -> bool:
        """Whether the loop takes a tensor of that kind and width."""
        alike = residual.dtype is self.parameter.dtype and residual.shape[-1] == len(self.weight)
        return alike and serves(residual, torch.bfloat16) and serves(self.parameter, torch.bfloat16)

    def __call__(self, *given: Tensor, **named: Tensor) -> Tensor:
        """See `rms_norm`."""
        (residual,) = (*given, *named.values())
        return rms_norm(residual, self.weight, self.epsilon) if self.takes(residual) else self.before(residual)


def _epsilon_of(norm: nn.Module) -> float | None:
    """The epsilon of a root-mean-square norm, if this module is shown to be one."""
    if norm._modules or not norm._parameters:
        return None
    weight = getattr(norm, "weight", None)
    epsilon = next((value for name in _EPSILON if isinstance(value := getattr(norm, name, None), float)), None)
    if epsilon is None or not isinstance(weight, nn.Parameter):
        return None
    if weight.ndim != 1 or not serves(weight, torch.bfloat16):
        return None
    if len(norm._parameters) != 1 or len(inspect.signature(norm.forward).parameters) != 1:
        return None
    if "forward" in norm.__dict__:  # somebody has replaced it, and may again
        return epsilon if _is_norm(norm, epsilon) else None
    case, shown = (epsilon, len(weight), type(norm).forward, weight.dtype), _tried.setdefault(norm, {})
    if case not in shown:
        shown[case] = _is_norm(norm, epsilon)
    return epsilon if shown[case] else None


def _is_norm(norm: nn.Module, epsilon: float) -> bool:
    """Whether it divides each row by the root of its mean square (and epsilon), and multiplies with the weights.

    It is tried with other weights than its own, under which it might look like one: if they are 0, say.
    """
    own = norm._parameters.get("weight")
    if own is None:  # it is computed
        return False
    rows, weight = numbers(4, len(own)), numbers(len(own) + 1)[1:]
    expected = rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + epsilon) * weight
    for kind in {torch.float32, own.dtype}:
        rounding = 1e-5 if kind is torch.float32 else 2e-2
        norm._parameters["weight"] = nn.Parameter(weight.to(kind), requires_grad=False)
        try:
            found = norm.forward(rows.to(kind))
        finally:
            norm._parameters["weight"] = own
        if found.dtype is not kind or not torch.allclose(found.float(), expected, rtol=rounding, atol=rounding / 10):
            return False
    return True
