"""Interventions compiled to tensors: one hook per place, one row of numbers per condition.

A batch mixes rows of any conditions. At each place every row has a gain, and where a condition asks
for it a direction to remove and an offset to add; a row without an intervention there has gain 1,
which changes nothing, bit for bit. Interventions of one condition at one place act one after
another, in stages.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from backtracking.core.interventions import Add, At, Intervention, Replace, Scale, SiteIntervention
from backtracking.core.receipts import Receipt
from backtracking.model.hooks import NOWHERE, in_stages
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling import fused
from backtracking.model.sampling.compiled import serves
from backtracking.model.sampling.packed_cache import Packing
from backtracking.model.sampling.place_hooks import hooked

Spec = tuple[Intervention, ...]


@dataclass
class _Bound:
    """A stage as it acts on the rows of the forward passes to come."""

    mask: Bool[Tensor, "row pos"]
    gain: Float[Tensor, "row pos width"]
    direction: Tensor | None
    offset: Tensor | None
    head: Int[Tensor, " row"] | None
    count: Float[Tensor, " row"]
    """Positions of the mask."""
    growth: Float[Tensor, "row pos"]
    """By what a gain alone changes the norm of the site, as a share of it."""


@dataclass
class _Stage:
    """At one place, the k-th intervention of every condition that has one."""

    interventions: tuple[SiteIntervention | None, ...]
    """By condition."""
    gain: Float[Tensor, "condition width"]
    direction: Float[Tensor, "condition d"] | None
    offset: Float[Tensor, "condition d"] | None
    factor: Float[Tensor, " condition"]
    """The gain at the site itself."""
    head: Int[Tensor, " condition"] | None
    """Which head, at a place that holds heads side by side."""
    heads: int
    at: Int[Tensor, "condition given"]
    """Positions of the scope At, filled up with `NOWHERE`."""
    bound: _Bound | None = None
    touched: Float[Tensor, " row"] = field(default_factory=lambda: torch.zeros(0))
    change: Float[Tensor, " row"] = field(default_factory=lambda: torch.zeros(0))

    @property
    def by_position(self) -> bool:
        """Whether it acts on some positions of a phase and not on others."""
        return any(i is not None and isinstance(i.scope, At) for i in self.interventions)

    def bind(self, specs: Int[Tensor, " row"], positions: Int[Tensor, "row pos"], prompts: Int[Tensor, " row"]) -> None:
        """Choose each row's numbers, neutral where its scope does not reach."""
        scopes = [None if i is None else i.scope for i in self.interventions]
        in_prompt, in_decode = (
            torch.tensor([scope in ("all", phase) for scope in scopes], device=specs.device)[specs, None]
            for phase in ("prompt", "decode")
        )
        mask = torch.where(positions < prompts[:, None], in_prompt, in_decode)
        if self.by_position:
            mask |= (positions[:, :, None] == self.at[specs, None]).any(-1)
        mask &= positions != NOWHERE
        if not bool(mask.any()):
            self.bound = None
            return
        here = mask[..., None]
        self.bound = _Bound(
            mask,
            torch.where(here, self.gain[specs, None], 1.0),
            None if self.direction is None else self.direction[specs, None] * here,
            None if self.offset is None else self.offset[specs, None] * here,
            None if self.head is None else self.head[specs],
            mask.sum(1).float(),
            (self.factor[specs, None].abs() - 1) * mask,
        )

    def act(self, activation: Float[Tensor, "row pos d"]) -> Float[Tensor, "row pos d"]:
        """The activation changed, with what that did added to the receipts."""
        bound = self.bound
        if bound is None:
            return activation
        self.touched[: len(activation)] += bound.count
        gain_alone = bound.direction is None and bound.offset is None
        if gain_alone and serves(activation) and activation.shape[:2] == bound.gain.shape[:2]:
            return fused.scaled(
                activation, bound.gain, bound.growth, head=bound.head, heads=self.heads, change=self.change
            )
        changed = activation * bound.gain
        if bound.direction is not None:
            along = (changed.float() * bound.direction).sum(-1, keepdim=True)
            changed = changed - along * bound.direction
        if bound.offset is not None:
            changed = changed + bound.offset
        changed = changed.to(activation.dtype)
        if gain_alone:
            difference = self._norm(activation) * bound.growth
        else:
            difference = (self._norm(changed) - self._norm(activation)) * bound.mask
        self.change[: len(difference)] += difference.sum(1)
        return changed

    def _norm(self, activation: Tensor) -> Float[Tensor, "row pos"]:
        """Length of the site's part of the activation."""
        assert self.bound is not None
        if self.bound.head is None:
            return torch.linalg.vector_norm(activation, dim=-1, dtype=torch.float32)
        heads = torch.linalg.vector_norm(activation.unflatten(-1, (self.heads, -1)), dim=-1, dtype=torch.float32)
        which = self.bound.head[:, None, None].expand(-1, activation.shape[1], 1)
        return heads.gather(-1, which)[..., 0]


class Edits:
    """The interventions of a unit of work, in force inside `with edits.installed():`."""

    def __init__(self, model: HookedReasoner, specs: Sequence[Spec]) -> None:
        """Compile the interventions of every condition of the unit.

        Raises:
            UnknownSiteError: The model has no such site.
            InputError: A place the plain model does not have, or a vector of another width.
        """
        self._model = model
        table: dict[str, dict[int, dict[int, SiteIntervention]]] = {}
        for number, spec in enumerate(specs):
            for depth, place, intervention in in_stages(model.bridge, spec):
                table.setdefault(place, {}).setdefault(depth, {})[number] = intervention
        self._stages = {
            place: [_compile(model, found, len(specs)) for _, found in sorted(stages.items())]
            for place, stages in table.items()
        }
        self._places = {place: model.plain.place(model.bridge, place) for place in self._stages}

    @property
    def all(self) -> list[_Stage]:
        """Every stage of every place."""
        return [stage for stages in self._stages.values() for stage in stages]

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
            stage.touched = torch.zeros(rows, device=self._model.device)
            stage.change = torch.zeros(rows, device=self._model.device)

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

    def pack(self, packing: Packing) -> None:
        """Move the receipts of the rows that stay to the front."""
        for stage in self.all:
            stage.touched, stage.change = packing(stage.touched), packing(stage.change)

    def restart(self, rows: Int[Tensor, " some"]) -> None:
        """Forget the receipts of some rows, whose seats others take."""
        for stage in self.all:
            stage.touched[rows] = 0
            stage.change[rows] = 0

    def counted(self, rows: Int[Tensor, " some"], specs: Sequence[int]) -> list[dict[str, "Tally"]]:
        """What each intervention did to each of the rows since it was seated, by its text form."""
        found: list[dict[str, Tally]] = [{} for _ in specs]
        for stage in self.all:
            touched, change = stage.touched[rows].tolist(), stage.change[rows].tolist()
            for index, spec in enumerate(specs):
                if (intervention := stage.interventions[spec]) is not None:
                    found[index][str(intervention)] = Tally(round(touched[index]), change[index])
        return found

    def _act(self, place: str, activation: Tensor) -> Tensor:
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


def _compile(model: HookedReasoner, found: dict[int, SiteIntervention], specs: int) -> _Stage:
    """The numbers of one stage; `found` holds its interventions by condition."""
    device, cfg = model.device, model.cfg
    heads = int(cfg.n_heads) if any(i.site.head is not None for i in found.values()) else 0
    part = int(cfg.d_head) if heads else int(cfg.d_model)
    width = max(heads, 1) * part
    gain = torch.ones(specs, width if heads else 1, dtype=torch.float64)
    direction, offset = torch.zeros(specs, width).double(), torch.zeros(specs, width).double()
    head, factor = torch.zeros(specs, dtype=torch.long), torch.ones(specs, dtype=torch.float64)
    given = [list(i.scope.positions) if isinstance(i.scope, At) else [] for i in found.values()]
    at = torch.full((specs, max(map(len, given))), NOWHERE - 1)
    for (spec, intervention), positions in zip(found.items(), given, strict=True):
        which = intervention.site.head or 0
        mine = slice(which * part, (which + 1) * part) if heads else slice(None)
        head[spec] = which
        factor[spec] = getattr(intervention, "factor", 1.0)
        at[spec, : len(positions)] = torch.tensor(positions, dtype=torch.long)
        if isinstance(intervention, Scale):
            gain[spec, mine] = intervention.factor
            continue
        vector = torch.tensor(intervention.vector.resolve(part))
        if isinstance(intervention, Add):
            offset[spec, mine] = intervention.scale * vector
        elif isinstance(intervention, Replace):
            gain[spec, mine] = 0.0
            offset[spec, mine] = vector
        else:
            direction[spec, mine] = vector / vector.norm()
    every: list[SiteIntervention | None] = [found.get(spec) for spec in range(specs)]
    return _Stage(
        tuple(every),
        gain.float().to(device),
        direction.float().to(device) if bool(direction.any()) else None,
        offset.float().to(device) if bool(offset.any()) else None,
        factor.float().to(device),
        head.to(device) if heads else None,
        heads,
        at.to(device),
    )
