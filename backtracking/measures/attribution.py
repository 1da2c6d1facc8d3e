"""Direct logit attribution at decision points: what the embedding, each layer and each head add to a logit difference.

The final norm is held at the scale it has on the whole residual stream, so it is a linear map, and the embedding, every
attention and every MLP output add up to the difference before a bias or a softcap. Positive: the component
writes the token, or the triggers. It sees what a component writes itself, not what later layers make of it (Elhage et
al. 2021).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from backtracking.core.clustered_means import ClusteredMeans, clustered_means
from backtracking.core.multiplicity import benjamini_hochberg
from backtracking.core.sites import Site
from backtracking.measures.decision_points import DecisionPoint, DecisionPoints, check_points
from backtracking.measures.event_pairs import minus_own_controls
from backtracking.measures.held_norm import through_held_norm
from backtracking.measures.tails import Tails, batches
from backtracking.measures.trigger_reading import trigger_tensor
from backtracking.model.hook_names import hook_point
from backtracking.model.reasoner import HookedReasoner

Target = Literal["token", "triggers"]
EMBEDDING, REST = "embedding", "rest"


@dataclass(frozen=True)
class LogitAttribution:
    """Contributions to a logit difference at every point; points are events, then controls."""

    points: DecisionPoints
    target: Target
    """`token`: logit of the point's token less the mean logit of all tokens. `triggers`: mean logit of the triggers,
    each weighted by its share of their probability at the event, less the mean logit of all other tokens."""
    components: tuple[str, ...]
    """`embedding`, then `attn.0`, `mlp.0`, ... and `rest`: what none of them wrote, such as biases between blocks."""
    contribution: Float[np.ndarray, "point component"]
    total: Float[np.ndarray, " point"]
    """The difference itself, before any softcap; the contributions add up to it."""
    heads: tuple[Site, ...]
    head_contribution: Float[np.ndarray, "point head"]
    """Of every query head, its value bias included: its part of its layer's `attn`, whose rest is the bias of the
    output projection. TransformerLens's compatibility mode moves value biases into that bias, unless told not to."""

    def to_pandas(self, *, seed: int = 0) -> pd.DataFrame:
        """One row per component and per head: mean at events, at controls, and the difference event - own control.

        `part` is embedding, attn, mlp, rest or head; rows that are no head add up to the logit difference. In logits;
        intervals are 95 %, clustered by problem; `p` is of the difference, `q` adjusted over all rows (Benjamini and
        Hochberg).
        """
        count, values = len(self.points.events), np.hstack([self.contribution, self.head_contribution])
        paired, problems = minus_own_controls(self.points, values)

        def means(part: np.ndarray, points: Sequence[DecisionPoint]) -> ClusteredMeans:
            return clustered_means(part, [point.problem_id for point in points], seed=seed)

        found = {
            "event": means(values[:count], self.points.events),
            "control": means(values[count:], self.points.controls),
            "difference": clustered_means(paired, problems, seed=seed),
        }
        sites = [None if name in (EMBEDDING, REST) else Site.parse(name) for name in self.components]
        places = [*zip(self.components, sites, strict=True), *((str(head), head) for head in self.heads)]
        columns: dict[str, object] = {
            "component": [name for name, _ in places],
            "part": [
                name if site is None else site.component if site.head is None else "head" for name, site in places
            ],
            "layer": pd.array([None if site is None else site.layer for _, site in places], dtype="Int64"),
            "head": pd.array([None if site is None else site.head for _, site in places], dtype="Int64"),
        }
        for name, each in found.items():
            columns |= {name: each.value, f"{name}_low": each.low, f"{name}_high": each.high}
        p = found["difference"].p_value.tolist()
        columns |= {"p": p, "q": benjamini_hochberg(p), "events": count, "pairs": found["difference"].n}
        return pd.DataFrame(columns | {"problems": found["event"].clusters, "target": self.target})


def logit_attribution(
    model: HookedReasoner, points: DecisionPoints, *, trigger_ids: Sequence[int] | None = None
) -> LogitAttribution:
    """Attribute a logit difference at every point to what writes into the residual stream.

    Args:
        model: The reasoner that wrote the completions.
        points: Events and controls; a control is read for its own event's token, or with its event's weights of the
            triggers, so that both are read along one direction.
        trigger_ids: Tokens that begin a trigger, as `tokens_that_begin` gives them: attribute the triggers together.
            If not given, each point's own token is attributed.

    Raises:
        InputError: There are no points, or a trigger id that does not fit.
    """
    check_points(points)
    triggers = None if trigger_ids is None else trigger_tensor(model, trigger_ids)
    reader = _Reader.of(model)
    targets = torch.zeros(len(points.events), model.cfg.d_model, device=model.device)
    parts = []
    for group in (points.events, points.controls):
        found = np.full((len(group), len(reader.sites) + 3 + len(reader.heads)), np.nan)
        for rows in batches([len(point.context) for point in group], model):
            own = [group[row] for row in rows]
            logits, seen = reader.run([point.context for point in own])
            if group is points.events:
                targets[rows] = _directions(reader.unembedding, own, logits, triggers)
            found[rows] = reader.attribute(seen, targets[[point.event for point in own]]).cpu().numpy()
        parts.append(found)
    values, last = np.concatenate(parts), len(reader.sites) + 2
    return LogitAttribution(
        points=points,
        target="token" if triggers is None else "triggers",
        components=(EMBEDDING, *map(str, reader.sites), REST),
        contribution=values[:, :last],
        total=values[:, last],
        heads=reader.heads,
        head_contribution=values[:, last + 1 :],
    )


def _directions(
    unembedding: Float[Tensor, "vocab d_model"],
    events: Sequence[DecisionPoint],
    logits: Float[Tensor, "event vocab"],
    triggers: Tensor | None,
) -> Float[Tensor, "event d_model"]:
    """What is read after the final norm at each event, and at its controls."""
    if triggers is None:
        return unembedding[[point.token_id for point in events]] - unembedding.mean(0)
    others = torch.ones(len(unembedding), dtype=torch.bool, device=unembedding.device).index_fill(0, triggers, False)
    return logits[:, triggers].softmax(-1) @ unembedding[triggers] - unembedding[others].mean(0)


@dataclass(frozen=True)
class _Reader:
    """What a model writes at the last position of contexts."""

    model: HookedReasoner
    sites: tuple[Site, ...]
    heads: tuple[Site, ...]
    unembedding: Float[Tensor, "vocab d_model"]

    @classmethod
    def of(cls, model: HookedReasoner) -> "_Reader":
        unembed = model.plain.module.get_output_embeddings()
        assert unembed is not None
        weight: Tensor = unembed.weight.float()  # pyright: ignore
        layers, heads = range(model.cfg.n_layers), range(model.cfg.n_heads)
        every = tuple(Site("attn", layer, head) for layer in layers for head in heads)
        return cls(model, model.sites(), every, weight)

    def run(self, contexts: Sequence[Sequence[int]]) -> tuple[Tensor, dict[str, Float[Tensor, "row ..."]]]:
        """Logits and, by hook point, activations of the last position."""
        bridge, last, seen = self.model.bridge, self.model.cfg.n_layers - 1, {}
        sites = (Site("resid_pre", 0), *self.sites, *self.heads, Site("resid_post", last))
        raw = [f"blocks.{layer}.attn.hook_out" for layer in range(last + 1)]

        def keep(activation: Tensor, *, hook) -> None:
            seen[str(hook.name)] = activation[:, -1].detach().float()

        names = dict.fromkeys([*(hook_point(bridge, site) for site in sites), *raw])
        logits = Tails.of(self.model, contexts, window=1).run([(name, keep) for name in names])
        return logits, seen

    @torch.no_grad()
    def attribute(
        self, seen: dict[str, Float[Tensor, "row ..."]], target: Float[Tensor, "row d_model"]
    ) -> Float[Tensor, "row value"]:
        """Embedding, sites, rest, total and heads."""
        bridge, last = self.model.bridge, self.model.cfg.n_layers - 1
        residual = seen[hook_point(bridge, Site("resid_post", last))]
        norm = bridge.ln_final.original_component
        direction = through_held_norm(norm, residual, target, dtype=self.model.dtype)
        written = [seen[hook_point(bridge, site)] for site in (Site("resid_pre", 0), *self.sites)]
        parts = torch.stack([*written, residual - torch.stack(written).sum(0), residual])
        products = torch.einsum("prd,rd->rp", parts, direction)
        by_layer = [self._of_heads(seen, layer, direction) for layer in range(last + 1)]
        return torch.cat([products, *by_layer], dim=1).double()

    def _of_heads(
        self, seen: dict[str, Tensor], layer: int, direction: Float[Tensor, "row d_model"]
    ) -> Float[Tensor, "row head"]:
        """Where a norm stands between heads and stream, it is held at its scale on all of the attention's output."""
        bridge = self.model.bridge
        path, _, _ = hook_point(bridge, Site("attn", layer)).rpartition(".")
        if path != f"blocks.{layer}.attn":
            norm = getattr(bridge.blocks[layer], path.rpartition(".")[2]).original_component
            raw = seen[f"blocks.{layer}.attn.hook_out"]
            direction = through_held_norm(norm, raw, direction, dtype=self.model.dtype)
        weight: Tensor = bridge.blocks[layer].attn.W_O.float()  # pyright: ignore
        return torch.einsum("rhd,hdm,rm->rh", seen[hook_point(bridge, Site("attn", layer, 0))], weight, direction)
