"""What an intervention does to the decision itself: the chance of a trigger where one was, or could be, begun.

Every decision point is run under every condition on the same tokens, so what changes is the decision and
nothing before it. A condition that scales or removes a site "while decoding" is in force from the first
sampled token of the completion up to the point.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from backtracking.core.clustered_means import clustered_means
from backtracking.core.errors import InputError
from backtracking.core.interventions import BASELINE, Condition
from backtracking.core.multiplicity import holm
from backtracking.core.statistics import Estimate
from backtracking.measures.decision_points import DecisionPoint, DecisionPoints, check_points
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling import next_logits


@dataclass(frozen=True)
class DecisionRow:
    """One condition at one kind of decision point."""

    condition: str
    kind: str
    """`event`: a trigger was begun there; `control`: none was."""
    n: int
    problems: int
    probability: Estimate
    """Of any token that begins a trigger."""
    log_odds: Estimate
    """Natural logarithm of the odds of any trigger."""
    probability_change: Estimate | None
    """Condition minus baseline, in probability; None for the baseline itself."""
    log_odds_change: Estimate | None
    p: float
    """Of the change of the log-odds, by sign flips over problems; NaN for the baseline."""
    p_holm: float
    """The same after Holm, over the conditions of the kind."""


@dataclass(frozen=True)
class DecisionAblation:
    """Every condition at events and at controls."""

    rows: tuple[DecisionRow, ...]
    points: pd.DataFrame
    """Long table: condition, kind, point, problem_id, sample_id, position, probability, log_odds."""

    def row(self, condition: str, kind: str = "event") -> DecisionRow:
        """The row of a condition."""
        return next(row for row in self.rows if (row.condition, row.kind) == (condition, kind))

    def to_pandas(self) -> pd.DataFrame:
        """One row per condition and kind; each estimate as three columns: name, name_low, name_high."""
        return pd.DataFrame([_flat(row) for row in self.rows])


def decision_ablation(
    model: HookedReasoner,
    points: DecisionPoints,
    conditions: Sequence[Condition],
    *,
    trigger_ids: Sequence[int],
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> DecisionAblation:
    """Probability and log-odds of any trigger at every decision point under every condition.

    Args:
        model: The reasoner.
        points: Events and controls.
        conditions: What is done; the baseline is added if it is not among them.
        trigger_ids: Tokens that begin a trigger.
        seed: Of the intervals.
        progress: Told how many points are done.

    Raises:
        InputError: There are no points or no tokens that begin a trigger.
    """
    listed = check_points(points)
    if not trigger_ids:
        raise InputError("no trigger tokens: there is no decision to measure")
    arms = list(conditions)
    if BASELINE.name not in [arm.name for arm in arms]:
        arms.insert(0, BASELINE)
    chosen = torch.tensor(sorted(set(trigger_ids)), device=model.device)
    log_odds = np.full((len(listed), len(arms)), np.nan)
    contexts = [point.context for point in listed]
    prompts = [point.prompt_tokens for point in listed]
    for done, (index, logits) in enumerate(next_logits(model, contexts, arms, prompts=prompts), 1):
        wanted = logits[:, chosen].double().logsumexp(-1)
        others = logits.double()
        others[:, chosen] = float("-inf")
        log_odds[index] = (wanted - others.logsumexp(-1)).cpu().numpy()
        if progress is not None:
            progress("decision points", done, len(listed))
    return _summary(listed, [arm.name for arm in arms], log_odds, seed)


def _summary(
    listed: Sequence[DecisionPoint], names: Sequence[str], log_odds: np.ndarray, seed: int
) -> DecisionAblation:
    probability = 1 / (1 + np.exp(-log_odds))
    kinds = np.array([point.kind for point in listed])
    problems = np.array([str(point.problem_id) for point in listed])
    reference = names.index(BASELINE.name)
    rows: list[DecisionRow] = []
    for kind in dict.fromkeys(kinds.tolist()):
        here = kinds == kind
        clusters = problems[here].tolist()
        levels = [_estimates(values[here], clusters, seed) for values in (probability, log_odds)]
        changes = [values - values[:, [reference]] for values in (probability, log_odds)]
        moved = [_estimates(values[here], clusters, seed) for values in changes]
        tested = clustered_means(changes[1][here], clusters, seed=seed).p_value
        p = [float("nan") if arm == reference else float(tested[arm]) for arm in range(len(names))]
        adjusted = holm(p)
        for arm, name in enumerate(names):
            own = arm == reference
            rows.append(
                DecisionRow(
                    name,
                    str(kind),
                    int(here.sum()),
                    len(set(clusters)),
                    levels[0][arm],
                    levels[1][arm],
                    None if own else moved[0][arm],
                    None if own else moved[1][arm],
                    p[arm],
                    adjusted[arm],
                )
            )
    frame = pd.DataFrame(
        [
            {
                "condition": name,
                "kind": point.kind,
                "point": index,
                "problem_id": point.problem_id,
                "sample_id": point.sample_id,
                "position": point.position,
                "probability": probability[index, arm],
                "log_odds": log_odds[index, arm],
            }
            for arm, name in enumerate(names)
            for index, point in enumerate(listed)
        ]
    )
    return DecisionAblation(tuple(rows), frame)


def _estimates(values: np.ndarray, clusters: Sequence[str], seed: int) -> tuple[Estimate, ...]:
    """Mean of each column, its interval from resampling problems."""
    found = clustered_means(values, clusters, seed=seed)
    return tuple(
        Estimate(float(value), float(low), float(high), found.n, found.clusters)
        for value, low, high in zip(found.value, found.low, found.high, strict=True)
    )


def _flat(row: DecisionRow) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name in ("condition", "kind", "n", "problems"):
        flat[name] = getattr(row, name)
    for name in ("probability", "log_odds", "probability_change", "log_odds_change"):
        value: Estimate | None = getattr(row, name)
        ends = (None, None, None) if value is None else (value.value, value.low, value.high)
        flat |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
    return flat | {"p": row.p, "p_holm": row.p_holm}
