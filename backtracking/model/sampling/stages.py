"""What interventions do at one place of the model, as one row of numbers per condition.

A row without an intervention there has gain 1, which changes nothing, bit for bit.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from backtracking.core.interventions import Add, At, Replace, Scale, SiteIntervention
from backtracking.model.hooks import NOWHERE
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling import fused
from backtracking.model.sampling.compiled import serves


@dataclass
class _Bound:
    """A stage as it acts on the rows of the forward passes to come."""

    mask: Bool[Tensor, "row pos"]
    gain: Float[Tensor, "row 1 width"]
    direction: Float[Tensor, "row 1 d"] | None
    offset: Float[Tensor, "row 1 d"] | None
    head: Int[Tensor, " row"] | None
    count: Float[Tensor, " row"]
    """Positions of the mask."""
    growth: Float[Tensor, "row pos"]
    """By what a gain alone changes the norm of the site, as a share of it."""

    @property
    def one(self) -> bool:
        """Whether there is one position a row: then all numbers are neutral where the mask does not reach.

        With several, only the mask is as long as the rows, or the numbers of all sites would fill the memory.
        """
        return self.mask.shape[1] == 1

    def gains(self) -> Float[Tensor, "row pos width"]:
        """The gain at every position, 1 where the mask does not reach."""
        return self.gain if self.one else torch.where(self.mask[..., None], self.gain, 1.0)

    def first(self, rows: int) -> "_Bound":
        """The same for the first rows."""
        if rows >= self.mask.shape[0]:
            return self
        parts = (None if part is None else part[:rows] for part in vars(self).values())
        return _Bound(*parts)  # pyright: ignore[reportArgumentType]


@dataclass
class Stage:
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

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Text form of each intervention, empty where there is none."""
        return tuple("" if each is None else str(each) for each in self.interventions)

    @cached_property
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
        gain, direction, offset = (
            None if each is None else each[specs, None] for each in (self.gain, self.direction, self.offset)
        )
        assert gain is not None
        if mask.shape[1] == 1:
            here = mask[..., None]
            gain = torch.where(here, gain, 1.0)
            direction, offset = (None if each is None else each * here for each in (direction, offset))
        self.bound = _Bound(
            mask,
            gain,
            direction,
            offset,
            None if self.head is None else self.head[specs],
            mask.sum(1).float(),
            (self.factor[specs, None].abs() - 1) * mask,
        )

    def act(self, activation: Float[Tensor, "row pos d"]) -> Float[Tensor, "row pos d"]:
        """The activation changed, with what that did added to the receipts."""
        if self.bound is None:
            return activation
        rows = activation.shape[0]
        bound = self.bound.first(rows)
        self.touched[:rows] += bound.count
        gain_alone = bound.direction is None and bound.offset is None
        gain = bound.gains()
        if gain_alone and serves(activation) and activation.shape[:2] == gain.shape[:2]:
            return fused.scaled(activation, gain, bound.growth, head=bound.head, heads=self.heads, change=self.change)
        changed = activation * gain
        if bound.direction is not None:
            along = (_wide(changed) * bound.direction).sum(-1, keepdim=True)
            changed = changed - along * bound.direction
        if bound.offset is not None:
            changed = changed + bound.offset
        changed = changed.to(activation.dtype)
        if not (gain_alone or bound.one):
            changed = torch.where(bound.mask[..., None], changed, activation)
        if gain_alone:
            difference = self._norm(activation, bound.head) * bound.growth
        else:
            difference = (self._norm(changed, bound.head) - self._norm(activation, bound.head)) * bound.mask
        self.change[: len(difference)] += difference.sum(1)
        return changed

    def _norm(self, activation: Tensor, head: Int[Tensor, " row"] | None) -> Float[Tensor, "row pos"]:
        """Length of the site's part of the activation."""
        wide = _wide_kind(activation.dtype)
        if head is None:
            return torch.linalg.vector_norm(activation, dim=-1, dtype=wide)
        heads = torch.linalg.vector_norm(activation.unflatten(-1, (self.heads, -1)), dim=-1, dtype=wide)
        which = head[:, None, None].expand(-1, activation.shape[1], 1)
        return heads.gather(-1, which)[..., 0]


def compiled_stage(model: HookedReasoner, found: dict[int, SiteIntervention], specs: int) -> Stage:
    """The numbers of one stage; `found` holds its interventions by condition."""
    device, wide, cfg = model.device, _wide_kind(model.dtype), model.cfg
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
    return Stage(
        tuple(every),
        gain.to(device, wide),
        direction.to(device, wide) if bool(direction.any()) else None,
        offset.to(device, wide) if bool(offset.any()) else None,
        factor.to(device, wide),
        head.to(device) if heads else None,
        heads,
        at.to(device),
    )


def _wide_kind(dtype: torch.dtype) -> torch.dtype:
    """What numbers are worked with where the model has numbers of that kind: float32, or its own if they are wider."""
    return torch.promote_types(dtype, torch.float32)


def _wide(activation: Tensor) -> Tensor:
    return activation.to(_wide_kind(activation.dtype))
