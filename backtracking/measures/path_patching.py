"""Path patching: what a head tells one other head, or the logits, by the direct path between them alone.

The sender's output of the donor run is put into what the receiver reads, and into nothing else: whatever lies between
stays as it was in the receiver run; the receiver's own output then flows on (Wang et al. 2022). A head reads
through its own copy of the stream before the norm, which TransformerLens's bridge offers (`hook_q_input`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from backtracking.core.clustered_means import clustered_means
from backtracking.core.errors import InputError
from backtracking.core.multiplicity import benjamini_hochberg
from backtracking.core.sites import Site
from backtracking.measures.decision_points import DecisionPoints
from backtracking.measures.patch_cells import checked_offsets
from backtracking.measures.patch_pairs import Direction, Pair, PairBatch, check_direction, paired_batches, pairs_of
from backtracking.measures.tails import Tails
from backtracking.measures.trigger_reading import Reading, check_reading, trigger_reading, trigger_tensor
from backtracking.model.hook_names import hook_point
from backtracking.model.reasoner import HookedReasoner

Input = Literal["q", "k", "v"]
LOGITS = "logits"


@dataclass(frozen=True)
class PathPatching:
    """Change of the reading (patched - unpatched) when one direct path carries the donor's signal; nats.

    Denoising, positive: the sender brings the trigger by that path. NaN where there is no such path: the receiver is
    not above the sender, or a context of the pair is too short for an offset.
    """

    pairs: tuple[Pair, ...]
    senders: tuple[Site, ...]
    receivers: tuple[str, ...]
    """Heads as sites are written, or `logits`."""
    into: Input
    """Which input of a receiving head."""
    offsets: tuple[int, ...]
    """Positions at which the sender's output is the donor's, all together."""
    direction: Direction
    reading: Reading
    effect: Float[np.ndarray, "pair sender receiver"]
    gap: Float[np.ndarray, " pair"]
    """Reading of the donor minus that of the receiver run."""

    @property
    def too_short(self) -> int:
        """Pairs that are too short for an offset and count nowhere."""
        return int(np.isnan(self.gap).sum())

    def to_pandas(self) -> pd.DataFrame:
        """One row per sender and receiver.

        `effect` is the mean over pairs with its 95 % interval clustered by problem, `share` that mean over the mean
        `gap`; `p` and `q` (Benjamini and Hochberg) are over the paths that exist, the others are NaN.
        """
        kept = np.isfinite(self.gap)
        cells = self.effect[kept].reshape(int(kept.sum()), -1)
        exists = np.asarray(np.isfinite(cells).all(axis=0) & bool(kept.any()))
        problems = [self.pairs[row].event.problem_id for row in np.flatnonzero(kept).tolist()]
        means = clustered_means(cells[:, exists], problems)
        columns: dict[str, object] = {
            "sender": [str(sender) for sender in self.senders for _ in self.receivers],
            "receiver": list(self.receivers) * len(self.senders),
        }
        q = np.array(benjamini_hochberg(means.p_value.tolist()))
        found = {"effect": means.value, "effect_low": means.low, "effect_high": means.high}
        for name, values in (found | {"p": means.p_value, "q": q}).items():
            columns[name] = np.full(len(exists), np.nan)
            columns[name][exists] = values  # pyright: ignore[reportIndexIssue]
        gap = float(self.gap[kept].mean()) if kept.any() else float("nan")
        columns["share"] = np.asarray(columns["effect"]) / gap
        counts = {"pairs": means.n, "problems": means.clusters, "too_short": self.too_short}
        return pd.DataFrame(columns | {"gap": gap} | counts).assign(into=self.into, direction=self.direction)


def path_patching(
    model: HookedReasoner,
    points: DecisionPoints,
    *,
    senders: Sequence[str | Site],
    trigger_ids: Sequence[int],
    receivers: Sequence[str | Site] | None = None,
    into: Input = "q",
    direction: Direction = "denoise",
    offsets: Sequence[int] = (0,),
    reading: Reading = "logit_difference",
) -> PathPatching:
    """Patch the direct path from each sending head to each receiver.

    Args:
        model: The reasoner that wrote the completions.
        points: Events with their controls.
        senders: Heads, such as the top ones of `activation_patching`.
        trigger_ids: Tokens that begin a trigger.
        receivers: Heads and `logits`; the logits and every head above the lowest sender if not given.
        into: Which input of a receiving head: what it looks for (`q`), is found by (`k`) or passes on (`v`).
            Heads that share keys and values have no `k` and `v` of their own, so those are refused there.
        direction: As in `activation_patching`.
        offsets: Positions of the sender, all patched at once.
        reading: What is read of the logits.

    Raises:
        InputError: There are no controls, a sender or receiver is no head of the model, `k` or `v` with shared
            heads, or the architecture changes a head's output before it joins the stream (norms after the block).
    """
    check_direction(direction)
    check_reading(reading)
    if into not in get_args(Input):
        raise InputError(f"a head has no input {into!r}; give one of {', '.join(get_args(Input))}")
    places, triggers, pairs = checked_offsets(offsets), trigger_tensor(model, trigger_ids), pairs_of(points)
    heads = tuple(_head(model, sender) for sender in senders)
    targets = _receivers(model, heads, receivers)
    _check_architecture(model, heads, targets, into)
    effect, gap = np.full((len(pairs), len(heads), len(targets)), np.nan), np.full(len(pairs), np.nan)
    for batch in paired_batches(model, pairs, direction, window=1 - places[-1]):
        rows = list(batch.rows)
        effect[rows], gap[rows] = _patched(batch, heads, targets, into, places, triggers, reading)
    named = tuple(str(target) for target in targets)
    return PathPatching(pairs, heads, named, into, places, direction, reading, effect, gap)


def _head(model: HookedReasoner, text: str | Site) -> Site:
    site = Site.parse(text)
    if site.head is None:
        raise InputError(f"{site} is no head; paths lead from and to heads such as attn.3.h5, or to {LOGITS}")
    hook_point(model.bridge, site)
    return site


def _receivers(
    model: HookedReasoner, senders: Sequence[Site], given: Sequence[str | Site] | None
) -> tuple[Site | str, ...]:
    if not senders:
        raise InputError("there are no senders; give heads, such as the top ones of activation_patching")
    if given is not None:
        return tuple(LOGITS if each == LOGITS else _head(model, each) for each in given)
    lowest = min(sender.layer for sender in senders)
    above = [
        Site("attn", layer, head)
        for layer in range(lowest + 1, model.cfg.n_layers)
        for head in range(model.cfg.n_heads)
    ]
    return (*above, LOGITS)


def _check_architecture(
    model: HookedReasoner, senders: Sequence[Site], receivers: Sequence[Site | str], into: Input
) -> None:
    for layer in {sender.layer for sender in senders}:
        name = hook_point(model.bridge, Site("attn", layer))
        if not name.startswith(f"blocks.{layer}.attn."):
            raise InputError(
                f"{model.name} changes what heads write before it joins the stream ({name}), so a head has no direct "
                "path of its own; use activation_patching"
            )
    shared = getattr(model.cfg, "n_key_value_heads", None) not in (None, model.cfg.n_heads)
    if into != "q" and shared and any(isinstance(each, Site) for each in receivers):
        raise InputError(f"the heads of {model.name} share keys and values, so none has an input {into!r}; use q")


@contextmanager
def _own_inputs(model: HookedReasoner) -> Iterator[None]:
    """Let every head read its own copy of the stream; the bridge's settings come back afterwards."""
    bridge = model.bridge
    split, joint = bool(bridge.cfg.use_split_qkv_input), bool(bridge.cfg.use_attn_in)
    try:
        if joint:  # the two exclude each other
            bridge.set_use_attn_in(False)
        bridge.set_use_split_qkv_input(True)
        yield
    finally:
        bridge.set_use_split_qkv_input(split)
        if joint:
            bridge.set_use_attn_in(True)


@torch.no_grad()
def _patched(
    batch: PairBatch,
    senders: Sequence[Site],
    receivers: Sequence[Site | str],
    into: Input,
    offsets: Sequence[int],
    triggers: Int[Tensor, " trigger"],
    reading: Reading,
) -> tuple[Float[np.ndarray, "row sender receiver"], Float[np.ndarray, " row"]]:
    """Effects, and the donor's reading minus the receiver run's; NaN for rows too short."""
    own, donors = batch.receivers, batch.donors
    plain, mine = own.capture(senders)
    logits, given = donors.capture(senders)
    missing = ~torch.stack([tails.reach(offset) for tails in (own, donors) for offset in offsets]).all(0)
    with _own_inputs(own.model):
        base = trigger_reading(own.run(), triggers, reading).double()
        effect = torch.full((len(base), len(senders), len(receivers)), torch.nan, dtype=torch.double)
        for row, sender in enumerate(senders):
            change = _written(own, sender, offsets, mine, given)
            for column, receiver in enumerate(receivers):
                if isinstance(receiver, Site) and receiver.layer <= sender.layer:
                    continue
                if receiver == LOGITS and 0 not in offsets:
                    continue  # only what stands at the prediction position leads straight to the logits
                hook = _adding(own.model, receiver, into, change)
                found = trigger_reading(own.run([hook]), triggers, reading).double() - base
                effect[:, row, column] = found.masked_fill(missing, torch.nan).cpu()
    donor, receiver = (trigger_reading(each, triggers, reading).double() for each in (logits, plain))
    return effect.numpy(), (donor - receiver).masked_fill(missing, torch.nan).cpu().numpy()


def _written(
    tails: Tails, sender: Site, offsets: Sequence[int], mine: Any, given: Any
) -> Float[Tensor, "row window d_model"]:
    """Donor's minus receiver's output of the sender in the stream, at the offsets, 0 elsewhere."""
    name = hook_point(tails.model.bridge, sender)
    weight: Tensor = tails.model.bridge.blocks[sender.layer].attn.W_O[sender.head]
    change = (given[name] - mine[name])[:, :, sender.head] @ weight
    kept = torch.zeros(tails.window, dtype=torch.bool, device=change.device)
    kept[[offset - 1 for offset in offsets]] = True
    return torch.where(kept[:, None], change, torch.zeros_like(change))


def _adding(model: HookedReasoner, receiver: Site | str, into: Input, change: Tensor):
    """The hook that adds the change to what the receiver reads."""
    if isinstance(receiver, str):
        last = Site("resid_post", model.cfg.n_layers - 1)
        return hook_point(model.bridge, last), lambda stream, **_: stream + change
    name = f"blocks.{receiver.layer}.attn.hook_{into}_input"

    def add(inputs: Tensor, **_: Any) -> Tensor:
        changed = inputs.clone()
        changed[:, :, receiver.head] += change
        return changed

    return name, add
