"""Activation patching between onsets and their matched controls: which site carries the decision to backtrack.

`denoise`: the control runs, and one activation of the onset's run is put in; what rises is enough to bring the
trigger. `noise`: the onset runs, and one activation of the control's is put in; what falls was needed (Heimersheim
and Nanda 2024 compare the two). Both runs are aligned at the prediction position and counted backwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from backtracking.core.errors import InputError
from backtracking.core.sites import Component, Site
from backtracking.measures.component_sites import component_sites
from backtracking.measures.decision_points import DecisionPoints
from backtracking.measures.patch_cells import PATCH_COMPONENTS, cell_frame, cell_means, checked_offsets
from backtracking.measures.patch_pairs import Direction, Pair, PairBatch, check_direction, paired_batches, pairs_of
from backtracking.measures.tails import column, putting
from backtracking.measures.trigger_reading import Reading, check_reading, trigger_reading, trigger_tensor
from backtracking.model.hook_names import hook_point
from backtracking.model.reasoner import HookedReasoner

FLOOR = 1.0
"""Least difference between onset and control, in nats, for an effect to be stated as a share of it."""


@dataclass(frozen=True)
class ActivationPatching:
    """Change of the reading (patched - unpatched) of every pair, site and offset.

    Denoising, positive: the site's activation at the onset brings the trigger. Noising, negative: without it the
    trigger goes. NaN where a context of the pair is too short for the offset.
    """

    pairs: tuple[Pair, ...]
    sites: tuple[Site, ...]
    offsets: tuple[int, ...]
    """Patched one at a time; 0 is the prediction position."""
    direction: Direction
    reading: Reading
    floor: float
    event_reading: Float[np.ndarray, " pair"]
    """Of the onset's unpatched run, in nats."""
    control_reading: Float[np.ndarray, " pair"]
    effect: Float[np.ndarray, "pair site offset"]
    """In nats."""

    @property
    def reached(self) -> Bool[np.ndarray, "pair offset"]:
        """Pairs both of whose contexts are long enough for the offset."""
        return ~np.isnan(self.effect[:, 0])

    @property
    def too_short(self) -> Int[np.ndarray, " offset"]:
        """Pairs without a token at the offset, left out there."""
        return (~self.reached).sum(0)

    @property
    def contrasted(self) -> Bool[np.ndarray, " pair"]:
        """Pairs whose onset is read at least `floor` above its control; the others have no share."""
        return self.event_reading - self.control_reading >= self.floor

    @property
    def left_out(self) -> int:
        """Pairs that count in no share, because onset and control are less than `floor` apart."""
        return int((~self.contrasted).sum())

    @property
    def share(self) -> Float[np.ndarray, "pair site offset"]:
        """Effect over the whole difference donor - receiver: 1 is everything, in both directions.

        NaN where there is no effect or the pair is left out.
        """
        gap = self.event_reading - self.control_reading
        whole = np.where(self.contrasted, gap if self.direction == "denoise" else -gap, np.nan)
        return self.effect / whole[:, None, None]

    def to_pandas(self) -> pd.DataFrame:
        """One row per site and offset.

        `effect` in nats and `share` of the difference are means over pairs with 95 % intervals clustered by problem;
        `p` is of the effect, `q` adjusted over all cells (Benjamini and Hochberg). `pairs` and `problems` count those
        in the effect, `share_pairs` those in the share, `too_short` and `left_out` those that are missing.
        """
        return self._table.copy()

    @cached_property
    def _table(self) -> pd.DataFrame:
        table = cell_frame(self.sites, self.offsets, cell_means(self.effect, self.reached, self.pairs), "effect")
        usable = self.reached & self.contrasted[:, None]
        means = cell_means(self.share, usable, self.pairs)
        shares = {"share": means.value, "share_low": means.low, "share_high": means.high}
        for place, (name, values) in enumerate(shares.items()):
            table.insert(8 + place, name, values.ravel())
        counts = {"share_pairs": means.pairs.astype(int), "too_short": self.too_short}
        columns = {name: np.tile(values, len(self.sites)) for name, values in counts.items()}
        return table.assign(**columns, left_out=self.left_out, direction=self.direction, reading=self.reading)


def activation_patching(
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
    floor: float = FLOOR,
) -> ActivationPatching:
    """Put every site's activation of one run of a pair in the other, one site and offset at a time.

    Args:
        model: The reasoner that wrote the completions.
        points: Events with their controls; an event with several makes as many pairs.
        trigger_ids: Tokens that begin a trigger, as `tokens_that_begin` gives them for the lexicon.
        direction: `denoise` patches the control's run, `noise` the onset's.
        components: Of which sites every layer's is patched.
        layers: Only these; all if not given.
        heads: Patch every attention head besides, before the output projection.
        offsets: Positions, counted back from the prediction position (0). A pair too short for one is left out there.
        reading: What is read of the logits.
        floor: Least difference between onset and control for a share, in nats.

    Raises:
        InputError: There are no controls, or an option, a trigger id or a site that cannot be used.
    """
    check_direction(direction)
    check_reading(reading)
    if floor <= 0:
        raise InputError(f"the floor is {floor:g} nats; a share of a difference needs one above 0")
    places, sites = checked_offsets(offsets), component_sites(model, components, layers, heads)
    pairs, triggers = pairs_of(points), trigger_tensor(model, trigger_ids)
    return patched_pairs(model, pairs, sites, places, triggers, direction=direction, reading=reading, floor=floor)


def patched_pairs(
    model: HookedReasoner,
    pairs: Sequence[Pair],
    sites: Sequence[Site],
    offsets: Sequence[int],
    triggers: Int[Tensor, " trigger"],
    *,
    direction: Direction,
    reading: Reading,
    floor: float = FLOOR,
) -> ActivationPatching:
    """`activation_patching` of pairs and cells that are known and checked."""
    readings = np.full((2, len(pairs)), np.nan)
    effect = np.full((len(pairs), len(sites), len(offsets)), np.nan)
    for batch in paired_batches(model, pairs, direction, window=1 - min(offsets)):
        rows = list(batch.rows)
        readings[:, rows], effect[rows] = _patched(batch, sites, offsets, triggers, reading)
    receiver, donor = readings
    events, controls = (donor, receiver) if direction == "denoise" else (receiver, donor)
    return ActivationPatching(
        tuple(pairs), tuple(sites), tuple(offsets), direction, reading, floor, events, controls, effect
    )


@torch.no_grad()
def _patched(
    batch: PairBatch,
    sites: Sequence[Site],
    offsets: Sequence[int],
    triggers: Int[Tensor, " trigger"],
    reading: Reading,
) -> tuple[Float[np.ndarray, "side row"], Float[np.ndarray, "row site offset"]]:
    """Unpatched readings of receivers and donors, and the effects."""
    receivers, donors = batch.receivers, batch.donors

    def read(logits: Tensor) -> Tensor:
        return trigger_reading(logits, triggers, reading).double()

    logits, given = donors.capture(sites)
    base = read(receivers.run())
    effect = torch.full((len(base), len(sites), len(offsets)), torch.nan, dtype=torch.double, device=base.device)
    for place, site in enumerate(sites):
        name = hook_point(receivers.model.bridge, site)
        for turn, offset in enumerate(offsets):
            hook = putting(site, offset, column(given[name], site, offset))
            missing = ~(receivers.reach(offset) & donors.reach(offset))
            effect[:, place, turn] = (read(receivers.run([(name, hook)])) - base).masked_fill(missing, torch.nan)
    return torch.stack([base, read(logits)]).cpu().numpy(), effect.cpu().numpy()
