"""`cache_activations`: completions run through the model again, and what it holds at sites and positions kept on disk.

Shards hold whole completions in the order given. Within a shard, completions of like length run together, padded on
the right; layers above the last site are not run, nor tokens behind the last position that is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from backtracking.core.completions import Completion
from backtracking.core.errors import InputError, ReceiptError
from backtracking.core.events import Event, OnsetRow
from backtracking.core.interventions import Ban, Condition, SiteIntervention
from backtracking.core.receipts import Receipt
from backtracking.core.sites import Site
from backtracking.model.activations.arms import Conditions, arms_for, note_on, reached
from backtracking.model.activations.batches import by_shard, tokens_at_once
from backtracking.model.activations.description import check_completions, check_sites, describe, digest_of
from backtracking.model.activations.index import index_table
from backtracking.model.activations.positions import (
    Chosen,
    Missing,
    Positions,
    counting_onsets,
    onsets_from,
    read_positions,
)
from backtracking.model.activations.shard_writer import Rows
from backtracking.model.activations.sidecar import DTYPES, Recipe
from backtracking.model.activations.store import ActivationStore
from backtracking.model.activations.writer import StoreWriter
from backtracking.model.hook_names import hook_point
from backtracking.model.hooks import NOWHERE, intervening, site_of
from backtracking.model.last_position import last_logits_only
from backtracking.model.reasoner import HookedReasoner

SHARD_BYTES = 2**28


def cache_activations(
    model: HookedReasoner,
    completions: Sequence[Completion],
    *,
    sites: Sequence[str | Site],
    positions: Positions = "all",
    to: str | Path,
    onsets: Sequence[Event] | Sequence[OnsetRow] | None = None,
    conditions: Conditions | Literal["clean"] | None = None,
    dataset: str = "completions",
    dtype: Literal["float32", "float16", "bfloat16"] | None = None,
    shard_bytes: int = SHARD_BYTES,
    batch: int | None = None,
) -> ActivationStore:
    """Run completions through the model and keep its activations at sites and positions, in the folder `to`.

    If the folder holds the same capture, broken off, it is continued; if it is complete, it is opened.

    Args:
        model: The reasoner.
        completions: What to run: prompt and sampled ids, the last sampled one included.
        sites: Sites or their text, such as `resid_post.3`, `mlp.2`, `attn.1` or one head, `attn.1.h0`.
        positions: `"all"`, `"completion"`, `"last"` (the last token of the sequence), `"onsets"` (where the logits
            choose an onset's first token: one before it), a window such as `"onset-13:onset-8"` (thirteenth to
            eighth token before each onset, both included), or positions in the full sequence, from 0: one list per
            completion in order, or a mapping from `(problem_id, sample_id, variant, condition)`. Positions that do not
            exist are counted in the sidecar.
        to: Folder of the store.
        onsets: Events or onset rows of `detect_events`; of rows those that count. If not given, every strict onset
            that counts is found in the text, without regard to the words of the question.
        conditions: The arms under which the completions were sampled, so that each is run under its own
            interventions; `"clean"` runs all of them without any. If not given, the receipts of the completions say
            it, but for vectors that were given as numbers.
        dataset: Name of the problem set, for the sidecar and the file names.
        dtype: Number format on disk; the model's own if not given.
        shard_bytes: Size of a shard, all sites together. A shard holds whole completions, so one completion that is
            larger makes a larger shard.
        batch: Completions run together at most; as many as memory for a part of a shard allows if not given. At 1
            the stored numbers are those of the bridge's `run_with_cache`, bit for bit in float32.

    Raises:
        UnknownSiteError: The model has no such site.
        InputError: Something given cannot be used, or `to` holds something else.
        ReceiptError: An intervention touched other positions than it should have.
    """
    chosen_sites = check_sites(model, sites)
    choice = read_positions(positions, completions=len(completions))
    arms = arms_for(completions, conditions)
    check_completions(model, completions)
    if shard_bytes < 1 or (batch is not None and batch < 1):
        raise InputError(f"shard_bytes is {shard_bytes} and batch is {batch}; both must be at least 1")
    detected = onsets_from(onsets) if onsets is not None else counting_onsets
    chosen = [
        choice.of(
            completion,
            number,
            onsets=detected(completion) if choice.needs_onsets else (),
            run=len(completion.prompt_ids) + len(completion.ids),
        )
        for number, completion in enumerate(completions)
    ]
    if not any(map(len, chosen)):
        raise InputError(f"none of the {len(completions)} completions has a position {choice.text!r}; nothing to keep")
    recipe = Recipe(
        made="teacher-forced",
        **describe(model, chosen_sites, dtype),
        dataset=dataset,
        positions=choice.text,
        interventions={name: str(arm) for name, arm in arms.items()},
        note=note_on(arms, conditions),
        source={"completions": len(completions), "sha256": digest_of(completions, chosen, arms)},
        shard_bytes=shard_bytes,
        batch=f"at most {batch or 'as many as fit'} rows, right-padded",
    )
    with StoreWriter(to, recipe, completions=len(completions)) as writer:
        if not writer.complete:
            capture = _Capture(model, chosen_sites, recipe, arms, batch)
            groups = by_shard(chosen, max(1, shard_bytes // recipe.row_bytes))
            for group in groups[len(writer.shards) :]:
                capture.group(writer, [(number, completions[number], chosen[number]) for number in group])
            writer.finish()
    return ActivationStore.open(to)


@dataclass(frozen=True)
class _Part:
    """A completion of a shard: what of it is kept, and from which row on."""

    completion: Completion
    chosen: Chosen
    first: int

    @property
    def length(self) -> int:
        """Tokens that have to run: none behind the last position kept."""
        return int(self.chosen.positions.max()) + 1

    @property
    def ids(self) -> tuple[int, ...]:
        """Those tokens."""
        return (self.completion.prompt_ids + self.completion.ids)[: self.length]


class _Capture:
    """Runs the completions of one shard after another."""

    def __init__(
        self,
        model: HookedReasoner,
        sites: Sequence[Site],
        recipe: Recipe,
        arms: Mapping[str, Condition],
        batch: int | None,
    ) -> None:
        self.model, self.sites, self.arms, self.batch = model, sites, arms, batch
        self.dtype = DTYPES[recipe.dtype]
        self.tokens = tokens_at_once(model, recipe)
        above = 1 + max(site.layer for site in sites)
        self.stop = {"stop_at_layer": above} if above < model.cfg.n_layers else last_logits_only(model)
        # Keys and values of all layers, kept for a next token that never comes, would be most of the memory.
        self.stop = {**self.stop, "use_cache": False}
        self.places: dict[str, list[Site]] = {}
        for site in sites:
            self.places.setdefault(hook_point(model.bridge, site), []).append(site)

    def group(self, writer: StoreWriter, group: Sequence[tuple[int, Completion, Chosen]]) -> None:
        """Write one shard: completions of like length run together, each to its place."""
        missing = sum((chosen.missing for _, _, chosen in group), Missing())
        shard = writer.shard(index_table(group), missing)
        parts, first = [], 0
        for _, completion, chosen in group:
            if len(chosen):
                parts.append(_Part(completion, chosen, first))
            first += len(chosen)
        parts.sort(key=lambda part: part.length)
        while parts:
            count = 1
            while count < len(parts) and (count + 1) * parts[count].length <= self.tokens and count != self.batch:
                count += 1
            shard.put(self._run(parts[:count]))
            parts = parts[count:]
        shard.close()

    @torch.inference_mode()
    def _run(self, parts: Sequence[_Part]) -> list[Rows]:
        """What is kept of a batch; the right side of shorter rows is padding that nothing attends to."""
        device = self.model.device
        width = max(part.length for part in parts)
        ids = torch.tensor([[*p.ids, *[self.model.pad_id] * (width - p.length)] for p in parts], device=device)
        lengths = torch.tensor([part.length for part in parts], device=device)
        columns = torch.arange(width, device=device).expand(len(parts), -1)
        real = columns < lengths[:, None]
        sizes = [len(part.chosen) for part in parts]
        row = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor(sizes)).to(device)
        column = torch.cat([torch.from_numpy(part.chosen.positions).long() for part in parts]).to(device)
        found: dict[str, Tensor] = {}

        def keep(activation: Tensor, hook) -> None:
            for site in self.places[str(hook.name)]:
                found[str(site)] = site_of(activation, site)[row, column].to(self.dtype).cpu()

        prompts = torch.tensor([part.completion.prompt_tokens for part in parts], device=device)
        given = [self._interventions(part.completion) for part in parts]
        mask = {} if bool(real.all()) else {"attention_mask": real.long()}
        with intervening(self.model.bridge, given, prompt_lengths=prompts) as state:
            state.locate(columns.masked_fill(~real, NOWHERE))
            # Hooks added later see what those before them returned: the activation after the interventions.
            with self.model.bridge.hooks(fwd_hooks=[(place, keep) for place in self.places]):
                self.model.bridge(ids, **mask, **self.stop)
            self._check_receipts(parts, given, state.receipts())
        starts = [sum(sizes[:index]) for index in range(len(parts))]
        return [
            Rows(site, part.first, values[start : start + size])
            for site, values in found.items()
            for part, start, size in zip(parts, starts, sizes, strict=True)
        ]

    def _interventions(self, completion: Completion) -> tuple[SiteIntervention, ...]:
        """Those of its condition that act on the forward pass; a ban acts on the choice of tokens."""
        arm = self.arms.get(completion.condition)
        return () if arm is None else tuple(i for i in arm.interventions if not isinstance(i, Ban))

    def _check_receipts(
        self,
        parts: Sequence[_Part],
        given: Sequence[Sequence[SiteIntervention]],
        receipts: Sequence[Sequence[Receipt]],
    ) -> None:
        top = max(site.layer for site in self.sites)
        for part, interventions, noted in zip(parts, given, receipts, strict=True):
            touched = {receipt.intervention: receipt.positions for receipt in noted}
            for intervention in interventions:
                prompt, found = part.completion.prompt_tokens, touched[str(intervention)]
                # Layers above the last site are not run.
                if intervention.site.layer <= top and found != (wanted := reached(intervention, prompt, part.length)):
                    raise ReceiptError(
                        f"{intervention} touched {found} positions of {part.length} tokens run, "
                        f"not {wanted}; the activations cannot be trusted and the capture was stopped"
                    )
