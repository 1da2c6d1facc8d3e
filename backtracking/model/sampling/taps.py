"""Reading activations while the packed engine decodes: what passes a site is kept until its row has finished.

A prompt is run once for the rows that share it, so its activations are kept once too. The last sampled token of a
row is never fed to the model: a row of n sampled tokens has activations of its prompt and of n - 1 of them.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from backtracking.core.completions import Completion
from backtracking.core.sites import Site
from backtracking.model.hook_names import hook_point, width_of
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling.packed_cache import Packing
from backtracking.model.sampling.place_hooks import hooked
from backtracking.model.sampling.prefixes import Prefix

Wanted = Callable[[int, Completion], np.ndarray]
"""The positions to keep of a row (its number in the unit) that has finished: existing ones, in the full sequence."""
Take = Callable[[int, Completion, dict[Site, Tensor]], None]
"""Receives what was kept of a row, `position width` per site, on the CPU."""


class Taps:
    """The sites that are read during a unit of work; without sites nothing is."""

    def __init__(
        self, model: HookedReasoner, sites: Sequence[Site], *, prompts: bool, wanted: Wanted, take: Take
    ) -> None:
        """Find the sites in the plain model.

        Args:
            model: The reasoner.
            sites: What to read, after whatever interventions do to it.
            prompts: Whether positions in the prompt can be wanted.
            wanted: Chooses the positions of a row that has finished.
            take: Receives them.

        Raises:
            UnknownSiteError: The model has no such site.
            InputError: The packed engine cannot reach it.
        """
        self.model, self.sites = model, tuple(sites)
        self._with_prompts, self._wanted, self._take = prompts, wanted, take
        self._at: dict[str, list[Site]] = {}
        for site in self.sites:
            self._at.setdefault(hook_point(model.bridge, site), []).append(site)
        self._places = {name: model.plain.place(model.bridge, name) for name in self._at}
        self._passing: dict[Site, Float[Tensor, "row pos width"]] = {}
        self._held: dict[Site, Float[Tensor, "seat step width"]] = {}
        self._prompts: dict[Prefix, dict[Site, Float[Tensor, "pos width"]]] = {}
        self._users: Counter[Prefix] = Counter()

    def begin(self, of_rows: Sequence[Prefix], seats: int, max_new_tokens: int) -> None:
        """Make room for a unit of work."""
        self._users, self._prompts = Counter(of_rows), {}
        for site in self.sites:
            shape = (seats, max_new_tokens - 1, width_of(self.model.bridge, site))
            self._held[site] = torch.empty(shape, dtype=self.model.dtype, device=self.model.device)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Hold the hooks on the plain model: after those of interventions, whose outcome they see."""
        try:
            with hooked(self._places, self._see):
                yield
        finally:
            self._passing, self._held, self._prompts = {}, {}, {}

    def keep_prompts(self, prefixes: Sequence[Prefix]) -> None:
        """Keep what the last forward pass, over those right-padded prompts, has shown."""
        if not self._with_prompts or not self.sites:
            return
        for index, prefix in enumerate(prefixes):
            self._prompts[prefix] = {site: self._passing[site][index, : len(prefix.ids)].cpu() for site in self.sites}

    def keep_step(self, fed: Int[Tensor, " seat"]) -> None:
        """Keep what the last decoding step has shown; `fed` is which sampled token each row fed."""
        if not self.sites:
            return
        seats = torch.arange(len(fed), device=fed.device)
        for site, held in self._held.items():
            # An empty seat feeds nothing of worth: whoever takes it writes over what is put there.
            held[seats, fed.clamp(0, held.shape[1] - 1)] = self._passing[site][:, 0]

    def pack(self, packing: Packing) -> None:
        """Move the rows that stay to the front."""
        for site in self.sites:
            self._held[site] = packing(self._held[site])

    def finish(self, number: int, seat: int, prefix: Prefix, completion: Completion) -> None:
        """Hand over what is wanted of a row that has finished."""
        if not self.sites:
            return
        positions = torch.from_numpy(self._wanted(number, completion)).long()
        prompt = len(prefix.ids)
        early, late = positions[positions < prompt], positions[positions >= prompt] - prompt
        found = {}
        for site in self.sites:
            # Positions need not be in order: each part is put where it was asked for.
            values = torch.empty(len(positions), self._held[site].shape[-1], dtype=self.model.dtype)
            if len(early):
                values[positions < prompt] = self._prompts[prefix][site][early]
            values[positions >= prompt] = self._held[site][seat, late.to(self.model.device)].cpu()
            found[site] = values
        self._users[prefix] -= 1
        if not self._users[prefix]:
            self._prompts.pop(prefix, None)
        self._take(number, completion, found)

    def _see(self, place: str, activation: Tensor) -> Tensor:
        for site in self._at[place]:
            width = width_of(self.model.bridge, site)
            start = 0 if site.head is None else site.head * width
            self._passing[site] = activation[..., start : start + width]
        return activation


def bytes_per_row(model: HookedReasoner, sites: Sequence[Site], tokens: int) -> int:
    """Memory that keeping those sites takes for a row of so many tokens."""
    return tokens * sum(width_of(model.bridge, site) for site in sites) * model.dtype.itemsize


def no_taps(model: HookedReasoner) -> Taps:
    """Taps that read nothing."""
    return Taps(model, (), prompts=False, wanted=lambda *_: np.empty(0, int), take=lambda *_: None)
