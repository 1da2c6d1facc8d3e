"""Contexts that rows will continue, run once each: only their keys and values are kept.

Their tokens are run under one another, as if each were a row of its own, so nothing is padded but attention; and a
context that begins like another is run from where they part.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

import torch
from jaxtyping import Int
from torch import Tensor

from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling.beginnings import alike, depths
from backtracking.model.sampling.context_pass import AllKept, Run, Together
from backtracking.model.sampling.edits import Edits, Spec, Tally
from backtracking.model.sampling.packed_cache import PackedCache
from backtracking.model.sampling.prefixes import TOKENS_AT_ONCE, Prefix, forward
from backtracking.model.sampling.refusals import check_kept

LOOKED_AT = 2**24
"""Pairs of a token and a place that attention of a pass may have a mask for."""


def planned(prefixes: Sequence[Prefix]) -> list[list[Run]]:
    """How each distinct prefix is run: what one list holds depends on earlier lists alone, and has like lengths.

    Args:
        prefixes: As often as there are rows.
    """
    distinct = dict.fromkeys(prefixes)
    free = {prefix.ids: prefix for prefix in distinct if not prefix.spec}
    sources = alike(free)
    depth = depths(free, sources)

    def place(prefix: Prefix) -> tuple[int, int]:
        if prefix.spec or prefix.ids not in sources:
            return 0, len(prefix.ids)
        return depth[prefix.ids], len(prefix.ids) - sources[prefix.ids][1]

    entries = {prefix: entry for entry, prefix in enumerate(sorted(distinct, key=place))}
    found: dict[int, list[Run]] = {}
    for prefix, entry in entries.items():
        level, ran = place(prefix)
        source = free[sources[prefix.ids][0]] if level else prefix
        found.setdefault(level, []).append(Run(prefix, entry, entries[source], len(prefix.ids) - ran))
    return list(found.values())


def run_contexts(
    model: HookedReasoner,
    edits: Edits,
    specs: Mapping[Spec, int],
    cache: PackedCache,
    plan: Sequence[Sequence[Run]],
) -> list[dict[str, Tally]]:
    """Run them into the cache; what each intervention did to them, by entry.

    Raises:
        InputError: The architecture does not keep keys and values in every layer.
    """
    tallies: list[dict[str, Tally]] = []
    for runs in (part for level in plan for part in _passes(level, TOKENS_AT_ONCE.get(model.device.type, 4096))):
        ids = torch.tensor([token for run in runs for token in run.ids], device=model.device)
        if any(run.prefix.spec for run in runs):
            together = Together(cache, runs, model.device)
            tallies += _changed(model, edits, specs, ids, together)
        else:
            together = Together(cache, runs, model.device, last=model.cfg.n_layers)
            with edits.idle(), suppress(AllKept):
                _forward(model, ids, together)
            tallies += [{} for _ in runs]
        check_kept(model, len(together.layers))
    return tallies


def _changed(
    model: HookedReasoner, edits: Edits, specs: Mapping[Spec, int], ids: Int[Tensor, " token"], together: Together
) -> list[dict[str, Tally]]:
    """Run them under their interventions; what each did to each of them."""
    numbers = [specs[run.prefix.spec] for run in together.runs]
    of_run = torch.tensor(numbers, device=model.device)
    prompts = torch.tensor([run.prefix.prompt for run in together.runs], device=model.device)
    owner = together.owner
    with edits.apart(len(ids)):
        edits.bind(of_run[owner], together.positions[:, None], prompts[owner])
        _forward(model, ids, together)
        edits.add_up(owner, len(numbers))
        return edits.counted(torch.arange(len(numbers), device=model.device), numbers)


def _forward(model: HookedReasoner, ids: Int[Tensor, " token"], together: Together) -> None:
    forward(model, ids[:, None], together.positions[:, None], together, keep=ids[:0])


def _passes(runs: Sequence[Run], tokens: int) -> Iterator[list[Run]]:
    """Runs of so many tokens together, with so many places that attention looks at, and one at least."""
    batch: list[Run] = []
    held, width = 0, 0
    for run in runs:
        length, width = len(run.ids), max(width, len(run.prefix.ids))
        # The last is the longest run.
        if batch and (held + length > tokens or (len(batch) + 1) * length * width > LOOKED_AT):
            yield batch
            batch, held, width = [], 0, len(run.prefix.ids)
        batch.append(run)
        held += length
    yield batch
