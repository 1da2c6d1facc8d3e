"""Where heads look from the prediction position, at onsets and at their matched controls."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from backtracking.core.clustered_means import clustered_means
from backtracking.core.errors import InputError
from backtracking.core.multiplicity import benjamini_hochberg
from backtracking.core.onsets import DEFAULT_LEXICON, Lexicon
from backtracking.measures.decision_points import DecisionPoint, DecisionPoints
from backtracking.measures.event_pairs import minus_own_controls
from backtracking.measures.tails import Tails, batches
from backtracking.measures.text_regions import DISTANCE_REGIONS, TEXT_REGIONS, distance_regions, text_regions
from backtracking.model.reasoner import HookedReasoner

Bands = Literal["text", "distance"]


@dataclass(frozen=True)
class AttentionPatterns:
    """Attention from the prediction position to each region of the context; points are events, then controls.

    Regions share out a head's attention, so they add up to 1.
    """

    points: DecisionPoints
    regions: tuple[str, ...]
    mass: Float[np.ndarray, "point layer head region"]
    """Heads are query heads, also where several share keys and values."""
    present: Bool[np.ndarray, "point region"]
    """Whether the context has a token of the region; where not, its attention is 0 for want of anything to look at."""

    def to_pandas(self) -> pd.DataFrame:
        """One row per layer, head and region.

        `event` and `control` are mean shares of attention, `difference` event - own controls, all with 95 % intervals
        clustered by problem; `p` and `q` (Benjamini and Hochberg over all rows) are of the difference. `present` and
        `control_present` say in what share of events and controls the region exists.
        """
        return self._table.copy()

    @cached_property
    def _table(self) -> pd.DataFrame:
        count, cells = len(self.points.events), self.mass.reshape(len(self.mass), -1)
        _, layers, heads, regions = self.mass.shape
        place = np.indices((layers, heads, regions)).reshape(3, -1)
        means = {
            "event": clustered_means(cells[:count], [e.problem_id for e in self.points.events]),
            "control": clustered_means(cells[count:], [c.problem_id for c in self.points.controls]),
            "difference": clustered_means(*minus_own_controls(self.points, cells)),
        }
        columns: dict[str, object] = {
            "layer": place[0],
            "head": place[1],
            "region": [self.regions[index] for index in place[2].tolist()],
        }
        for name, each in means.items():
            columns |= {name: each.value, f"{name}_low": each.low, f"{name}_high": each.high}
        p = means["difference"].p_value.tolist()
        columns |= {"p": p, "q": benjamini_hochberg(p), "events": count, "pairs": means["difference"].n}
        for name, part in (("present", self.present[:count]), ("control_present", self.present[count:])):
            share = part.mean(0) if len(part) else np.full(regions, np.nan)
            columns[name] = share[place[2]]
        return pd.DataFrame(columns | {"problems": means["event"].clusters})


def attention_patterns(
    model: HookedReasoner,
    points: DecisionPoints,
    *,
    bands: Bands = "text",
    lexicon: Lexicon = DEFAULT_LEXICON,
) -> AttentionPatterns:
    """Read every head's attention from the prediction position of every point.

    Args:
        model: The reasoner that wrote the completions.
        points: Events, and controls if there are any.
        bands: `text`: the first token, the rest of the prompt, earlier triggers, the last statement, and other text.
            `distance`: how many tokens back.
        lexicon: The triggers.

    Raises:
        InputError: There are no points, or unknown bands.
    """
    if bands not in get_args(Bands):
        raise InputError(f"no bands are called {bands!r}; give one of {', '.join(get_args(Bands))}")
    every = points.all
    if not every:
        raise InputError("there are no decision points to look from; sample more completions")

    def regions_of(point: DecisionPoint) -> np.ndarray:
        return text_regions(model, point, lexicon) if bands == "text" else distance_regions(point)

    names = TEXT_REGIONS if bands == "text" else DISTANCE_REGIONS
    shape = len(every), model.cfg.n_layers, model.cfg.n_heads, len(names)
    mass, present = np.zeros(shape), np.zeros((len(every), len(names)), dtype=bool)
    for rows in batches([len(point.context) for point in every], model):
        weights = last_attention(model, [every[row].context for row in rows])
        for row, own in zip(rows, weights, strict=True):
            regions = regions_of(every[row])
            inside = regions[:, None] == np.arange(len(names))
            mass[row] = own[:, :, -len(regions) :] @ inside
            present[row] = inside.any(0)
    return AttentionPatterns(points, tuple(names), mass, present)


@torch.no_grad()
def last_attention(
    model: HookedReasoner, contexts: Sequence[Sequence[int]]
) -> Float[np.ndarray, "context layer head pos"]:
    """Every head's attention from the last position of contexts that run together, aligned at that position.

    Positions before a context's start, and those outside a sliding window, are 0. Heads are query heads.
    """
    tails = Tails.of(model, contexts, window=1)
    layers, width = model.cfg.n_layers, tails.mask.shape[1]
    found = np.zeros((len(contexts), layers, model.cfg.n_heads, width))

    def keep(layer: int) -> Any:
        def read(pattern: Float[Tensor, "row head query key"], **_: Any) -> None:
            # A sliding window keeps fewer keys; they end where all keys end.
            found[:, layer, :, width - pattern.shape[-1] :] = pattern[:, :, -1].double().cpu().numpy()

        return read

    tails.run([(f"blocks.{layer}.attn.hook_pattern", keep(layer)) for layer in range(layers)])
    return found
