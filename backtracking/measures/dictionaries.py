"""Features of a sparse dictionary at onsets: which are active there and not at matched controls, and what they do.

A feature's contribution depends on the activation it is read from, so no `Add` or `Project` takes it away exactly.
It is removed teacher-forced, at the position that predicts the onset (as the ablation scan does with sites), through
a hook; sampling with a feature removed is not offered.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from backtracking.core.clustered_auc import clustered_auc
from backtracking.core.clustered_means import clustered_means
from backtracking.core.errors import InputError
from backtracking.core.multiplicity import benjamini_hochberg
from backtracking.core.sites import Site
from backtracking.measures.decision_points import DecisionPoints
from backtracking.measures.event_pairs import minus_own_controls
from backtracking.measures.point_activations import PointActivations, Window
from backtracking.model.dictionaries import SparseDictionary
from backtracking.model.last_position import last_logits_only
from backtracking.model.reasoner import HookedReasoner


@dataclass(frozen=True)
class FeatureScan:
    """Activation of every feature at events and controls: mean over the window of each point."""

    points: DecisionPoints
    values: Float[np.ndarray, "point feature"]
    site: Site
    window: Window
    dictionary: str

    def to_pandas(self, *, seed: int = 0) -> pd.DataFrame:
        """One row per feature that is active at any point, largest difference first.

        `difference` is event minus own controls, clustered by problem; `auc` tells how well the feature alone tells
        events from controls, with its interval; `p` is of the difference, by sign flips, `q` after Benjamini and
        Hochberg over the features that are active anywhere.
        """
        count = len(self.points.events)
        active = np.flatnonzero((self.values > 0).any(0))
        if not len(active):
            raise InputError(f"no feature of {self.dictionary} is active at any of {len(self.values)} points")
        values = self.values[:, active]
        paired, problems = minus_own_controls(self.points, values)
        difference = clustered_means(paired, problems, seed=seed)
        labels = np.arange(len(values)) < count
        clusters = [point.problem_id for point in self.points.all]
        areas = [clustered_auc(column, labels, clusters, seed=seed) for column in values.T]
        table = pd.DataFrame(
            {
                "feature": active,
                "event": values[:count].mean(0),
                "control": values[count:].mean(0),
                "event_active": (values[:count] > 0).mean(0),
                "control_active": (values[count:] > 0).mean(0),
                "difference": difference.value,
                "difference_low": difference.low,
                "difference_high": difference.high,
                "auc": [area.value for area in areas],
                "auc_low": [area.low for area in areas],
                "auc_high": [area.high for area in areas],
                "p": difference.p_value,
                "q": benjamini_hochberg(difference.p_value.tolist()),
                "events": count,
                "controls": len(values) - count,
                "pairs": difference.n,
                "problems": difference.clusters,
            }
        )
        return table.sort_values("difference", ascending=False, ignore_index=True)


def feature_scan(
    read: PointActivations, dictionary: SparseDictionary, site: str | Site, *, window: Window | None = None
) -> FeatureScan:
    """Encode what the model holds in a window before events and controls.

    Args:
        read: Activations, as `read_points` gives them.
        dictionary: Of the site.
        site: Where it reads.
        window: Part of what was read.

    Raises:
        InputError: The dictionary reads another place or width, there are no controls, or a point has no position
            in the window.
    """
    found = Site.parse(site)
    _check_place(dictionary, found)
    rows = read.rows(found, window)
    features = dictionary.encode(torch.tensor(rows.values, dtype=torch.float32)).double().cpu().numpy()
    total = len(read.points.all)
    counts = np.bincount(rows.point, minlength=total)
    if not read.points.controls or not counts.all():
        raise InputError(
            f"{len(read.points.controls)} controls, and {int((counts == 0).sum())} points without a position in the "
            "window; give events with controls and a window that reaches -1"
        )
    sums = np.zeros((total, features.shape[1]))
    np.add.at(sums, rows.point, features)
    return FeatureScan(read.points, sums / counts[:, None], found, window or read.window, dictionary.name)


@dataclass(frozen=True)
class FeatureAblation:
    """What removing features does to the chance of a trigger, at every point."""

    points: DecisionPoints
    features: tuple[int, ...]
    log_odds: Float[np.ndarray, "point feature"]
    """Change of the log-odds of any trigger when the feature is removed: ablated minus baseline, in nats."""
    baseline: Float[np.ndarray, " point"]
    reconstruction: Float[np.ndarray, " point"]
    """Change when the whole activation is replaced by its reconstruction: what the dictionary's error costs."""

    def to_pandas(self, *, seed: int = 0) -> pd.DataFrame:
        """One row per feature: mean change at events and at controls, and the difference, clustered by problem.

        Negative: the feature says that a trigger comes. `p` is of the change at events, `q` over the features.
        """
        count = len(self.points.events)
        problems = [point.problem_id for point in self.points.all]
        event = clustered_means(self.log_odds[:count], problems[:count], seed=seed)
        control = clustered_means(self.log_odds[count:], problems[count:], seed=seed)
        paired, own = minus_own_controls(self.points, self.log_odds)
        difference = clustered_means(paired, own, seed=seed)
        columns: dict[str, object] = {"feature": list(self.features)}
        for name, means in (("change", event), ("control_change", control), ("difference", difference)):
            columns |= {name: means.value, f"{name}_low": means.low, f"{name}_high": means.high}
        q = benjamini_hochberg(event.p_value.tolist())
        return pd.DataFrame(columns | {"p": event.p_value, "q": q, "events": count, "problems": event.clusters})


def feature_ablation(
    model: HookedReasoner,
    points: DecisionPoints,
    dictionary: SparseDictionary,
    site: str | Site,
    *,
    features: Sequence[int],
    trigger_ids: Sequence[int],
) -> FeatureAblation:
    """Remove one feature at a time at the position that predicts, and read the chance of a trigger.

    Each context is run once per feature, in one batch, through `run_with_hooks`. What the dictionary does not explain
    stays in place.

    Args:
        model: The reasoner that wrote the completions.
        points: Events and controls.
        dictionary: An autoencoder of the site.
        site: A place in the residual stream, or what a layer adds to it.
        features: Which.
        trigger_ids: Tokens that begin a trigger.

    Raises:
        InputError: The dictionary is of another place or a transcoder, there are no events or features, or the trigger
            ids do not fit.
    """
    found = Site.parse(site)
    _check_place(dictionary, found)
    chosen, triggers = tuple(features), sorted(set(trigger_ids))
    if not chosen or not points.events:
        raise InputError(f"{len(chosen)} features at {len(points.events)} events: there is nothing to remove")
    if not triggers or not 0 <= triggers[0] <= triggers[-1] < model.cfg.d_vocab or len(triggers) >= model.cfg.d_vocab:
        raise InputError(f"{len(triggers)} trigger ids do not fit a vocabulary of {model.cfg.d_vocab}")
    dictionary.without(torch.zeros(1, dictionary.width), list(chosen))  # refuses what it cannot remove

    def edit(activation: Tensor, hook) -> Tensor:  # noqa: ARG001
        last = activation[:, -1]
        new = torch.stack([dictionary.without(last[row][None], [each])[0] for row, each in enumerate(chosen)])
        rebuilt = dictionary.decode(dictionary.encode(last[-1:])).to(last)
        changed = torch.cat([new.to(last), last[-2:-1], rebuilt])
        return torch.cat([activation[:, :-1], changed[:, None]], dim=1)

    odds = np.empty((len(points.all), len(chosen) + 2))
    for index, point in enumerate(points.all):
        rows = [list(point.context)] * (len(chosen) + 2)  # one per feature, then untouched, then rebuilt
        logits = model.run_with_hooks(rows, [(found, edit)], **last_logits_only(model))[:, -1].double()
        together = logits[:, triggers].logsumexp(-1)
        others = logits.index_fill(1, torch.tensor(triggers, device=logits.device), -torch.inf).logsumexp(-1)
        odds[index] = (together - others).cpu().numpy()
    base = odds[:, -2]
    return FeatureAblation(points, chosen, odds[:, :-2] - base[:, None], base, odds[:, -1] - base)


def _check_place(dictionary: SparseDictionary, site: Site) -> None:
    if dictionary.hook_name and dictionary.hook_name != site.hook_name:
        raise InputError(f"{dictionary.name} reads {dictionary.hook_name}, not {site} ({site.hook_name})")
    if site.head is not None:
        raise InputError(f"a dictionary reads a whole place, not the head {site}")
