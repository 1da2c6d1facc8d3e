"""Mean ablation of all heads and MLPs but some, at the last positions of many contexts at once.

A head or MLP that is not kept gets the mean of what it wrote at a reference set of contexts, offset by offset.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from backtracking.core.errors import InputError
from backtracking.core.sites import Site
from backtracking.measures.tails import Tails, batches
from backtracking.measures.trigger_reading import Reading, trigger_reading
from backtracking.model.hook_names import hook_point
from backtracking.model.reasoner import HookedReasoner

Means = Mapping[str, Tensor]


def circuit_nodes(model: HookedReasoner) -> tuple[Site, ...]:
    """Every attention head and every MLP, layer by layer: what a circuit is made of."""
    heads = range(model.cfg.n_heads)
    layers = range(model.cfg.n_layers)
    nodes = tuple(
        site for layer in layers for site in (*(Site("attn", layer, head) for head in heads), Site("mlp", layer))
    )
    for node in nodes:
        hook_point(model.bridge, node)
    return nodes


def mean_activations(model: HookedReasoner, contexts: Sequence[Sequence[int]], *, window: int) -> Means:
    """Mean over contexts of every node's activation at each of the last `window` positions, by hook point.

    A context counts at the positions it has.

    Raises:
        InputError: No context is as long as the window.
    """
    nodes = circuit_nodes(model)
    sums: dict[str, Tensor] = {}
    counts = torch.zeros(window, dtype=torch.double, device=model.device)
    for rows in batches([len(context) for context in contexts], model):
        tails = Tails.of(model, [contexts[row] for row in rows], window=window)
        _, seen = tails.capture(nodes)
        real = tails.mask[:, -window:].double()
        counts += real.sum(0)
        for name, activation in seen.items():
            weights = real.reshape(*real.shape, *[1] * (activation.ndim - 2))
            total = (activation.double() * weights).sum(0)
            sums[name] = sums[name] + total if name in sums else total
    if not len(contexts) or not (counts > 0).all():
        raise InputError(f"no reference context has {window} tokens; give a smaller window or longer contexts")
    return {name: (total / counts.reshape(-1, *[1] * (total.ndim - 1))).to(model.dtype) for name, total in sums.items()}


@dataclass(frozen=True)
class Ablator:
    """Contexts that wait to be read under whatever is kept of the model."""

    model: HookedReasoner
    tails: tuple[tuple[tuple[int, ...], Tails], ...]
    """Indices of the contexts and their tails, batch by batch."""
    means: Means
    triggers: Int[Tensor, " trigger"]
    reading: Reading
    count: int

    @classmethod
    def of(
        cls,
        model: HookedReasoner,
        contexts: Sequence[Sequence[int]],
        *,
        window: int,
        means: Means,
        triggers: Int[Tensor, " trigger"],
        reading: Reading,
    ) -> "Ablator":
        """Run the prefixes of all contexts; the caches of all batches stay in memory."""
        made = [
            (tuple(rows), Tails.of(model, [contexts[row] for row in rows], window=window))
            for rows in batches([len(context) for context in contexts], model)
        ]
        return cls(model, tuple(made), means, triggers, reading, len(contexts))

    @torch.no_grad()
    def keeping(self, kept: Collection[Site]) -> Float[np.ndarray, " context"]:
        """The reading of every context with all other heads and MLPs at their means; nats."""
        hooks = self._hooks(frozenset(kept))
        found = np.full(self.count, np.nan)
        for rows, tails in self.tails:
            values = trigger_reading(tails.run(hooks), self.triggers, self.reading)
            found[list(rows)] = values.double().cpu().numpy()
        return found

    def _hooks(self, kept: frozenset[Site]) -> list[tuple[str, Callable[..., Tensor]]]:
        hooks: list[tuple[str, Callable[..., Tensor]]] = []
        for layer in range(self.model.cfg.n_layers):
            mlp = Site("mlp", layer)
            if mlp not in kept:
                hooks.append(self._at(mlp, None))
            heads = [Site("attn", layer, head) for head in range(self.model.cfg.n_heads)]
            gone = torch.tensor([head not in kept for head in heads], device=self.model.device)
            if gone.any():
                hooks.append(self._at(heads[0], gone))
        return hooks

    def _at(self, site: Site, gone: Bool[Tensor, " head"] | None) -> tuple[str, Callable[..., Tensor]]:
        name = hook_point(self.model.bridge, site)
        mean = self.means[name]

        def put(activation: Tensor, **_: Any) -> Tensor:
            there = mean.expand_as(activation)
            return there.clone() if gone is None else torch.where(gone[:, None], there, activation)

        return name, put
