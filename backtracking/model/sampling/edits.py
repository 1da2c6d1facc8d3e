"""Interventions compiled to tensors: one hook per place, one row of numbers per condition.

A batch mixes rows of any conditions. At each place every row has a gain, and where a condition asks
for it a direction to remove and an offset to add; a row without an intervention there has gain 1,
which changes nothing, bit for bit. Interventions of one condition at one place act one after
another, in stages.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from backtracking.core.errors import InputError
from backtracking.core.interventions import Intervention, SiteIntervention
from backtracking.core.receipts import Receipt
from backtracking.model.hooks import in_stages
from backtracking.model.plain import Place
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling.packed_cache import Packing
from backtracking.model.sampling.place_hooks import hooked
from backtracking.model.sampling.refusals import SLOWER
from backtracking.model.sampling.stages import Stage, compiled_stage

Spec = tuple[Intervention, ...]


class Edits:
    """The interventions of a unit of work, in force inside `with edits.installed():`."""

    def __init__(self, model: HookedReasoner, specs: Sequence[Spec]) -> None:
        """Compile the interventions of every condition of the unit.

        Raises:
            UnknownSiteError: The model has no such site.
            InputError: A place the plain model does not have, or a vector of another width.
        """
        self._device, self._conditions = model.device, len(specs)
        table: dict[str, dict[int, dict[int, SiteIntervention]]] = {}
        for number, spec in enumerate(specs):
            for depth, place, intervention in in_stages(model.bridge, spec):
                table.setdefault(place, {}).setdefault(depth, {})[number] = intervention
        self._stages = {
            place: [compiled_stage(model, found, len(specs)) for _, found in sorted(stages.items())]
            for place, stages in table.items()
        }
        self._places = {place: model.plain.place(model.bridge, place) for place in self._stages}

    @property
    def all(self) -> list[Stage]:
        """Every stage of every place."""
        return [stage for stages in self._stages.values() for stage in stages]

    def places(self) -> list[list[Place]]:
        """Of every condition, the places at which it acts."""
        acting: dict[int, list[Place]] = {number: [] for number in range(self._conditions)}
        for name, stages in self._stages.items():
            for number in {number for stage in stages for number, text in enumerate(stage.names) if text}:
                acting[number].append(self._places[name])
        return list(acting.values())

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Hold the hooks on the plain model; they are gone afterwards, also after an error."""
        with hooked(self._places, self._act):
            yield

    def bind(self, specs: Int[Tensor, " row"], positions: Int[Tensor, "row pos"], prompts: Int[Tensor, " row"]) -> None:
        """Say which condition each row is under and at which positions the next pass is.

        Args:
            specs: Condition of each row, as an index of the list given at the start.
            positions: Of each column, `NOWHERE` for padding.
            prompts: Tokens of each row's prompt; what comes after it is decoded.
        """
        for stage in self.all:
            stage.bind(specs, positions, prompts)

    def move(self, specs: Int[Tensor, " row"], positions: Int[Tensor, "row pos"], prompts: Int[Tensor, " row"]) -> None:
        """The rows are the same, all are decoded, and only their positions have changed."""
        for stage in self.all:
            if stage.by_position:
                stage.bind(specs, positions, prompts)

    def count_from_zero(self, rows: int) -> None:
        """Start the receipts of that many rows."""
        for stage in self.all:
            stage.touched = torch.zeros(rows, device=self._device)
            stage.change = torch.zeros(rows, device=self._device)

    @contextmanager
    def apart(self, rows: int) -> Iterator[None]:
        """Count for that many other rows inside the block, then go on with the rows of before."""
        before = [(stage.bound, stage.touched, stage.change) for stage in self.all]
        self.count_from_zero(rows)
        try:
            yield
        finally:
            for stage, (bound, touched, change) in zip(self.all, before, strict=True):
                stage.bound, stage.touched, stage.change = bound, touched, change

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Change nothing inside the block, then go on with the rows of before."""
        before = [stage.bound for stage in self.all]
        for stage in self.all:
            stage.bound = None
        try:
            yield
        finally:
            for stage, bound in zip(self.all, before, strict=True):
                stage.bound = bound

    def pack(self, packing: Packing) -> None:
        """Move the receipts of the rows that stay to the front."""
        for stage in self.all:
            stage.touched, stage.change = packing(stage.touched), packing(stage.change)

    def add_up(self, owner: Int[Tensor, " row"], owners: int) -> None:
        """From here on the receipts are those of so many owners, each the sum over its rows."""
        for stage in self.all:
            touched, change = torch.zeros(2, owners, device=owner.device)
            stage.touched, stage.change = (
                touched.index_add_(0, owner, stage.touched),
                change.index_add_(0, owner, stage.change),
            )

    def restart(self, rows: Int[Tensor, " some"]) -> None:
        """Forget the receipts of some rows, whose seats others take."""
        for stage in self.all:
            stage.touched[rows] = 0
            stage.change[rows] = 0

    def counted(self, rows: Int[Tensor, " some"], specs: Sequence[int]) -> list[dict[str, "Tally"]]:
        """What each intervention did to each of the rows since it was seated, by its text form."""
        found: list[dict[str, Tally]] = [{} for _ in specs]
        under: dict[int, list[int]] = {}
        for index, spec in enumerate(specs):
            under.setdefault(spec, []).append(index)
        for stage in self.all:
            touched, change = stage.touched[rows].tolist(), stage.change[rows].tolist()
            for spec, indices in under.items():
                if name := stage.names[spec]:
                    for index in indices:
                        found[index][name] = Tally(round(touched[index]), change[index])
        return found

    def _act(self, place: str, activation: Tensor) -> Tensor:
        if activation.ndim != 3:
            raise InputError(
                f"what passes {place} of this model has the shape {tuple(activation.shape)}, not row, position and "
                f"width, so the packed engine cannot tell whose it is; {SLOWER}"
            )
        for stage in self._stages[place]:
            activation = stage.act(activation)
        return activation


@dataclass(frozen=True)
class Tally:
    """Positions an intervention touched in a row, and the sum of the changes of the norm there."""

    positions: int
    change: float

    def __add__(self, other: "Tally") -> "Tally":
        """Both together."""
        return Tally(self.positions + other.positions, self.change + other.change)

    def receipt(self, intervention: str) -> Receipt:
        """The receipt; the mean change of nothing is not a number."""
        mean = self.change / self.positions if self.positions else float("nan")
        return Receipt(intervention, self.positions, mean)
