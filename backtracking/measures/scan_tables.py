"""What an ablation scan found: changes per point and site, their summary, and which sites to take on."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float

from backtracking.core.clustered_means import ClusteredMeans, clustered_means, smallest_adjusted
from backtracking.core.errors import InputError
from backtracking.core.multiplicity import benjamini_hochberg
from backtracking.core.sites import Site
from backtracking.measures.decision_points import DecisionPoints
from backtracking.measures.event_pairs import minus_own_controls
from backtracking.measures.scan_selection import QUANTITIES, Harmed, LeftOut, Quantity, Selected, Selection
from backtracking.measures.text_harm import TextHarm

SEED = 0


@dataclass(frozen=True)
class AblationScan:
    """Changes (ablated - baseline) at every point under the ablation of every site; points are events, then controls.

    Negative: without the site the trigger is less likely, so the site writes it.
    """

    points: DecisionPoints
    sites: tuple[Site, ...]
    factor: float
    window: int
    """Positions at which sites were scaled, the prediction position being the last."""
    kl: Float[np.ndarray, "point site"]
    """KL divergence of the ablated next-token distribution from the baseline's, in nats: how much a site matters
    there to anything at all."""
    trigger_ids: tuple[int, ...]
    log_prob: Float[np.ndarray, "point site"]
    """Of the event's onset token (for a control: of its own event's), in nats."""
    trigger_log_prob: Float[np.ndarray, "point site"]
    """Of all trigger tokens together, in nats."""
    logit_difference: Float[np.ndarray, "point site"]
    """Of logsumexp over the trigger tokens' logits minus the best other token's logit."""
    baseline_log_prob: Float[np.ndarray, " point"]
    baseline_trigger_log_prob: Float[np.ndarray, " point"]
    baseline_logit_difference: Float[np.ndarray, " point"]

    @property
    def onsets_outside(self) -> int:
        """Events whose onset token is not among the trigger ids; above 0, lexicon and ids do not belong together."""
        return sum(event.token_id not in set(self.trigger_ids) for event in self.points.events)

    def to_pandas(self) -> pd.DataFrame:
        """One row per site and quantity.

        `change` (events), `control_change` and `difference` (event - own controls) are means with 95 % intervals
        clustered by problem; `baseline` is the events' mean without ablation. `p` and `q` are of the change,
        `difference_p` and `difference_q` of the difference, adjusted over all rows of the table (Benjamini
        and Hochberg). `control_kl` is the mean KL divergence at controls. What is missing for want of controls
        is NaN.
        """
        return self._table.copy()

    def points_to_pandas(self) -> pd.DataFrame:
        """One row per point and site: `DecisionPoints.to_pandas`, `site`, and the three changes."""
        frame = self.points.to_pandas()
        frame = frame.loc[frame.index.repeat(len(self.sites))].reset_index(drop=True)
        values = {name: getattr(self, name).ravel() for name in QUANTITIES}
        return frame.assign(site=[str(site) for site in self.sites] * len(self.points.all), **values)

    def select(
        self,
        k: int,
        *,
        level: float = 0.05,
        quantity: Quantity = "log_prob",
        per_component: bool = True,
        against_controls: bool = False,
        max_control_kl: float | None = None,
        min_change: float = 0.0,
        harm: TextHarm | None = None,
        max_text_kl: float | None = None,
    ) -> Selection:
        """The sites whose ablation lowers the quantity most, among those that do so significantly.

        Args:
            k: How many, of each component (attention and MLP layers, heads) or overall.
            level: Of the q-value.
            quantity: What they must lower.
            per_component: Whether the best of each component are taken.
            against_controls: Whether they must lower it at events and also more than at their controls; both count, so
                that a rise at controls is no evidence, and sites are ordered by the smaller of the two.
            max_control_kl: Leave out sites that disturb ordinary text by more than that, in nats at controls: a
                layer without which the model writes nonsense does not write the trigger.
            min_change: Leave out sites whose ablation lowers the quantity at events by less, in nats: with many
                events the smallest effect is significant.
            harm: What switching sites off throughout does to ordinary text, each a condition of the site's name.
            max_text_kl: Leave out sites that disturb ordinary text by more than that throughout, in nats per token,
                by the upper end of the 95 % interval: few tokens carry most of a harm, so that a mean of few texts can
                miss it. A site without an interval stays in. It needs the harm of every site that is left by then.

        Raises:
            InputError: k is below 1, an unknown quantity, a level outside 0 to 1, no controls to compare with, or a
                limit for a harm that was not measured.
        """
        if k < 1 or quantity not in QUANTITIES or not 0 < level < 1:
            raise InputError(
                f"cannot select {k} sites by {quantity!r} at level {level:g}; give at least 1, one of "
                f"{', '.join(QUANTITIES)}, and a level between 0 and 1"
            )
        if (against_controls or max_control_kl is not None) and not self.points.controls:
            raise InputError("the scan has no controls to compare with; make decision points with controls")
        if max_text_kl is not None and harm is None:
            raise InputError(f"max_text_kl is {max_text_kl:g}, but no harm was measured; give harm=text_harm(...)")
        table = self._table[self._table["quantity"] == quantity].reset_index(drop=True)  # row = site
        tests = {"change": "q", "difference": "difference_q"} if against_controls else {"change": "q"}
        lowered = table[list(tests)].max(axis=1).rename("lowered")
        sure = (table[list(tests.values())].max(axis=1) <= level) & (lowered < 0)
        table = table.assign(lowered=lowered, sure=sure)
        groups: dict[str, list[int]] = {}
        for row, site in enumerate(self.sites):
            groups.setdefault(_group(site) if per_component else "all", []).append(row)
        chosen = []
        for name, rows in groups.items():
            part = table.loc[rows]
            found = part[part["sure"]].sort_values("lowered", kind="stable")
            found = found[found["change"] <= -min_change]
            left: list[LeftOut] = []
            if max_control_kl is not None:
                nats = found["control_kl"].tolist()
                found = self._harmless(found, nats, max_control_kl, "controls", left)
            if max_text_kl is not None and harm is not None:
                nats = [harm.of(str(site)).high for site in found["site"]]
                found = self._harmless(found, nats, max_text_kl, "throughout", left)
            best = tuple(self.sites[int(row)] for row in found.index[:k])
            chosen.append(Selected(name, best, len(found), len(rows), tuple(left)))
        means = self._differences if against_controls else self._changes
        cells = len(self._table)
        smallest = smallest_adjusted(means.smallest_p, cells)
        return Selection(quantity, level, against_controls, tuple(chosen), smallest)

    def _harmless(
        self, found: pd.DataFrame, nats: Sequence[float], limit: float, where: Harmed, left: list[LeftOut]
    ) -> pd.DataFrame:
        """The rows of sites that do no more harm than the limit; the other sites are added to `left`."""
        over = np.array(nats) > limit
        left += [LeftOut(self.sites[row], where, each, limit)
                 for row, each, out in zip(found.index.tolist(), nats, over, strict=True) if out]  # fmt: skip
        return found.loc[~over]

    @cached_property
    def _values(self) -> Float[np.ndarray, "point cell"]:
        """All quantities side by side: cells are quantity by quantity, site by site."""
        return np.concatenate([getattr(self, name) for name in QUANTITIES], axis=1)

    @cached_property
    def _changes(self) -> ClusteredMeans:
        events = self.points.events
        return clustered_means(self._values[: len(events)], [e.problem_id for e in events], seed=SEED)

    @cached_property
    def _differences(self) -> ClusteredMeans:
        return clustered_means(*minus_own_controls(self.points, self._values), seed=SEED)

    @cached_property
    def _table(self) -> pd.DataFrame:
        count, controls = len(self.points.events), self.points.controls
        control = clustered_means(self._values[count:], [c.problem_id for c in controls], seed=SEED)
        sites = list(self.sites) * len(QUANTITIES)
        baseline = np.array([getattr(self, f"baseline_{name}")[:count].mean() for name in QUANTITIES])
        columns: dict[str, object] = {
            "site": [str(site) for site in sites],
            "component": [_group(site) for site in sites],
            "layer": [site.layer for site in sites],
            "head": pd.array([site.head for site in sites], dtype="Int64"),
            "quantity": np.repeat(QUANTITIES, len(self.sites)),
            "baseline": np.repeat(baseline, len(self.sites)),
        }
        for name, means in (("change", self._changes), ("control_change", control), ("difference", self._differences)):
            columns |= {name: means.value, f"{name}_low": means.low, f"{name}_high": means.high}
        columns |= {"events": self._changes.n, "problems": self._changes.clusters}
        with_controls = self.kl[count:].mean(axis=0) if len(controls) else np.full(len(self.sites), np.nan)
        columns["control_kl"] = np.tile(with_controls, len(QUANTITIES))
        columns |= {"controls": control.n, "pairs": self._differences.n, **_tested("", self._changes)}
        return pd.DataFrame(columns | _tested("difference_", self._differences))


def _tested(prefix: str, means: ClusteredMeans) -> dict[str, Sequence[float]]:
    p = means.p_value.tolist()
    return {f"{prefix}p": p, f"{prefix}q": benjamini_hochberg(p)}


def _group(site: Site) -> str:
    return "head" if site.head is not None else site.component
