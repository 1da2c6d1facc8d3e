"""The cells of a patching: sites by offsets from the prediction position, and their means over pairs.

Contexts differ in length, so positions count backwards: offset 0 is the prediction position, -1 the token before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from backtracking.core.clustered_means import ClusteredMeans, clustered_means
from backtracking.core.errors import InputError
from backtracking.core.multiplicity import benjamini_hochberg
from backtracking.core.sites import Component, Site
from backtracking.measures.patch_pairs import Pair

PATCH_COMPONENTS: tuple[Component, ...] = ("resid_pre", "attn", "mlp", "resid_post")


def checked_offsets(offsets: Sequence[int]) -> tuple[int, ...]:
    """The offsets, nearest first.

    Raises:
        InputError: None are given, one is given twice, or one is behind the prediction position.
    """
    if not offsets or max(offsets) > 0 or len(set(offsets)) < len(offsets):
        raise InputError(f"offsets are {list(offsets)}; give each once, 0 for the prediction position, -1 before it")
    return tuple(sorted(offsets, reverse=True))


def group_of(site: Site) -> str:
    """`head`, or the component."""
    return "head" if site.head is not None else site.component


@dataclass(frozen=True)
class CellMeans:
    """Means over pairs of every cell, where a cell leaves out the pairs that cannot have it."""

    value: Float[np.ndarray, "site offset"]
    low: Float[np.ndarray, "site offset"]
    high: Float[np.ndarray, "site offset"]
    p: Float[np.ndarray, "site offset"]
    q: Float[np.ndarray, "site offset"]
    """Benjamini and Hochberg over all cells that have a p-value."""
    pairs: Float[np.ndarray, " offset"]
    problems: Float[np.ndarray, " offset"]


def cell_means(
    values: Float[np.ndarray, "pair site offset"],
    usable: Bool[np.ndarray, "pair offset"],
    pairs: Sequence[Pair],
    *,
    seed: int = 0,
) -> CellMeans:
    """Mean of each cell over its usable pairs, clustered by the problem of the event."""
    columns: list[ClusteredMeans] = []
    for offset in range(values.shape[2]):
        rows = np.flatnonzero(usable[:, offset])
        problems = [pairs[row].event.problem_id for row in rows.tolist()]
        columns.append(clustered_means(values[rows, :, offset], problems, seed=seed))

    def side_by_side(name: str) -> np.ndarray:
        return np.stack([getattr(each, name) for each in columns], axis=1)

    p = side_by_side("p_value")
    q = np.full_like(p, np.nan)
    q[np.isfinite(p)] = benjamini_hochberg(p[np.isfinite(p)].tolist())
    counts = [np.array([float(getattr(each, name)) for each in columns]) for name in ("n", "clusters")]
    return CellMeans(side_by_side("value"), side_by_side("low"), side_by_side("high"), p, q, counts[0], counts[1])


def cell_frame(sites: Sequence[Site], offsets: Sequence[int], means: CellMeans, name: str) -> pd.DataFrame:
    """One row per cell, site by site: where it is, and the mean called `name` with interval, `p` and `q`."""
    every = [site for site in sites for _ in offsets]
    columns: dict[str, object] = {
        "site": [str(site) for site in every],
        "component": [group_of(site) for site in every],
        "layer": [site.layer for site in every],
        "head": pd.array([site.head for site in every], dtype="Int64"),
        "offset": list(offsets) * len(sites),
        name: means.value.ravel(),
        f"{name}_low": means.low.ravel(),
        f"{name}_high": means.high.ravel(),
        "p": means.p.ravel(),
        "q": means.q.ravel(),
        "pairs": np.tile(means.pairs, len(sites)).astype(int),
        "problems": np.tile(means.problems, len(sites)).astype(int),
    }
    return pd.DataFrame(columns)
