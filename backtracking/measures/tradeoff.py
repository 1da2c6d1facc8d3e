"""The trade-off of a scale sweep: how much backtracking a factor removes, and what that costs in accuracy.

Factor 1 changes nothing, so the baseline stands at 1. A smaller factor need not act more: that is what
the trend says, and it is tested by problem.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from backtracking.core.errors import InputError
from backtracking.core.interventions import BASELINE
from backtracking.core.statistics import Estimate, paired_p_value
from backtracking.measures.arms import frame
from backtracking.measures.conditions import AccuracyVerdict, ConditionComparison, PairedRow, ProblemRow

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class TradeoffRow:
    """One factor against the baseline, over pairs that share problem, sample and noise."""

    condition: str
    factor: float
    pairs: int
    reduction: Estimate
    """Backtracking of the baseline minus that of the condition: positive means less backtracking."""
    reduction_p: float
    reduction_p_holm: float
    """Adjusted over all conditions of the comparison."""
    accuracy: Estimate
    """Condition minus baseline: negative means that accuracy is lost."""
    accuracy_p: float
    accuracy_p_holm: float
    non_inferior: AccuracyVerdict
    margin: float
    accuracy_flag: str

    @property
    def reduces(self) -> bool:
        """Whether backtracking falls significantly, after Holm."""
        return self.reduction.value > 0 and self.reduction_p_holm <= SIGNIFICANT

    @property
    def raises(self) -> bool:
        """Whether backtracking rises significantly, after Holm."""
        return self.reduction.value < 0 and self.reduction_p_holm <= SIGNIFICANT


@dataclass(frozen=True)
class Trend:
    """Whether backtracking rises with the factor, over the conditions and the baseline at factor 1."""

    rho: float
    """Spearman's, of the factors and the conditions' backtracking rates; NaN where one does not vary."""
    p_value: float
    """Two-sided: in each problem backtracking is weighted by the factor's rank; problems flip sign as wholes."""
    factors: int
    problems: int

    def __str__(self) -> str:
        """Say it in a sentence without a full stop."""
        if np.isnan(self.rho):
            return f"no trend over {self.factors} factors: one of factor and backtracking does not vary"
        return (
            f"trend over {self.factors} factors: rho = {self.rho:+.2f}, p = {self.p_value:.2g} (positive: backtracking "
            "rises with the factor)"
        )


@dataclass(frozen=True)
class Tradeoff:
    """A scale sweep read as a trade-off, by rising factor."""

    rows: tuple[TradeoffRow, ...]
    best: str | None
    """The condition with the largest significant reduction among the non-inferior ones."""
    reason: str
    """Why it is the best, or why none is; and which conditions raise backtracking significantly."""
    trend: Trend

    def to_pandas(self) -> pd.DataFrame:
        """One row per factor; `best` marks the chosen one."""
        table = frame(self.rows, TradeoffRow)
        table["best"] = [row.condition == self.best for row in self.rows]
        return table


def tradeoff(comparison: ConditionComparison, *, factors: Mapping[str, float]) -> Tradeoff:
    """Read a scale sweep.

    The best factor is chosen on the data it is judged by: confirm it on problems it was not chosen on.

    Args:
        comparison: Of the sweep's conditions with the baseline. P-values are adjusted over all of its
            conditions, also those without a factor.
        factors: Factor of each condition of one sweep (same sites and scope); the baseline is added at 1.

    Raises:
        InputError: There are no factors, one is not finite or occurs twice, a condition is not in the
            comparison, the baseline is missing, or its factor is not 1.
    """
    _check(comparison, factors)
    paired = {row.condition: row for row in comparison.paired}
    named = sorted(((factor, name) for name, factor in factors.items() if name != BASELINE.name))
    rows = tuple(_row(paired[name], factor) for factor, name in named)
    best, reason = _best(rows)
    raised = [
        f"{row.condition} raises it by {-100 * row.reduction.value:.1f} points (p = {row.reduction_p_holm:.2g})"
        for row in rows
        if row.raises
    ]
    points = [(name, factor) for factor, name in named]
    if 1.0 not in dict(points).values():
        points.append((BASELINE.name, 1.0))
    return Tradeoff(rows, best, "; ".join([reason, *raised]), _trend(comparison, points))


def _row(row: PairedRow, factor: float) -> TradeoffRow:
    fall = replace(
        row.backtracking, value=0.0 - row.backtracking.value, low=-row.backtracking.high, high=-row.backtracking.low
    )
    return TradeoffRow(
        condition=row.condition,
        factor=factor,
        pairs=row.pairs,
        reduction=fall,
        reduction_p=row.backtracking_p,
        reduction_p_holm=row.backtracking_p_holm,
        accuracy=row.accuracy,
        accuracy_p=row.accuracy_p,
        accuracy_p_holm=row.accuracy_p_holm,
        non_inferior=row.non_inferior,
        margin=row.margin,
        accuracy_flag=row.accuracy_flag,
    )


def _best(rows: Sequence[TradeoffRow]) -> tuple[str | None, str]:
    falls = [row for row in rows if row.reduces]
    if not falls:
        lower = [row for row in rows if row.reduction.value > 0]
        if not lower:
            return None, "no condition reduces backtracking"
        least = min(lower, key=lambda row: row.reduction_p_holm)
        return None, (
            f"no condition reduces backtracking significantly; the smallest adjusted p-value of a reduction is "
            f"{least.reduction_p_holm:.2g} ({least.condition}, reduction {100 * least.reduction.value:+.1f} points)"
        )
    safe = [row for row in falls if row.non_inferior == "non-inferior"]
    margin = 100 * falls[0].margin
    if not safe:
        said = ", ".join(f"{row.condition} is {row.non_inferior}" for row in falls)
        return None, f"no condition that reduces backtracking keeps accuracy within {margin:g} points: {said}"
    best = max(safe, key=lambda row: (row.reduction.value, row.factor))  # equal reductions: the gentler one
    return best.condition, (
        f"{best.condition} has the largest significant reduction, {best.reduction.percent()}, of {len(safe)} "
        f"that keep accuracy within {margin:g} points"
    )


def _trend(comparison: ConditionComparison, points: Sequence[tuple[str, float]]) -> Trend:
    """Reversing the order of the factors flips a problem's sum, and is as likely where factors do nothing."""
    names, factors = [name for name, _ in points], [factor for _, factor in points]
    counts = {(row.condition, row.problem_id): row for row in comparison.by_problem}
    problems = [row.problem_id for row in comparison.by_problem if row.condition == names[0]]
    weights = 2 * stats.rankdata(factors) - (len(factors) + 1)  # whole numbers, so that the test is exact
    sums = [
        float(sum(weight * counts[name, problem].backtracking for name, weight in zip(names, weights, strict=True)))
        for problem in problems
    ]
    rates = [_rate(comparison.by_problem, name) for name in names]
    varies = len(factors) > 1 and np.ptp(rates) > 0
    return Trend(
        rho=float(np.corrcoef(stats.rankdata(factors), stats.rankdata(rates))[0, 1]) if varies else float("nan"),
        p_value=paired_p_value(sums, [0.0] * len(sums), problems),
        factors=len(factors),
        problems=len(problems),
    )


def _rate(rows: Sequence[ProblemRow], name: str) -> float:
    own = [row for row in rows if row.condition == name]
    return sum(row.backtracking for row in own) / sum(row.completions for row in own)


def _check(comparison: ConditionComparison, factors: Mapping[str, float]) -> None:
    conditions = [row.condition for row in comparison.rows]
    if BASELINE.name not in conditions:
        raise InputError(f"the comparison has no condition {BASELINE.name!r}; sample the baseline too")
    missing = [name for name in factors if name not in conditions]
    if missing:
        raise InputError(f"no condition is called {missing[0]!r}; the comparison has {conditions}")
    if factors.get(BASELINE.name, 1.0) != 1.0:
        raise InputError(f"the baseline's factor is {factors[BASELINE.name]}; scaling by 1 is what changes nothing")
    swept = {name: factor for name, factor in factors.items() if name != BASELINE.name}
    if not swept:
        raise InputError("no factors; give the factor of each condition of the sweep")
    for name, factor in swept.items():
        if not np.isfinite(factor):
            raise InputError(f"the factor of {name!r} is {factor}; give a number")
        if list(swept.values()).count(factor) > 1:
            raise InputError(f"two conditions have the factor {factor}; a trade-off is of one sweep: choose one")
