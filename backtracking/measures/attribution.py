"""Direct logit attribution at decision points: what each layer's attention and MLP add to the point's logit.

The final norm is held at the scale it has on the whole residual stream, so it is a linear map, and the embedding, every
attention and every MLP output add up to the logit before a bias or a softcap. Positive: the component
writes the token. It sees what a component writes itself, not what later layers make of it (Elhage et al. 2021).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from backtracking.core.clustered_means import ClusteredMeans, clustered_means
from backtracking.core.errors import InputError
from backtracking.core.multiplicity import benjamini_hochberg
from backtracking.measures.decision_points import DecisionPoint, DecisionPoints
from backtracking.measures.event_pairs import minus_own_controls
from backtracking.model.hooks import hook_point
from backtracking.model.reasoner import HookedReasoner

EMBEDDING, REST = "embedding", "rest"


@dataclass(frozen=True)
class LogitAttribution:
    """Contributions to the logit of each point's token, less the mean logit of all tokens; events, then controls."""

    points: DecisionPoints
    components: tuple[str, ...]
    """`embedding`, then `attn.0`, `mlp.0`, ... and `rest`: what none of them wrote, such as biases of a norm."""
    contribution: Float[np.ndarray, "point component"]
    total: Float[np.ndarray, " point"]
    """The logit itself, less the mean logit, before any softcap; the contributions add up to it."""

    def to_pandas(self, *, seed: int = 0) -> pd.DataFrame:
        """One row per component: mean at events, at controls, and the difference event - own control, in logits.

        Intervals are 95 %, clustered by problem; `p` is of the difference, `q` adjusted over the components.
        """
        count = len(self.points.events)
        paired, problems = minus_own_controls(self.points, self.contribution)

        def means(part: np.ndarray, points: Sequence[DecisionPoint]) -> ClusteredMeans:
            return clustered_means(part, [point.problem_id for point in points], seed=seed)

        found = {
            "event": means(self.contribution[:count], self.points.events),
            "control": means(self.contribution[count:], self.points.controls),
            "difference": clustered_means(paired, problems, seed=seed),
        }
        columns: dict[str, object] = {"component": list(self.components)}
        for name, each in found.items():
            columns |= {name: each.value, f"{name}_low": each.low, f"{name}_high": each.high}
        p = found["difference"].p_value.tolist()
        return pd.DataFrame(columns | {"p": p, "q": benjamini_hochberg(p)})


def logit_attribution(model: HookedReasoner, points: DecisionPoints) -> LogitAttribution:
    """Attribute the logit of every point's token to the components that write into the residual stream.

    Args:
        model: The reasoner that wrote the completions.
        points: Events and controls; a control is read for its own event's token.

    Raises:
        InputError: There are no points.
    """
    every = points.all
    if not every:
        raise InputError("there are no decision points to attribute; sample more completions")
    sites = model.sites()
    names = [hook_point(model.bridge, site) for site in sites]
    first, last = "blocks.0.hook_in", f"blocks.{model.cfg.n_layers - 1}.hook_out"
    unembed = model.plain.module.get_output_embeddings()
    assert unembed is not None
    weight: Tensor = unembed.weight.float()  # pyright: ignore
    centred = weight - weight.mean(dim=0)
    contribution = np.full((len(every), len(sites) + 2), np.nan)
    total = np.full(len(every), np.nan)
    for index, point in enumerate(every):
        _, cache = model.run_with_cache(list(point.context), names_filter=[first, last, *names])
        residual = cache[last][0, -1].float()
        written = torch.stack([cache[name][0, -1].float() for name in (first, *names)])
        parts = torch.cat([written, (residual - written.sum(0))[None]])
        direction = _through_the_norm(model, residual, centred[point.token_id])
        contribution[index] = (parts @ direction).cpu().numpy()
        total[index] = float(residual @ direction)
    return LogitAttribution(points, (EMBEDDING, *map(str, sites), REST), contribution, total)


def _through_the_norm(
    model: HookedReasoner, residual: Float[Tensor, " d_model"], target: Float[Tensor, " d_model"]
) -> Float[Tensor, " d_model"]:
    """The direction in the residual stream whose product with it is the logit, the norm's scale held fixed.

    At a fixed scale a norm multiplies each coordinate (of the residual less its mean, for LayerNorm) by a number of
    its own, which is read off as what came out over what went in.
    """
    norm = model.bridge.ln_final.original_component
    out: Tensor = norm(residual.to(model.dtype)[None, None])[0, 0].float()  # pyright: ignore
    bias = getattr(norm, "bias", None)
    centres = bias is not None
    inner = residual - residual.mean() if centres else residual
    shifted = out - bias.float() if bias is not None else out
    factor = torch.where(inner.abs() > 1e-6, shifted / inner, torch.zeros_like(inner))
    mapped = factor * target
    return mapped - mapped.mean() if centres else mapped
