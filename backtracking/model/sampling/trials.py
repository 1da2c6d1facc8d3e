"""What parts of a model are tried on: numbers of ours, and stand-ins for the modules inside them."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn


def numbers(*shape: int) -> Tensor:
    """Numbers of that shape, all different."""
    return _numbers(shape).clone()


@lru_cache(maxsize=64)
def _numbers(shape: tuple[int, ...]) -> Tensor:
    return torch.linspace(-3, 2, math.prod(shape), dtype=torch.float32, device="cpu").sin().view(shape)


class StandIn(nn.Module):
    """Does what a function does."""

    def __init__(self, does: Callable[..., Any]) -> None:
        super().__init__()
        self._does = does

    def forward(self, *given: Any, **named: Any) -> Any:
        """What the function gives."""
        return self._does(*given, **named)


@contextmanager
def inside(part: nn.Module, **stand_ins: Callable[..., Any]) -> Iterator[None]:
    """Put functions in the place of modules of a part inside the block."""
    own: dict[str, nn.Module | None] = {name: part._modules[name] for name in stand_ins}
    part._modules.update({name: StandIn(does) for name, does in stand_ins.items()})
    try:
        yield
    finally:
        part._modules.update(own)
