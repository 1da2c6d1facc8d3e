"""A shorter forward of an attention that turns queries and keys by their positions: see `shorter`."""

from typing import Any

from torch import Tensor

from backtracking.model.sampling.compiled import serves
from backtracking.model.sampling.fused import rotated, turned
from backtracking.model.sampling.parts import (
    LARGE,
    ROWS,
    USUAL,
    Forward,
    alike,
    children,
    giving,
    heads_of,
    one_token,
    product,
)
from backtracking.model.sampling.passes import Decode
from backtracking.model.sampling.trials import inside, numbers

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
"""What transformers calls the parts of an attention without norms of its own."""


def tried(attention: Any) -> tuple[int, int, dict[str, Any]] | None:
    """Whether it turns queries and keys, attends, and projects: width of a head, layer, and what it asks for."""
    width, found = attention.head_dim, None
    if width % 2:
        return None
    for scale in (1.0, LARGE):
        query, key, value = (
            (numbers(ROWS, 1, attention._modules[name].out_features) + shift) * scale
            for shift, name in enumerate(ATTENTION[:3])
        )
        hidden, out, read = numbers(ROWS, 1, 4), numbers(ROWS, 1, 6), query.view(ROWS, 1, -1, width) * 2 + 1
        cos, sin = numbers(ROWS, 1, width) * 2, numbers(ROWS, 1, width) + 1
        given: list[Tensor] = []
        probe = _Probe(read.clone())
        stand_ins = zip(ATTENTION, (giving(each, given) for each in (query, key, value, out)), strict=True)
        with inside(attention, **dict(stand_ins)):
            options = {"position_embeddings": (cos, sin), "attention_mask": None, "packed": probe, **USUAL}
            got = attention.forward(hidden_states=hidden, **options)
        if probe.asked is None or not isinstance(got, tuple) or len(got) != 2 or got[1] is not None:
            return None
        rotary = rotated(heads_of(query, width), heads_of(key, width), cos, sin)
        asked = zip(probe.asked, (*rotary, heads_of(value, width)), strict=True)
        inputs = zip(given, (hidden, hidden, hidden, read.flatten(2)), strict=True)
        if not all(alike(one, other) for one, other in (*asked, *inputs, (got[0], out))):
            return None
        if found not in (None, (width, probe.layer, probe.options)):
            return None
        found = width, probe.layer, probe.options
    return found


def shortened(attention: Any, found: tuple[int, int, dict[str, Any]]) -> Forward:
    """The shorter forward of such an attention."""
    before, (width, layer, options) = attention.forward, found
    to_query, to_key, to_value, to_out = map(product, children(attention, ATTENTION))

    def forward(*given: Any, **named: Any) -> Any:
        hidden, angles = one_token(given, named), named.get("position_embeddings", ())
        if hidden is None:
            return before(*given, **named)
        rows = hidden.shape[0]
        if any(angle.shape != (rows, 1, width) or not serves(angle, hidden.dtype) for angle in angles):
            return before(*given, **named)
        packed, projected = named["packed"], [project(hidden) for project in (to_query, to_key, to_value)]
        # unless a hook changes that
        as_usual = all(part.dtype is hidden.dtype and part.shape[0] == rows for part in projected)
        if as_usual and isinstance(packed, Decode):
            return to_out(packed.attend_turning(layer, *projected, angles=angles, **options)), None
        query, key, value = (part.view(rows, -1, 1, width) for part in projected)
        if serves(query) and serves(key):
            query, key = rotated(query, key, *angles)
        else:
            query, key = turned(query, *angles), turned(key, *angles)
        return to_out(packed.attend(layer, query, key, value, **options).flatten(2)), None

    return forward


class _Probe:
    """Stands for the engine's cache, and keeps what it is asked."""

    def __init__(self, read: Tensor) -> None:
        self._read = read
        self.layer, self.options = -1, {}
        self.asked: tuple[Tensor, Tensor, Tensor] | None = None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        """See `Attending.attend`."""
        self.layer, self.options, self.asked = layer, options, (query, key, value)
        return self._read
