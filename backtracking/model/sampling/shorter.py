"""Shorter forwards of a model and its parts, made for passes of one token per row on a CPU.

With few rows most of a step goes into the small operations and the Python between the matrix products. Here each of
four parts that most architectures share (model, block, attention, MLP) does what its own forward does in as few
operations as possible. A part is tried on numbers of ours, ordinary and large ones, with stand-ins for the modules
inside it, whenever one of its settings has changed. The modules inside are called as before where anything is hooked
on them.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules

from backtracking.core.errors import InputError
from backtracking.model.sampling import blocks, stacks, turning
from backtracking.model.sampling.compiled import serves
from backtracking.model.sampling.parts import ROTARY, Forward

_COMMON = vars(nn.Module()).keys() - {"training"}
"""What every module has, and what does not decide what it does."""
_OTHERWISE = (
    *(TypeError, RuntimeError, ValueError, AttributeError, LookupError, AssertionError, ArithmeticError, NameError),
    InputError,
)
"""What a part raises that takes or does something else."""
_KINDS: dict[frozenset[str], tuple[Callable[[Any], Any], Callable[[Any, Any], Forward]]] = {
    frozenset(stacks.MODEL): (stacks.tried, stacks.shortened),
    frozenset(blocks.BLOCK): (blocks.block_tried, blocks.block_shortened),
    frozenset(turning.ATTENTION): (turning.tried, turning.shortened),
    frozenset(blocks.MLP): (blocks.mlp_tried, blocks.mlp_shortened),
}
"""By the names of the modules inside a part: its trial, and what makes its shorter forward of what that has found."""
_PLAIN = (bool, int, float, str, list, tuple, dict, np.generic, type(None))
"""What is described by what it says."""
_tried: WeakKeyDictionary[nn.Module, tuple[Any, Any]] = WeakKeyDictionary()
"""What a trial of a part found, and the settings it was found under."""


def shorter(module: nn.Module) -> dict[str, Forward]:
    """The shorter forwards of those parts of a model, by name, that are shown to be of the known kinds.

    To be called without gradients. A part whose forward somebody has replaced is left alone, as are all parts where
    hooks are on every module.
    """
    if modules._global_forward_hooks or modules._global_forward_pre_hooks:
        return {}
    known = [(name, part) for name, part in module.named_modules() if frozenset(part._modules) in _KINDS]
    served, described = _serves(module), {}
    found = {name: _shorter(part, described) for name, part in known if served or _serves(part)}
    return {name: forward for name, forward in found.items() if forward is not None}


def _serves(part: nn.Module) -> bool:
    return all(serves(each, torch.bfloat16) for each in part.parameters())


def _shorter(part: nn.Module, described: dict[int, Any]) -> Forward | None:
    if "forward" in part.__dict__ or part._parameters or part._buffers:
        return None
    trial, shortened = _KINDS[frozenset(part._modules)]
    settings = _settings(part, described)
    if part not in _tried or _tried[part][0] != settings:
        try:
            _tried[part] = settings, trial(part)
        except _OTHERWISE:
            _tried[part] = settings, None
    found = _tried[part][1]
    try:
        return None if found is None else shortened(part, found)
    except AttributeError:  # it has lost a part that it does without
        return None


def _settings(part: nn.Module, described: dict[int, Any]) -> Any:
    """What decides what a part does, as far as its attributes tell, but for the modules inside it, stood in for.

    Of an attribute that is an object its own plain attributes count, not what those of an object in it say.

    Args:
        part: The part.
        described: What has been described so far, as a configuration that many parts have.
    """
    activation, stack = part._modules.get("act_fn"), part._modules.get(stacks.MODEL[0])
    layers = None if stack is None else stack._modules.get("layers")
    owners = [each for each in (part, activation, stack) if each is not None]
    does = [(type(each), type(each).forward, "forward" in each.__dict__) for each in owners]
    source = vars(sys.modules[type(part).__module__]).get(ROTARY)
    own = [_described(vars(each), described) for each in owners]
    return does, source, own, len(layers) if isinstance(layers, nn.ModuleList) else None


def _described(values: Mapping[str, Any], described: dict[int, Any]) -> list[tuple[str, Any]]:
    return [(name, _one(value, described)) for name, value in values.items() if name not in _COMMON]


def _one(value: Any, described: dict[int, Any]) -> Any:
    """An attribute: what it says, or which it is."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, Tensor):
        return id(value), value.tolist() if value.numel() == 1 else None if value.is_inference() else value._version
    if id(value) not in described:
        inside = getattr(value, "__dict__", {})
        described[id(value)] = [(name, repr(each)) for name, each in inside.items() if isinstance(each, _PLAIN)]
    return id(value), described[id(value)]
