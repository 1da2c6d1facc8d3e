"""The Hugging Face model as it was before TransformerLens bridged it, on the same weights.

The bridge wraps a model's modules in place, and every wrapped module runs hook points whether or not
anyone listens. For sampling that is most of the time, so the packed engine runs a copy of the module
tree that holds the very same parameters and buffers: one set of weights, two views on it.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

from backtracking.core.errors import InputError


@dataclass(frozen=True)
class Place:
    """Where a hook point is in the plain model: what goes into a module, or what comes out."""

    module: nn.Module
    side: Literal["in", "out"]


@dataclass(frozen=True)
class PlainModel:
    """A copy of a model's modules that shares its parameters and buffers."""

    module: PreTrainedModel
    _copies: Mapping[int, Any]
    """Copy of each module, by the id of the original; the bridge keeps the originals alive."""

    @classmethod
    def of(cls, module: PreTrainedModel) -> "PlainModel":
        """Copy the modules of a model that is not bridged yet; no tensor is copied."""
        shared = [*module.parameters(), *module.buffers()]
        memo: dict[int, Any] = {id(tensor): tensor for tensor in shared}
        twin = copy.deepcopy(module, memo)
        return cls(twin, {id(original): memo[id(original)] for original in module.modules()})

    def place(self, bridge: TransformerBridge, hook_name: str) -> Place:
        """The place of a hook point, by TransformerLens's own mapping of its components.

        Args:
            bridge: The bridge that wraps the original.
            hook_name: Full name of a hook point of it, as `hooks.hook_point` gives it.

        Raises:
            InputError: The hook point is not the input or output of a module of the model.
        """
        path, _, end = hook_name.rpartition(".")
        component: Any = bridge
        for part in path.split("."):
            component = component[int(part)] if part.isdigit() else getattr(component, part)
        original = getattr(component, "original_component", None)
        if end not in ("hook_in", "hook_out") or id(original) not in self._copies:
            raise InputError(
                f"{bridge.cfg.model_name} computes {hook_name} inside a module, where the packed engine cannot "
                'reach it; sample with engine="bridge", which is slower'
            )
        return Place(self._copies[id(original)], "in" if end == "hook_in" else "out")
