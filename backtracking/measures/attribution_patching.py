"""Attribution patching: the effect of every patch at once, to first order, and how wrong that is.

One forward and one backward pass of the receiver give the gradient of its reading at every site; times the
difference donor - receiver it estimates what activation patching measures (Nanda 2023). Norms and softmax bend, so
a random sample of the pairs is patched exactly as well and the error is part of the result.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.stats import spearmanr
from torch import Tensor

from backtracking.core.errors import InputError
from backtracking.core.sites import Component, Site
from backtracking.measures.activation_patching import ActivationPatching, patched_pairs
from backtracking.measures.component_sites import component_sites
from backtracking.measures.decision_points import DecisionPoints
from backtracking.measures.patch_cells import PATCH_COMPONENTS, cell_frame, cell_means, checked_offsets, group_of
from backtracking.measures.patch_pairs import Direction, Pair, PairBatch, check_direction, paired_batches, pairs_of
from backtracking.measures.tails import column
from backtracking.measures.trigger_reading import Reading, check_reading, trigger_reading, trigger_tensor
from backtracking.model.hook_names import hook_point
from backtracking.model.reasoner import HookedReasoner

NOTABLE = 0.1
"""Nats from which an exact effect has a sign worth agreeing with."""


@dataclass(frozen=True)
class AttributionError:
    """Estimate against exact patching, over all cells of the sampled pairs."""

    pairs: int
    """Sampled."""
    cells: int
    """Pairs times sites times offsets that were compared."""
    correlation: float
    """Pearson's, which a few large errors can spoil; NaN if either does not vary."""
    rank_correlation: float
    """Spearman's."""
    mean_absolute: float
    """Of estimate - exact, in nats."""
    largest: float
    largest_at: str
    """The site of the largest error."""
    sign_agreement: float
    """Share of the notable cells in which the signs agree; NaN if none is notable."""
    notable: int
    """Cells whose exact effect is at least `NOTABLE`."""

    def __str__(self) -> str:
        """Return it in one line."""
        return (
            f"{self.pairs} pairs patched exactly, {self.cells} cells: correlation {self.correlation:.3f} (of ranks "
            f"{self.rank_correlation:.3f}), mean error {self.mean_absolute:.3g} nats, largest {self.largest:.3g} at "
            f"{self.largest_at}, sign right in {100 * self.sign_agreement:.1f} % of {self.notable} cells of at least "
            f"{NOTABLE:g} nats"
        )


@dataclass(frozen=True)
class AttributionPatching:
    """Estimated change of the reading (patched - unpatched), in nats; signs and NaN as in `ActivationPatching`."""

    pairs: tuple[Pair, ...]
    sites: tuple[Site, ...]
    offsets: tuple[int, ...]
    direction: Direction
    reading: Reading
    estimate: Float[np.ndarray, "pair site offset"]
    sampled: tuple[int, ...]
    """Pairs that were patched exactly too."""
    exact: ActivationPatching
    """Of the sampled pairs, in that order."""

    @cached_property
    def error(self) -> AttributionError:
        """How far the estimates of the sampled pairs are from exact patching, over all sites."""
        return self._error(range(len(self.sites)))

    def errors_to_pandas(self) -> pd.DataFrame:
        """One row per kind of site, fields of `AttributionError`: which kinds the estimate can be trusted for."""
        kinds = dict.fromkeys(group_of(site) for site in self.sites)
        rows = []
        for kind in kinds:
            own = [index for index, site in enumerate(self.sites) if group_of(site) == kind]
            rows.append({"component": kind, **asdict(self._error(own))})
        return pd.DataFrame(rows)

    def _error(self, sites: Sequence[int]) -> AttributionError:
        estimate, exact = self.estimate[list(self.sampled)][:, list(sites)], self.exact.effect[:, list(sites)]
        known = np.isfinite(exact)
        if not known.any():
            raise InputError("no sampled pair reaches an offset; draw a larger sample or give offsets nearer to 0")
        off = np.where(known, np.abs(estimate - exact), -1.0)
        worst = np.unravel_index(int(off.argmax()), off.shape)
        notable = known & (np.abs(exact) >= NOTABLE)
        agree = np.sign(estimate[notable]) == np.sign(exact[notable])
        varies = known.sum() > 1 and estimate[known].std() > 0 and exact[known].std() > 0
        return AttributionError(
            pairs=len(self.sampled),
            cells=int(known.sum()),
            correlation=float(np.corrcoef(estimate[known], exact[known])[0, 1]) if varies else float("nan"),
            rank_correlation=float(spearmanr(estimate[known], exact[known])[0]) if varies else float("nan"),  # pyright: ignore[reportArgumentType]
            mean_absolute=float(off[known].mean()),
            largest=float(off[worst]),
            largest_at=str(self.sites[sites[int(worst[1])]]),
            sign_agreement=float(agree.mean()) if agree.size else float("nan"),
            notable=int(notable.sum()),
        )

    def to_pandas(self) -> pd.DataFrame:
        """One row per site and offset.

        `estimate` is the mean over all pairs with its 95 % interval clustered by problem, `p` and `q` (Benjamini
        and Hochberg over all cells); `sample_estimate` and `sample_exact` are means over the sampled pairs.
        """
        usable = ~np.isnan(self.estimate[:, 0])
        table = cell_frame(self.sites, self.offsets, cell_means(self.estimate, usable, self.pairs), "estimate")
        known = np.isfinite(self.exact.effect)
        counted = np.where(known.any(0), known.sum(0), np.nan)
        for name, values in (
            ("sample_estimate", self.estimate[list(self.sampled)]),
            ("sample_exact", self.exact.effect),
        ):
            table[name] = (np.where(known, values, 0.0).sum(0) / counted).ravel()
        return table.assign(sample_pairs=known[:, 0].sum(0).tolist() * len(self.sites), direction=self.direction)

    def sample_to_pandas(self) -> pd.DataFrame:
        """One row per sampled pair and cell: `event`, `problem_id`, `site`, `offset`, `estimate`, `exact`."""
        rows = []
        for place, index in enumerate(self.sampled):
            event = self.pairs[index].event
            for s, site in enumerate(self.sites):
                for o, offset in enumerate(self.offsets):
                    both = self.estimate[index, s, o], self.exact.effect[place, s, o]
                    rows.append((event.event, event.problem_id, str(site), offset, *both))
        return pd.DataFrame(rows, columns=["event", "problem_id", "site", "offset", "estimate", "exact"])


def attribution_patching(
    model: HookedReasoner,
    points: DecisionPoints,
    *,
    trigger_ids: Sequence[int],
    direction: Direction = "denoise",
    components: Sequence[Component] = PATCH_COMPONENTS,
    layers: Sequence[int] | None = None,
    heads: bool = True,
    offsets: Sequence[int] = (0,),
    reading: Reading = "logit_difference",
    sample: int = 16,
    seed: int = 0,
) -> AttributionPatching:
    """Estimate `activation_patching` of every pair, and patch a random sample of them exactly.

    Args:
        model: The reasoner that wrote the completions.
        points: As for `activation_patching`, and so are the options that are not named here.
        trigger_ids: Tokens that begin a trigger.
        direction: Which run is patched.
        components: Of which sites.
        layers: Only these; all if not given.
        heads: Every attention head besides.
        offsets: Positions, counted back from the prediction position.
        reading: What is read of the logits.
        sample: Pairs to patch exactly; all of them if there are no more.
        seed: Of the sample.

    Raises:
        InputError: As `activation_patching`, or a sample below 1.
    """
    check_direction(direction)
    check_reading(reading)
    if sample < 1:
        raise InputError(f"a sample of {sample} pairs shows no error; give at least 1")
    places, sites = checked_offsets(offsets), component_sites(model, components, layers, heads)
    pairs, triggers = pairs_of(points), trigger_tensor(model, trigger_ids)
    estimate = np.full((len(pairs), len(sites), len(places)), np.nan)
    for batch in paired_batches(model, pairs, direction, window=1 - places[-1]):
        estimate[list(batch.rows)] = _estimated(batch, sites, places, triggers, reading)
    drawn = np.random.default_rng(seed).choice(len(pairs), min(sample, len(pairs)), replace=False)
    sampled = tuple(sorted(drawn.tolist()))
    exact = patched_pairs(
        model, [pairs[i] for i in sampled], sites, places, triggers, direction=direction, reading=reading
    )
    return AttributionPatching(pairs, sites, places, direction, reading, estimate, sampled, exact)


def _estimated(
    batch: PairBatch,
    sites: Sequence[Site],
    offsets: Sequence[int],
    triggers: Int[Tensor, " trigger"],
    reading: Reading,
) -> Float[np.ndarray, "row site offset"]:
    _, given = batch.donors.capture(sites)
    probes: dict[str, Tensor] = {}
    own: dict[str, Tensor] = {}

    def probe(activation: Tensor, hook) -> Tensor:
        # Adding a zero that wants a gradient gives the gradient here, whatever view the hook point hands out.
        name = str(hook.name)
        own[name] = activation.detach().clone()
        probes[name] = torch.zeros_like(activation, requires_grad=True)
        return activation + probes[name]

    with torch.enable_grad():
        logits = batch.receivers.run([(name, probe) for name in given])
        # Rows do not see one another, so the gradient of the sum is each row's own.
        total = trigger_reading(logits, triggers, reading).sum()
        names = list(probes)
        gradients = dict(zip(names, torch.autograd.grad(total, [probes[name] for name in names]), strict=True))
    found = torch.full((len(logits), len(sites), len(offsets)), torch.nan, dtype=torch.double, device=logits.device)
    for place, site in enumerate(sites):
        name = hook_point(batch.receivers.model.bridge, site)
        for turn, offset in enumerate(offsets):
            change = column(given[name], site, offset) - column(own[name], site, offset)
            value = (change.double() * column(gradients[name], site, offset).double()).sum(-1)
            missing = ~(batch.receivers.reach(offset) & batch.donors.reach(offset))
            found[:, place, turn] = value.masked_fill(missing, torch.nan)
    return found.cpu().numpy()
