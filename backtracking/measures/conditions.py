"""Conditions side by side: backtracking rate, the four verdict shares, and paired differences.

Rates are never pooled over conditions. Intervals resample problems; arms are paired by sample key
(problem, sample, variant), whose noise they share.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from backtracking.core.errors import InputError
from backtracking.core.events import Event
from backtracking.core.interventions import BASELINE
from backtracking.core.statistics import Estimate, clustered_rate, paired_difference

VERDICTS = ("right", "wrong", "unparsed", "truncated")
FLAG_MARGIN = 0.05
"""Difference of the unparsed or truncated share, as a share, above which accuracy is flagged."""


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


@dataclass(frozen=True)
class ConditionComparison:
    """All conditions of a run, and each against the baseline."""

    rows: tuple[ConditionRow, ...]
    paired: tuple[PairedRow, ...]

    def row(self, condition: str) -> ConditionRow:
        """Return the row of that condition."""
        return next(row for row in self.rows if row.condition == condition)

    def to_pandas(self) -> pd.DataFrame:
        """One row per condition; each share as three columns: name, name_low, name_high."""
        return pd.DataFrame([_flat(asdict(row)) for row in self.rows])

    def paired_to_pandas(self) -> pd.DataFrame:
        """One row per condition against the baseline, in the same form."""
        return pd.DataFrame([_flat(asdict(row)) for row in self.paired])


def compare_conditions(events: Sequence[Event], *, seed: int = 0) -> ConditionComparison:
    """Compare the conditions of a run in the order in which they occur.

    Args:
        events: All events of the run, of one formatting variant.
        seed: Of the bootstrap.

    Raises:
        InputError: There are no events, they mix formatting variants, or a condition lacks rows
            that the baseline has.
    """
    if not events:
        raise InputError("no events to compare; sample something first")
    variants = sorted({event.variant for event in events})
    if len(variants) > 1:
        raise InputError(f"conditions are compared within one variant, not over {variants}")
    arms: dict[str, list[Event]] = {}
    for event in events:
        arms.setdefault(event.condition, []).append(event)
    rows = tuple(_row(name, arm, seed) for name, arm in arms.items())
    reference = arms.get(BASELINE.name)
    paired = (
        ()
        if reference is None
        else tuple(_paired(name, arm, reference, seed) for name, arm in arms.items() if name != BASELINE.name)
    )
    return ConditionComparison(rows, paired)


def _row(name: str, arm: Sequence[Event], seed: int) -> ConditionRow:
    problems = [event.example_id for event in arm]

    def share(outcomes: Sequence[bool]) -> Estimate:
        return clustered_rate(outcomes, problems, seed=seed)

    verdicts = {word: share([event.verdict == word for event in arm]) for word in VERDICTS}
    return ConditionRow(
        condition=name,
        completions=len(arm),
        problems=len(set(problems)),
        backtracking=share([event.has_backtracking_strict for event in arm]),
        degenerate=share([event.degenerate for event in arm]),
        mean_tokens=sum(event.completion_tokens for event in arm) / len(arm),
        **verdicts,
    )


def _paired(name: str, arm: Sequence[Event], reference: Sequence[Event], seed: int) -> PairedRow:
    others = {(event.example_id, event.sample_id): event for event in reference}
    keys = [(event.example_id, event.sample_id) for event in arm]
    if set(keys) != set(others) or len(keys) != len(others):
        raise InputError(f"condition {name!r} and the baseline do not hold the same sample keys")
    twins = [others[key] for key in keys]
    problems = [event.example_id for event in arm]

    def difference(values: Sequence[bool], baseline: Sequence[bool]) -> Estimate:
        return paired_difference(values, baseline, problems, seed=seed)

    unparsed, truncated = (
        difference([e.verdict == word for e in arm], [e.verdict == word for e in twins])
        for word in ("unparsed", "truncated")
    )
    return PairedRow(
        condition=name,
        pairs=len(arm),
        backtracking=difference([e.has_backtracking_strict for e in arm], [e.has_backtracking_strict for e in twins]),
        accuracy=difference([e.is_correct for e in arm], [e.is_correct for e in twins]),
        unparsed=unparsed,
        truncated=truncated,
        accuracy_flag=_flag(unparsed, truncated),
    )


def _flag(unparsed: Estimate, truncated: Estimate) -> str:
    reasons = [
        f"{word} share differs by {100 * share.value:+.1f} points"
        for word, share in (("unparsed", unparsed), ("truncated", truncated))
        if abs(share.value) > FLAG_MARGIN or share.low > 0 or share.high < 0
    ]
    return "; ".join(reasons)


def _flat(row: dict) -> dict:
    flat: dict = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= {name: value["value"], f"{name}_low": value["low"], f"{name}_high": value["high"]}
        else:
            flat[name] = value
    return flat
