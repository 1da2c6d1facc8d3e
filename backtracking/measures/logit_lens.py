"""Logit lens of the onset token: at which layer the model's choice to backtrack can be read.

The residual stream after each layer, at the prediction position, goes once through the final norm (its scale
computed anew for that layer) and once through the unembedding (nostalgebraist 2020). The published study
normed its last layer twice; here the last layer must equal the model's own logits or nothing is returned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.tools.analysis import logit_readout

from backtracking.core.clustered_means import ClusteredMeans, clustered_means
from backtracking.core.errors import InputError
from backtracking.core.multiplicity import benjamini_hochberg
from backtracking.measures.decision_points import DecisionPoint, DecisionPoints, check_points
from backtracking.measures.event_pairs import minus_own_controls
from backtracking.model.last_position import last_positions
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.self_check import LOOSE, TOLERANCE

Quantity = Literal["logit", "log_prob", "rank"]
_VALUES_AT_ONCE = 2**26
"""Logits held at once while layers are read: 256 MiB in float32."""


class LensError(RuntimeError):
    """The last layer of a lens is not the model's own logits, so its other layers mean nothing."""


@dataclass(frozen=True)
class LogitLens:
    """For each point and layer what the lens reads for the point's token; points are events, then controls."""

    points: DecisionPoints
    logit: Float[np.ndarray, "point layer"]
    """Softcapped where the model's own logits are (Gemma 2)."""
    log_prob: Float[np.ndarray, "point layer"]
    """In nats, over the whole vocabulary."""
    rank: Float[np.ndarray, "point layer"]
    """Tokens with a larger logit: 0 is the most likely one."""
    largest_difference: float
    """Between the last layer and the model's logits, over the whole vocabulary."""

    def to_pandas(self, *, seed: int = 0) -> pd.DataFrame:
        """One row per quantity and layer.

        Means of events and of controls, and the mean difference event - own controls, each with its 95 %
        interval clustered by problem (for a difference the event's problem). Positive: the event has more; for
        the rank, more is less likely. `p` is of the difference, `q` adjusted over the layers of that quantity
        (Benjamini and Hochberg). What is missing for want of controls is NaN.
        """
        frames = [self._table(quantity, seed) for quantity in get_args(Quantity)]
        return pd.concat(frames, ignore_index=True)

    def points_to_pandas(self) -> pd.DataFrame:
        """One row per point and layer: `DecisionPoints.to_pandas`, `layer`, `logit`, `log_prob`, `rank`."""
        points, layers = self.logit.shape
        frame = self.points.to_pandas()
        frame = frame.loc[frame.index.repeat(layers)].reset_index(drop=True)
        values = {name: getattr(self, name).ravel() for name in get_args(Quantity)}
        return frame.assign(layer=np.tile(np.arange(layers), points), **values)

    def _table(self, quantity: Quantity, seed: int) -> pd.DataFrame:
        values: np.ndarray = getattr(self, quantity)
        count = len(self.points.events)
        paired, problems = minus_own_controls(self.points, values)

        def means(part: np.ndarray, points: Sequence[DecisionPoint]) -> ClusteredMeans:
            return clustered_means(part, [point.problem_id for point in points], seed=seed)

        event, control = means(values[:count], self.points.events), means(values[count:], self.points.controls)
        difference = clustered_means(paired, problems, seed=seed)
        columns: dict[str, object] = {"quantity": quantity, "layer": np.arange(values.shape[1])}
        for name, found in (("event", event), ("control", control), ("difference", difference)):
            columns |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        columns |= {"events": event.n, "controls": control.n, "pairs": difference.n, "problems": difference.clusters}
        q = benjamini_hochberg(difference.p_value.tolist())
        return pd.DataFrame(columns | {"p": difference.p_value, "q": q})


def logit_lens(model: HookedReasoner, points: DecisionPoints, *, batch: int | None = None) -> LogitLens:
    """Read every decision point's token at every layer.

    Args:
        model: The reasoner that wrote the completions.
        points: Events and controls; each is read for its `token_id`, a control for its own event's.
        batch: Contexts run together; see `last_positions`.

    Raises:
        InputError: There are no points, or a context or token is not one of the model's.
        LensError: The last layer is not the model's logits: the model does more after its last layer than
            norm and unembed.
    """
    every = check_points(points)
    outside = [point.token_id for point in every if not 0 <= point.token_id < model.cfg.d_vocab]
    if outside:
        raise InputError(f"token {outside[0]} is not among the {model.cfg.d_vocab} of {model.name}")
    shape = len(every), int(model.cfg.n_layers)
    logit, log_prob, rank = (np.full(shape, np.nan) for _ in range(3))
    largest = 0.0
    for read in last_positions(model, [point.context for point in every], batch=batch):
        rows = list(read.indices)
        tokens = torch.tensor([every[index].token_id for index in rows], device=model.device)
        # The last layer is read, and checked, with the others: what is returned is what was checked.
        at_once = max(1, _VALUES_AT_ONCE // (shape[1] * read.logits.shape[1]))
        for start in range(0, len(rows), at_once):
            part = slice(start, start + at_once)
            seen = lens_logits(model, read.resid_post[:, part])
            largest = max(largest, _checked(model, seen[-1], read.logits[part]))
            own = seen.gather(-1, tokens[part].expand(shape[1], -1)[..., None])
            logit[rows[part]] = _array(own[..., 0])
            log_prob[rows[part]] = _array(own[..., 0] - seen.logsumexp(-1))
            rank[rows[part]] = _array((seen > own).sum(-1))
    return LogitLens(points, logit, log_prob, rank, largest)


def lens_logits(
    model: HookedReasoner, resid: Float[Tensor, "layer context d_model"]
) -> Float[Tensor, "layer context vocab"]:
    """Residual streams read through the final norm and the unembedding, once each, in float32.

    TransformerLens does the reading: its final norm computes the scale of each vector anew, and what the
    architecture does to its logits (Gemma 2 softcaps them) is done to these too.
    """
    return logit_readout(model.bridge, resid).values.float()


def _checked(model: HookedReasoner, last: Float[Tensor, "context vocab"], own: Float[Tensor, "context vocab"]) -> float:
    difference = float((last - own).abs().max())
    limit = TOLERANCE.get(model.dtype, LOOSE)
    if not difference <= limit:
        raise LensError(
            f"the last layer of the lens differs from the logits of {model.name} by {difference:.3g} (tolerance "
            f"{limit:g}): its residual streams cannot be read through its final norm and unembedding"
        )
    return difference


def _array(values: Float[Tensor, "layer context"] | Int[Tensor, "layer context"]) -> Float[np.ndarray, "context layer"]:
    return values.T.to(torch.float64).cpu().numpy()
