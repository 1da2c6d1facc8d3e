"""Sites: places in a model, and the TransformerLens hook points they stand for.

A site is written `mlp.27`, `attn.3`, `attn.3.h5` (one head), `resid_pre.0`, `resid_mid.4` or
`resid_post.10`. This module is the one home of hook names.
"""

import re
from dataclasses import dataclass
from typing import Literal, cast, get_args

from backtracking.core.errors import InputError

Component = Literal["attn", "mlp", "resid_pre", "resid_mid", "resid_post"]
COMPONENTS: tuple[Component, ...] = get_args(Component)

_SITE = re.compile(r"(?P<component>[a-z_]+)\.(?P<layer>\d+)(?:\.h(?P<head>\d+))?")


@dataclass(frozen=True, order=True)
class Site:
    """One place in the model: a component of a layer, or one attention head of it.

    `attn` and `mlp` are what the block adds to the residual stream, so in a model with norms after
    the block (Gemma) they are read after that norm, as `hook_attn_out` and `hook_mlp_out` are.
    A head is read before the output projection (`hook_z`).
    """

    component: Component
    layer: int
    head: int | None = None

    def __post_init__(self) -> None:
        """Refuse a site no model can have."""
        if self.component not in COMPONENTS:
            raise InputError(f"unknown component {self.component!r}; valid are {', '.join(COMPONENTS)}")
        if self.layer < 0:
            raise InputError(f"layer {self.layer} is negative; layers count from 0")
        if self.head is not None and self.component != "attn":
            raise InputError(f"{self.component} has no heads; only attn sites take .h{self.head}")
        if self.head is not None and self.head < 0:
            raise InputError(f"head {self.head} is negative; heads count from 0")

    @classmethod
    def parse(cls, text: "str | Site") -> "Site":
        """Read `mlp.27` or `attn.3.h5`; a Site passes through."""
        if isinstance(text, Site):
            return text
        match = _SITE.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None or match["component"] not in COMPONENTS:
            raise InputError(
                f"cannot read the site {text!r}; write it as mlp.27, attn.3, attn.3.h5 or "
                f"resid_post.10 (components: {', '.join(COMPONENTS)})"
            )
        head = None if match["head"] is None else int(match["head"])
        return cls(cast(Component, match["component"]), int(match["layer"]), head)

    @property
    def hook_name(self) -> str:
        """TransformerLens's name of the hook point, such as `blocks.27.hook_mlp_out`."""
        if self.head is not None:
            return f"blocks.{self.layer}.attn.hook_z"
        if self.component in ("attn", "mlp"):
            return f"blocks.{self.layer}.hook_{self.component}_out"
        return f"blocks.{self.layer}.hook_{self.component}"

    def __str__(self) -> str:
        """Return the text form, which `parse` reads back."""
        head = "" if self.head is None else f".h{self.head}"
        return f"{self.component}.{self.layer}{head}"
