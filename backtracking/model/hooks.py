"""Interventions as hooks on the bridge: one context manager, and a receipt of what it touched.

A batch may mix rows under different interventions, so each row of a batch carries its own tuple of
them. Hooks return new tensors, exist only inside the context, and are gone when it ends, also by an
exception. What the hooks cannot know (which position of the full sequence each column of a forward
pass is, and where the prompt ends) is told to them by `Intervening.locate`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from backtracking.core.errors import InputError
from backtracking.core.interventions import (
    Add,
    At,
    Ban,
    Intervention,
    Project,
    Replace,
    Scale,
    Scope,
    SiteIntervention,
    Window,
)
from backtracking.core.receipts import Receipt
from backtracking.core.sites import Site
from backtracking.model.hook_names import hook_point, width_of

NOWHERE = -1
"""Position of a padding column, and of a row that has finished: no intervention touches it."""


@dataclass(frozen=True)
class _Edit:
    """One intervention, the rows of the batch it applies to, and what it touched so far."""

    intervention: SiteIntervention
    rows: Bool[Tensor, " row"]
    touched: Int[Tensor, " row"]
    """Positions the activation passed through it at."""
    change: Float[Tensor, " row"]
    """Sum over those positions of the norm after minus the norm before."""

    def note(self, before: Tensor, after: Tensor, mask: Tensor, active: Tensor) -> None:
        """Count the positions of the mask and add up the change of the site's norm there."""
        parts = [site_of(activation, self.intervention.site) for activation in (before, after)]
        norms = [part.float().flatten(2).norm(dim=-1) for part in parts]
        self.touched.index_add_(0, active, mask.sum(1))
        self.change.index_add_(0, active, ((norms[1] - norms[0]) * mask).sum(1))


@dataclass
class Intervening:
    """The interventions of a batch while they are in force, row by row."""

    bridge: TransformerBridge
    rows: Sequence[Sequence[Intervention]]
    prompt_lengths: Int[Tensor, " row"] | None = None
    onsets: Int[Tensor, " row"] | None = None
    _positions: Int[Tensor, "active pos"] | None = None
    _active: Int[Tensor, " active"] | None = None
    _edits: dict[str, list[_Edit]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Collect the edits of each hook point; refuse sites the model does not have."""
        affected: dict[tuple[int, str, SiteIntervention], list[int]] = {}
        for row, interventions in enumerate(self.rows):
            for depth, place, intervention in in_stages(self.bridge, interventions):
                affected.setdefault((depth, place, intervention), []).append(row)
        device = self.bridge.cfg.device
        for (_, place, intervention), rows in sorted(affected.items(), key=lambda item: item[0][0]):
            self._require_context(intervention.scope)
            chosen = torch.zeros(len(self.rows), dtype=torch.bool, device=device)
            chosen[rows] = True
            edit = _Edit(intervention, chosen, chosen.long() * 0, chosen.float() * 0)
            self._edits.setdefault(place, []).append(edit)

    def locate(self, positions: Int[Tensor, "active pos"], active: Int[Tensor, " active"] | None = None) -> None:
        """Say which position of its full sequence each column of the next forward pass is.

        Without it the columns of a forward pass are positions 0, 1, 2, ... of every row.

        Args:
            positions: Position of each column, `NOWHERE` for padding and finished rows.
            active: Which rows of the batch the forward pass holds; all of them if not given.
        """
        self._positions, self._active = positions, active

    def __call__(self, activation: Float[Tensor, "row pos *rest"], hook: HookPoint) -> Float[Tensor, "row pos *rest"]:
        """Return the activation with this hook point's edits applied, each to its own rows."""
        positions = self._positions
        if positions is None:
            columns = torch.arange(activation.shape[1], device=activation.device)
            positions = columns.expand(activation.shape[0], -1)
        active = self._active
        if active is None:
            active = torch.arange(len(self.rows), device=activation.device)
        if (len(active), positions.shape[1]) != tuple(activation.shape[:2]):
            raise InputError(
                f"{hook.name} sees rows x positions {tuple(activation.shape[:2])}, but was told of "
                f"{(len(active), positions.shape[1])}; give one tuple of interventions per row"
            )
        for edit in self._edits[str(hook.name)]:
            covered = self._covers(edit.intervention.scope, positions, active)
            mask = covered & edit.rows[active, None]
            changed = applied(activation, edit.intervention, mask)
            edit.note(activation, changed, mask, active)
            activation = changed
        return activation

    def receipts(self) -> tuple[tuple[Receipt, ...], ...]:
        """What was touched so far: for each row one receipt per intervention in force on it."""
        found: list[list[Receipt]] = [[] for _ in self.rows]
        for edit in [edit for edits in self._edits.values() for edit in edits]:
            for row in edit.rows.nonzero().flatten().tolist():
                positions = int(edit.touched[row])
                change = float(edit.change[row]) / positions if positions else float("nan")
                found[row].append(Receipt(str(edit.intervention), positions, change))
        return tuple(map(tuple, found))

    def _covers(
        self, scope: Scope, positions: Int[Tensor, "active pos"], active: Int[Tensor, " active"]
    ) -> Bool[Tensor, "active pos"]:
        real = positions != NOWHERE
        if scope == "all":
            return real
        if isinstance(scope, At):
            wanted = torch.tensor(scope.positions, device=positions.device)
            return real & torch.isin(positions, wanted)
        if isinstance(scope, Window):
            assert self.onsets is not None
            distance = positions - self.onsets[active, None]
            return real & (distance >= -scope.before) & (distance <= scope.after)
        assert self.prompt_lengths is not None
        in_prompt = positions < self.prompt_lengths[active, None]
        return real & (in_prompt if scope == "prompt" else ~in_prompt)

    def _require_context(self, scope: Scope) -> None:
        if scope in ("prompt", "decode") and self.prompt_lengths is None:
            raise InputError(f"the scope {scope!r} needs prompt_lengths: where each row's prompt ends")
        if isinstance(scope, Window) and self.onsets is None:
            raise InputError(
                f"the scope {scope} needs onsets: the position of each row's onset. It is not "
                "known while sampling; use it on completions that exist"
            )


def in_stages(
    bridge: TransformerBridge, interventions: Sequence[Intervention]
) -> Iterator[tuple[int, str, SiteIntervention]]:
    """Each intervention on a site with its hook point and how many before it act there.

    A row's interventions act in the order in which they are given. Bans act where tokens are
    sampled and are left out.

    Raises:
        UnknownSiteError: The model has no such site.
        InputError: A vector is not as wide as its site.
    """
    depth: dict[str, int] = {}
    for intervention in interventions:
        if isinstance(intervention, Ban):
            continue
        place = hook_point(bridge, intervention.site)
        if not isinstance(intervention, Scale):
            intervention.vector.resolve(width_of(bridge, intervention.site))
        yield depth.setdefault(place, 0), place, intervention
        depth[place] += 1


def site_of(activation: Tensor, site: Site) -> Tensor:
    """The part of a hook point's activation that is the site: one head of it, or all."""
    return activation if site.head is None else activation[:, :, site.head]


def applied(activation: Tensor, intervention: SiteIntervention, mask: Bool[Tensor, "row pos"]) -> Tensor:
    """A new activation, changed where the mask is true and equal elsewhere."""
    here = mask.reshape(*mask.shape, *[1] * (activation.ndim - 2))
    if intervention.site.head is not None:
        heads = torch.arange(activation.shape[2], device=activation.device)
        here = here & (heads == intervention.site.head)[:, None]
    return torch.where(here, _changed(activation, intervention), activation)


def _changed(activation: Tensor, intervention: SiteIntervention) -> Tensor:
    if isinstance(intervention, Scale):
        return activation * intervention.factor
    width = activation.shape[-1]
    vector = torch.tensor(intervention.vector.resolve(width), device=activation.device, dtype=torch.float32)
    if isinstance(intervention, Add):
        return (activation + intervention.scale * vector).to(activation.dtype)
    if isinstance(intervention, Replace):
        return vector.to(activation.dtype).expand_as(activation)
    assert isinstance(intervention, Project)
    unit = vector / vector.norm()
    along = (activation * unit).sum(dim=-1, keepdim=True)
    return (activation - along * unit).to(activation.dtype)


@contextmanager
def intervening(
    bridge: TransformerBridge,
    rows: Sequence[Sequence[Intervention]],
    *,
    prompt_lengths: Int[Tensor, " row"] | None = None,
    onsets: Int[Tensor, " row"] | None = None,
) -> Iterator[Intervening]:
    """Hold interventions on the bridge, one tuple of them per row of the batches that will run.

    Args:
        bridge: The model.
        rows: For each row its interventions; those on logits (`Ban`) are the sampler's to apply.
        prompt_lengths: Tokens of each row's prompt, needed by the scopes `prompt` and `decode`.
        onsets: Position of each row's onset in the full sequence, needed by `Window`.

    Raises:
        UnknownSiteError: An intervention names a site the model does not have.
        InputError: A scope needs what was not given.
    """
    state = Intervening(bridge, rows, prompt_lengths, onsets)
    with bridge.hooks(fwd_hooks=[(name, state) for name in state._edits]):
        yield state
