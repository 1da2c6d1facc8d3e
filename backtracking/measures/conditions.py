"""Conditions side by side: backtracking rate, the four verdict shares, and paired differences.

Rates are never pooled over conditions. Intervals resample problems; arms are paired by sample key
(problem, sample, variant), whose noise they share.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from backtracking.core.errors import InputError
from backtracking.core.events import Event
from backtracking.core.interventions import BASELINE
from backtracking.core.multiplicity import holm
from backtracking.core.statistics import Estimate, NonInferiority, non_inferiority
from backtracking.measures.arm_counts import ArmCounts, count_arms
from backtracking.measures.arms import frame, pair, verdict_shares

AccuracyVerdict = NonInferiority | Literal["flagged"]
"""Flagged: the unparsed or truncated share differs, so the accuracies cannot be compared."""


@dataclass(frozen=True)
class ConditionRow:
    """One condition: shares of its completions, each with its interval."""

    condition: str
    completions: int
    problems: int
    backtracking: Estimate
    """Completions with a strict onset that counts."""
    right: Estimate
    wrong: Estimate
    unparsed: Estimate
    truncated: Estimate
    degenerate: Estimate
    mean_tokens: float
    """Sampled tokens per completion."""


@dataclass(frozen=True)
class PairedRow:
    """One condition minus the baseline, over pairs that share problem, sample and noise.

    Positive means the condition has more.
    """

    condition: str
    pairs: int
    backtracking: Estimate
    accuracy: Estimate
    unparsed: Estimate
    truncated: Estimate
    accuracy_flag: str
    """Why the accuracy comparison cannot be taken at face value; empty if nothing speaks."""
    backtracking_p: float
    """Two-sided, by flipping the sign of whole problems."""
    backtracking_p_holm: float
    """Adjusted over the conditions of the sweep; missing for a random draw."""
    accuracy_p: float
    accuracy_p_holm: float
    non_inferior: AccuracyVerdict
    """Whether the condition costs less accuracy than the margin, read off the interval of `accuracy`."""
    margin: float
    """Accuracy that may be lost, as a share."""


@dataclass(frozen=True)
class ProblemRow:
    """The completions of one problem under one condition."""

    condition: str
    problem_id: int | str
    completions: int
    backtracking: int
    """Completions with a strict onset that counts."""
    right: int


@dataclass(frozen=True)
class ConditionComparison:
    """All conditions of a run, and each against the baseline."""

    rows: tuple[ConditionRow, ...]
    paired: tuple[PairedRow, ...]
    by_problem: tuple[ProblemRow, ...]

    def row(self, condition: str) -> ConditionRow:
        """Return the row of that condition."""
        return next(row for row in self.rows if row.condition == condition)

    def with_draws(self, draws: "ConditionComparison") -> "ConditionComparison":
        """This comparison with random draws beside it, compared with the same baseline.

        They are no hypotheses but make a null distribution: they count in no adjustment, and their own adjusted
        p-values are missing.
        """
        nan = float("nan")
        paired = (replace(row, backtracking_p_holm=nan, accuracy_p_holm=nan) for row in draws.paired)
        return ConditionComparison(
            (*self.rows, *(row for row in draws.rows if row.condition != BASELINE.name)),
            (*self.paired, *paired),
            (*self.by_problem, *(row for row in draws.by_problem if row.condition != BASELINE.name)),
        )

    def to_pandas(self) -> pd.DataFrame:
        """One row per condition; each share as three columns: name, name_low, name_high."""
        return frame(self.rows, ConditionRow)

    def paired_to_pandas(self) -> pd.DataFrame:
        """One row per condition against the baseline, in the same form."""
        return frame(self.paired, PairedRow)


def compare_conditions(events: Sequence[Event], *, seed: int = 0, margin: float = 0.05) -> ConditionComparison:
    """Compare the conditions of a run in the order in which they occur.

    Without a baseline there are no paired rows.

    Args:
        events: All events of the run, of one formatting variant.
        seed: Of the bootstrap.
        margin: Accuracy a condition may lose and still be called non-inferior, as a share.

    Raises:
        InputError: There are no events, they mix formatting variants, a condition has two events of
            one sample or lacks rows that the baseline has, or the margin is not between 0 and 1.
    """
    return compare_arms(count_arms(events), seed=seed, margin=margin)


def compare_arms(
    arms: Mapping[str, ArmCounts], *, seed: int = 0, margin: float = 0.05, unpaired: Collection[str] = ()
) -> ConditionComparison:
    """The comparison of `compare_conditions` from counts by problem, as `arm_counts` makes them.

    Args:
        arms: Counts by condition.
        seed: Of the bootstrap.
        margin: Accuracy a condition may lose and still be called non-inferior, as a share.
        unpaired: Conditions that are no hypotheses, such as random draws: they have rates and no paired row.

    Raises:
        InputError: A condition lacks rows that the baseline has, or the margin is not between 0 and 1.
    """
    if not 0 < margin < 1:
        raise InputError(f"the margin is {margin}; give a share between 0 and 1, such as 0.05 for five points")
    return ConditionComparison(
        rows=tuple(_row(arm, seed) for arm in arms.values()),
        paired=_paired({name: arm for name, arm in arms.items() if name not in unpaired}, seed, margin),
        by_problem=tuple(row for arm in arms.values() for row in _problem_rows(arm)),
    )


def _row(arm: ArmCounts, seed: int) -> ConditionRow:
    return ConditionRow(
        condition=arm.name,
        completions=arm.completions,
        problems=len(arm.problems),
        mean_tokens=float(arm.by_problem("tokens").sum()) / arm.completions,
        **verdict_shares(arm, seed=seed),
    )


def _paired(arms: Mapping[str, ArmCounts], seed: int, margin: float) -> tuple[PairedRow, ...]:
    reference = arms.get(BASELINE.name)
    if reference is None:
        return ()
    found = {
        name: pair(arm, reference, names=(f"condition {name!r}", "the baseline"), seed=seed)
        for name, arm in arms.items()
        if name != BASELINE.name
    }
    backtracking_holm = holm([each.backtracking_p for each in found.values()])
    accuracy_holm = holm([each.accuracy_p for each in found.values()])
    return tuple(
        PairedRow(
            condition=name,
            backtracking_p_holm=backtracking,
            accuracy_p_holm=accuracy,
            non_inferior="flagged" if each.accuracy_flag else non_inferiority(each.accuracy, margin),
            margin=margin,
            **vars(each),
        )
        for (name, each), backtracking, accuracy in zip(found.items(), backtracking_holm, accuracy_holm, strict=True)
    )


def _problem_rows(arm: ArmCounts) -> list[ProblemRow]:
    columns = (arm.by_problem(name).astype(int).tolist() for name in ("completions", "backtracking", "right"))
    return [
        ProblemRow(arm.name, problem, completions, backtracking, right)
        for problem, completions, backtracking, right in zip(arm.problems, *columns, strict=True)
    ]
