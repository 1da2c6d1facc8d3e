"""What a selection from an ablation scan says: which sites, of how many, and which were left out for harm."""

from dataclasses import dataclass
from typing import Literal, get_args

from backtracking.core.sites import Site

Quantity = Literal["log_prob", "trigger_log_prob", "logit_difference"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
Harmed = Literal["controls", "throughout"]


@dataclass(frozen=True)
class LeftOut:
    """A site that writes the trigger by every other criterion, and disturbs ordinary text by too much."""

    site: Site
    where: Harmed
    """Switched off at the scan's window of the controls, or at every sampled token."""
    nats: float
    """KL divergence per token: the mean at the controls, or the upper end of its 95 % interval throughout."""
    limit: float
    """The most that was allowed."""

    def __str__(self) -> str:
        """Return `mlp.4 (up to 0.13 nats per token throughout)` or `mlp.0 (6.5 nats at the controls)`."""
        if self.where == "controls":
            return f"{self.site} ({self.nats:.2g} nats at the controls)"
        return f"{self.site} (up to {self.nats:.2g} nats per token throughout)"


@dataclass(frozen=True)
class Selected:
    """Sites of one group that write the trigger, the strongest first."""

    group: str
    """`attn`, `mlp`, `head`, or `all` where components were not told apart."""
    sites: tuple[Site, ...]
    """At most k."""
    significant: int
    """How many sites of the group lower the quantity significantly, those beyond k included."""
    tested: int
    """Sites of the group."""
    left_out: tuple[LeftOut, ...] = ()
    """Sites that would be among the significant ones, were it not for the harm they do; the strongest first."""


@dataclass(frozen=True)
class Selection:
    """The layer selection of a scan, and how much it had to choose from."""

    quantity: Quantity
    level: float
    against_controls: bool
    groups: tuple[Selected, ...]
    smallest_q: float
    """The smallest q a lone finding could reach with so many problems; above the level, too few were sampled."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """All selected sites, group by group."""
        return tuple(site for group in self.groups for site in group.sites)

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """All sites left out for harm, group by group."""
        return tuple(each for group in self.groups for each in group.left_out)

    def __str__(self) -> str:
        """Return one line per group, and one for what was left out."""
        lines = [
            f"{g.group}: {', '.join(map(str, g.sites)) or 'none'} ({g.significant} of {g.tested} sites lower "
            f"{self.quantity} with q <= {self.level:g})"
            for g in self.groups
        ]
        if self.left_out:
            lines.append(f"left out for harm to ordinary text: {', '.join(map(str, self.left_out))}")
        if self.smallest_q > self.level:
            lines.append(f"a lone finding could reach q = {self.smallest_q:.2g} at best: sample more problems")
        return "\n".join(lines)
