"""Prompts, each run once for all the rows that continue it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from backtracking.core.errors import InputError
from backtracking.core.interventions import At, Ban, Intervention
from backtracking.model.hooks import NOWHERE
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling.edits import Edits, Spec, Tally
from backtracking.model.sampling.packed_cache import PackedCache, Packing
from backtracking.model.sampling.passes import Prefill
from backtracking.model.sampling.refusals import SLOWER, check_kept

TOKENS_AT_ONCE = {"cpu": 1024, "cuda": 2**14}
"""Tokens of prompts and contexts that are run together: enough to use the device, few beside the rows of a batch."""
AHEAD = 16
"""Prompts that may be run before there is a seat for their rows."""


@dataclass(frozen=True)
class Prefix:
    """A prompt under the interventions that reach into it; rows with equal ones share its cache."""

    ids: tuple[int, ...]
    spec: Spec
    prompt: int
    """How many of the ids are the prompt; those after it were sampled."""

    @classmethod
    def of(cls, ids: tuple[int, ...], interventions: Sequence[Intervention], prompt: int | None = None) -> "Prefix":
        """The prefix of a row with those tokens under those interventions."""
        prompt = len(ids) if prompt is None else prompt
        return cls(ids, tuple(i for i in interventions if reaches(i, len(ids), prompt)), prompt)


class Prefixes:
    """The prefixes of a unit of work: which are in the cache, for whom, and with what logits."""

    def __init__(
        self,
        model: HookedReasoner,
        edits: Edits,
        specs: dict[Spec, int],
        cache: PackedCache,
        of_rows: Sequence[Prefix],
    ) -> None:
        """Plan to run the prefix of every row, in the order of the rows."""
        self._model, self._edits, self._specs, self._cache = model, edits, specs, cache
        self._users = Counter(of_rows)
        self._waiting = Counter(of_rows)
        self._to_run = list(dict.fromkeys(of_rows))
        self._entries: dict[Prefix, int] = {}
        self._logits: dict[Prefix, Float[Tensor, " vocab"]] = {}
        self._tallies: dict[Prefix, dict[str, Tally]] = {}

    def has(self, prefix: Prefix) -> bool:
        """Whether the prefix has been run and is still in the cache."""
        return prefix in self._entries

    def entry(self, prefix: Prefix) -> int:
        """Where the prefix is in the cache."""
        return self._entries[prefix]

    def has_room(self) -> bool:
        """Whether another prefix fits into the cache."""
        return len(self._entries) < self._cache.entries

    def run_next(self) -> Sequence[Prefix]:
        """Run the next prompts in order, as many as fit; return those that ran, in the order of the pass."""
        room, most = self._cache.entries - len(self._entries), prompt_tokens_at_once(self._model.device)
        count, longest = 1, len(self._to_run[0].ids)
        for prefix in self._to_run[1:room]:
            longest = max(longest, len(prefix.ids))
            if (count + 1) * longest > most:
                break
            count += 1
        batch, self._to_run = self._to_run[:count], self._to_run[count:]
        logits = self._forward(batch)
        for index, prefix in enumerate(batch):
            self._entries[prefix] = len(self._entries)
            self._logits[prefix] = logits[index]
        return batch

    def seat(self, prefix: Prefix) -> tuple[int, Float[Tensor, " vocab"]]:
        """The entry of a row's prefix and the logits of its first token, for one row that sits down."""
        logits = self._logits[prefix]
        self._waiting[prefix] -= 1
        if not self._waiting[prefix]:
            del self._logits[prefix]
        return self._entries[prefix], logits

    def leave(self, prefix: Prefix) -> None:
        """One row of the prefix is gone."""
        self._users[prefix] -= 1

    def tally(self, prefix: Prefix) -> dict[str, Tally]:
        """What each intervention did to the prompt."""
        return self._tallies[prefix]

    def tidy(self) -> Int[Tensor, " entry"] | None:
        """Drop prefixes that no row needs any more; the new number of each entry, if any was dropped."""
        numbered = list(self._entries)
        keep = torch.tensor([self._users[prefix] > 0 for prefix in numbered], device=self._model.device)
        if bool(keep.all()):
            return None
        packing = Packing.of(keep)
        for kept_values in self._cache.prefixes.values():
            kept_values.move(packing.source, packing.target)
        entries = packing(torch.arange(len(numbered), device=self._model.device))
        renumbered = torch.zeros(len(numbered), dtype=torch.long, device=self._model.device)
        renumbered[entries] = torch.arange(len(entries), device=self._model.device)
        self._entries = {numbered[old]: new for new, old in enumerate(entries.tolist())}
        return renumbered

    def _forward(self, batch: Sequence[Prefix]) -> Float[Tensor, "prefix vocab"]:
        device = self._model.device
        lengths = torch.tensor([len(prefix.ids) for prefix in batch], device=device)
        width = int(lengths.max())
        padded = [list(prefix.ids) + [self._model.pad_id] * (width - len(prefix.ids)) for prefix in batch]
        columns = torch.arange(width, device=device).expand(len(batch), -1)
        specs = [self._specs[prefix.spec] for prefix in batch]
        passing = Prefill(self._cache, len(self._entries), [len(prefix.ids) for prefix in batch])
        with self._edits.apart(len(batch)):
            real = torch.where(columns < lengths[:, None], columns, NOWHERE)
            prompts = torch.tensor([prefix.prompt for prefix in batch], device=device)
            self._edits.bind(torch.tensor(specs, device=device), real, prompts)
            logits = _logits_at(self._model, torch.tensor(padded, device=device), columns, passing, lengths - 1)
            counted = self._edits.counted(torch.arange(len(batch), device=device), specs)
        check_kept(self._model, len(passing.layers))
        for prefix, tally in zip(batch, counted, strict=True):
            self._tallies[prefix] = tally
        return logits


def prompt_tokens_at_once(device: torch.device) -> int:
    """How many tokens of prompts are run together."""
    return TOKENS_AT_ONCE.get(device.type, 4096)


def _logits_at(
    model: HookedReasoner,
    ids: Int[Tensor, "row pos"],
    positions: Int[Tensor, "row pos"],
    passing: Any,
    column: Int[Tensor, " row"],
) -> Float[Tensor, "row vocab"]:
    """Logits of each row at a column of its own, and no others: a vocabulary is wider than a layer.

    A model keeps the same columns of all rows (`logits_to_keep`), so a hook takes each row's own before the
    unembedding.

    Raises:
        InputError: The model gives logits of other columns than it was asked for.
    """
    columns = torch.unique(column)
    rows, places = torch.arange(len(column), device=column.device), torch.searchsorted(columns, column)

    def own(_unembedding: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (hidden,) = given
        return (hidden[rows, places][:, None] if hidden.shape[:2] == (len(rows), len(columns)) else hidden,)

    unembedding = model.plain.module.get_output_embeddings()
    handle = None if unembedding is None else unembedding.register_forward_pre_hook(own)
    try:
        logits = forward(model, ids, positions, passing, keep=columns)
    finally:
        if handle is not None:
            handle.remove()
    if logits.shape[1] == 1:
        return logits[:, 0]
    if logits.shape[1] in (len(columns), ids.shape[1]):
        return logits[rows, places if logits.shape[1] == len(columns) else column]
    raise InputError(
        f"{model.name} gives logits at {logits.shape[1]} positions where {len(columns)} were asked for; {SLOWER}"
    )


def forward(
    model: HookedReasoner,
    ids: Int[Tensor, "row pos"],
    positions: Int[Tensor, "row pos"],
    passing: Any,
    *,
    keep: Int[Tensor, " kept"] | None = None,
) -> Float[Tensor, "row column vocab"]:
    """Logits of the plain model, its attention computed by `passing`, at the columns to keep."""
    options: dict[str, Any] = {} if keep is None else {"logits_to_keep": keep}
    found = model.plain.module(input_ids=ids, position_ids=positions, use_cache=False, packed=passing, **options)
    return found.logits


def reaches(intervention: Intervention, length: int, prompt: int) -> bool:
    """Whether it touches one of the first `length` positions."""
    if isinstance(intervention, Ban):
        return False
    if isinstance(intervention.scope, At):
        return intervention.scope.positions[0] < length
    return intervention.scope in ("all", "prompt") or (intervention.scope == "decode" and prompt < length)
