"""Parts of a model that are replaced while the packed engine runs it on a CPU.

Which modules have such parts is not read from a table of architectures: a part is run on numbers of ours, and replaced
where it gives what the definition gives; a linear layer is known by its class. Hooks see what they saw before.
"""

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from backtracking.model.sampling.compiled import serves
from backtracking.model.sampling.fused import rotated, turned
from backtracking.model.sampling.linears import Linear
from backtracking.model.sampling.norms import RootMeanSquare
from backtracking.model.sampling.parts import ROTARY
from backtracking.model.sampling.shorter import shorter
from backtracking.model.sampling.trials import numbers


@dataclass(frozen=True)
class Replaced:
    """The parts of a model that are replaced, with what they are replaced by."""

    parts: Sequence[tuple[str, nn.Module, Callable[..., Any]]]
    """Modules and their new forwards."""
    functions: Sequence[tuple[str, Callable[..., Any]]]
    """Python modules of transformers, and what they call their rotary embedding then."""

    @classmethod
    def of(cls, module: nn.Module) -> "Replaced":
        """Try the parts of a model, which no other thread uses; to be installed before anything changes it."""
        parts = dict(module.named_modules())
        with torch.inference_mode():
            forwards: dict[str, Callable[..., Any]] = {**shorter(module)}
            known = {name: RootMeanSquare.of(part) or Linear.of(part) for name, part in parts.items()}
        forwards |= {name: part for name, part in known.items() if part is not None}
        sources = {name: getattr(sys.modules.get(name), ROTARY, None) for name in _sources(module)}
        functions = [(name, own) for name, own in sources.items() if own is not None and _is_rotary(own)]
        return cls(
            [(name, parts[name], forward) for name, forward in forwards.items()],
            [(name, _rotating(own)) for name, own in functions],
        )

    @property
    def names(self) -> list[str]:
        """What is replaced."""
        return [name for name, *_ in (*self.parts, *self.functions)]

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Replace them inside the block, which one thread at a time enters."""
        forwards = [(part, part.__dict__.get("forward")) for _, part, _ in self.parts]
        rotary = [(sys.modules[name], getattr(sys.modules[name], ROTARY)) for name, _ in self.functions]
        try:
            for _, part, forward in self.parts:
                part.forward = forward
            for name, function in self.functions:
                setattr(sys.modules[name], ROTARY, function)
            yield
        finally:
            for part, own in forwards:
                part.__dict__.pop("forward", None)
                if own is not None:
                    part.forward = own
            for source, function in rotary:
                setattr(source, ROTARY, function)


def _sources(module: nn.Module) -> list[str]:
    """The Python modules that the classes of its parts are from."""
    return sorted({type(part).__module__ for part in module.modules()})


def _rotating(before: Callable[..., Any]) -> Callable[..., Any]:
    def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, *others: Any, **named: Any) -> Any:
        one_each = query.shape[2] == key.shape[2] == 1 and cos.shape == sin.shape == (len(query), 1, query.shape[3])
        one_each = one_each and query.shape[3] % 2 == 0 and query.shape[3] == key.shape[3] and len(query) == len(key)
        served = one_each and all(serves(each) for each in (query, key, cos, sin))
        if others or named or not served:
            return before(query, key, cos, sin, *others, **named)
        return rotated(query, key, cos, sin)

    return rotate


@cache
@torch.inference_mode()
def _is_rotary(function: Callable[..., Any]) -> bool:
    """Whether that is the function that turns the first half of each head against the second."""
    if list(inspect.signature(function).parameters)[:4] != ["q", "k", "cos", "sin"]:
        return False
    query, key, cos, sin = numbers(3, 2, 1, 8), numbers(3, 1, 1, 8) + 2, numbers(3, 1, 8), numbers(3, 1, 8) + 1
    try:
        found = function(query, key, cos, sin)
    except (TypeError, RuntimeError):  # it takes something else
        return False
    if not isinstance(found, tuple) or len(found) != 2:
        return False
    expected = turned(query, cos, sin), turned(key, cos, sin)
    return all(
        one.shape == other.shape and torch.allclose(one, other, rtol=1e-5, atol=1e-6)
        for one, other in zip(found, expected, strict=True)
    )
