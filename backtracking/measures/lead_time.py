"""Lead time: how many tokens before an onset a linear probe can read that it will come.

At lead 0 the probe reads the position whose logits choose the onset, at lead k the one k tokens before. Its rivals
are the entropy of the next-token distribution at the same position and how far into the completion it is: what
they tell needs no probe. Probes are scored on problems they never saw, and which layer is read is chosen on
the problems they were fitted on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from transformer_lens.tools.analysis import logit_readout

from backtracking.core.clustered_auc import clustered_auc, clustered_auc_difference
from backtracking.core.completions import Completion
from backtracking.core.errors import InputError
from backtracking.core.null_draws import MINIMUM_DRAWS, null_rank
from backtracking.core.onsets import DEFAULT_LEXICON, Lexicon
from backtracking.core.sites import Site
from backtracking.core.statistics import Estimate
from backtracking.measures.arms import frame
from backtracking.measures.decision_points import DecisionPoints
from backtracking.measures.held_out import grouped_folds, held_out_scores, logistic
from backtracking.measures.lead_points import null_labels, usable_points
from backtracking.measures.point_activations import PointActivations, read_points
from backtracking.model.reasoner import HookedReasoner

Fold = tuple[np.ndarray, np.ndarray]
"""Rows to fit on and rows to score."""


@dataclass(frozen=True)
class LeadRow:
    """One lead; areas under the curve of events against their controls, 0.5 is chance."""

    lead: int
    """Tokens between the position that is read and the one that predicts the onset."""
    events: int
    controls: int
    problems: int
    probe: Estimate
    entropy: Estimate
    """Of a regression on the entropy alone, so that its sign is learned."""
    position: Estimate
    """Of a regression on the position alone: what is left over from matching."""
    rival: Estimate
    """Of a regression on both."""
    advantage: Estimate
    """Probe minus rival, in the same resamples."""
    null: float
    """Median area of probes whose labels were drawn anew within each event and its controls."""
    null_low: float
    """2.5 % of those lie below."""
    null_high: float
    """97.5 % of those lie below."""
    p: float
    """Of the probe's area among those, one-sided; at least 1 / (1 + draws)."""
    layers: tuple[int, ...]
    """The layer chosen in each fold, by inner folds."""


@dataclass(frozen=True)
class LeadTime:
    """The curve over leads; every lead has the same events and controls."""

    rows: tuple[LeadRow, ...]
    draws: int
    dropped_events: int
    """Too near the start of the completion for the longest lead, after an earlier trigger (whether or not that one
    counts), or without a control that could be kept.
    """
    dropped_controls: int
    """Too near the start, after an earlier trigger, with one within the longest lead behind them, or of such events."""
    window: int
    """The longest lead."""

    def to_pandas(self) -> pd.DataFrame:
        """One row per lead; each area as three columns: name, name_low, name_high."""
        table = frame(self.rows, LeadRow)
        return table.assign(layers=[" ".join(map(str, row.layers)) for row in self.rows])

    @property
    def readable(self) -> int | None:
        """Largest lead up to which, at every lead, the probe's interval lies above 0.5 and its area above the null's
        range; None if not even at lead 0.
        """
        reached = None
        for row in self.rows:
            if not (row.probe.low > 0.5 and row.probe.value > row.null_high):
                return reached
            reached = row.lead
        return reached


def lead_time(
    model: HookedReasoner,
    points: DecisionPoints,
    completions: Sequence[Completion],
    *,
    longest: int = 12,
    layers: Sequence[int] | None = None,
    folds: int = 5,
    draws: int = MINIMUM_DRAWS,
    strength: float = 0.1,
    lexicon: Lexicon = DEFAULT_LEXICON,
    seed: int = 0,
    to: str | Path | None = None,
) -> LeadTime:
    """Probe the residual stream at every lead up to the longest.

    An event is kept if no trigger of the lexicon begins before its own, a control if none begins before it or within
    the longest lead behind it, since having backtracked already can be read too. Only points that have every lead
    are kept, so that leads compare.

    Args:
        model: The reasoner that wrote the completions.
        points: Events and controls; several controls per event make up for those that are dropped.
        completions: Those the points were made from.
        longest: Tokens.
        layers: Whose residual stream may be chosen; all if not given.
        folds: Of the score, grouped by problem; half as many, at least two, choose the layer inside each.
        draws: Null probes. They read the layers that were chosen for the true labels.
        strength: Inverse penalty of the probes (scikit-learn's C, after standardising).
        lexicon: The triggers.
        seed: Of folds, null and intervals.
        to: Folder of the activation store; if not given it is deleted after reading.

    Raises:
        InputError: Too few events, controls or problems are left, or an option cannot be used.
    """
    if longest < 0 or draws < MINIMUM_DRAWS:
        raise InputError(f"longest is {longest} and draws {draws}; give at least 0 and {MINIMUM_DRAWS}")
    kept = usable_points(points, completions, longest, lexicon)
    chosen = sorted(set(range(model.cfg.n_layers) if layers is None else layers))
    last = model.cfg.n_layers - 1
    sites = [Site("resid_post", layer) for layer in sorted({*chosen, last})]
    read = read_points(model, kept, sites=sites, window=(-1 - longest, -1), to=to)
    entropy = _entropies(model, read, Site("resid_post", last))
    every = kept.all
    problems = [point.problem_id for point in every]
    is_event = np.array([point.kind == "event" for point in every])
    outer = list(grouped_folds(is_event, problems, folds=folds, seed=seed))
    probes = _Probes(problems, is_event, outer, max(2, folds // 2), strength, seed)
    shuffled = null_labels(kept, draws, seed)
    rows = []
    for lead in range(longest + 1):
        at = read.offset == -1 - lead
        values = {layer: read.values[Site("resid_post", layer)][at].astype(float) for layer in chosen}
        positions = np.array([point.position for point in every], dtype=float)
        rows.append(probes.row(lead, values, np.stack([entropy[at], positions], axis=1), shuffled))
    return LeadTime(
        tuple(rows), draws, len(points.events) - len(kept.events), len(points.controls) - len(kept.controls), longest
    )


@dataclass(frozen=True)
class _Probes:
    """What all leads share: rows are points, events first."""

    problems: list[int | str]
    is_event: Bool[np.ndarray, " point"]
    outer: list[Fold]
    inner: int
    strength: float
    seed: int

    def row(
        self,
        lead: int,
        values: dict[int, Float[np.ndarray, "point d"]],
        rivals: Float[np.ndarray, "point 2"],
        shuffled: Sequence[Bool[np.ndarray, " point"]],
    ) -> LeadRow:
        """Probe and rivals at one lead."""
        layers = [self._best_layer(values, train) for train, _ in self.outer]
        scores = self._scores([values[layer] for layer in layers], self.is_event)
        entropy, position, both = (
            self._scores([rivals[:, columns]] * len(self.outer), self.is_event) for columns in ([0], [1], [0, 1])
        )
        null = [
            self._area(self._scores([values[layer] for layer in layers], labels), labels).value for labels in shuffled
        ]
        probe = self._area(scores, self.is_event)
        rank = null_rank(probe.value, null, side="greater")
        return LeadRow(
            lead=lead,
            events=int(self.is_event.sum()),
            controls=int((~self.is_event).sum()),
            problems=len(set(self.problems)),
            probe=probe,
            entropy=self._area(entropy, self.is_event),
            position=self._area(position, self.is_event),
            rival=self._area(both, self.is_event),
            advantage=clustered_auc_difference(
                scores, both, self.is_event, self.problems, strata=self._fold, seed=self.seed
            ),
            null=rank.median,
            null_low=rank.low,
            null_high=rank.high,
            p=rank.p_value,
            layers=tuple(layers),
        )

    @property
    def _fold(self) -> list[int]:
        fold = np.zeros(len(self.problems), dtype=int)
        for number, (_, test) in enumerate(self.outer):
            fold[test] = number
        return fold.tolist()

    def _area(self, scores: np.ndarray, labels: np.ndarray) -> Estimate:
        return clustered_auc(scores, labels, self.problems, strata=self._fold, seed=self.seed)

    def _scores(self, by_fold: Sequence[Float[np.ndarray, "point d"]], labels: np.ndarray) -> np.ndarray:
        fit, scores = logistic(self.strength), np.full(len(labels), np.nan)
        for values, (train, test) in zip(by_fold, self.outer, strict=True):
            scores[test] = fit(values[train], labels[train])(values[test])
        return scores

    def _best_layer(self, values: dict[int, Float[np.ndarray, "point d"]], train: np.ndarray) -> int:
        """By the area on inner folds of the rows that are fitted on; the lowest of equals."""
        if len(values) == 1:
            return next(iter(values))
        labels, problems = self.is_event[train], [self.problems[index] for index in train]
        areas = {}
        for layer, each in values.items():
            held = held_out_scores(
                each[train], labels, problems, fit=logistic(self.strength), folds=self.inner, seed=self.seed
            )
            areas[layer] = _stratified_area(held.scores, labels, held.fold)
        return max(areas, key=lambda layer: areas[layer])


def _stratified_area(scores: np.ndarray, labels: np.ndarray, fold: np.ndarray) -> float:
    same = fold[labels][:, None] == fold[~labels][None]
    above = np.sign(scores[labels][:, None] - scores[~labels][None]) / 2 + 0.5
    return float(above[same].mean())


def _entropies(model: HookedReasoner, read: PointActivations, last: Site) -> Float[np.ndarray, " row"]:
    """Of the model's next-token distribution at every row, in nats, at temperature 1."""
    resid = torch.tensor(read.values[last], dtype=model.dtype, device=model.device)
    return logit_readout(model.bridge, resid, top_k=1).entropy.double().cpu().numpy()
