"""Backtracking and accuracy in the baseline alone: crude, within problems, and by number of onsets.

Hard problems are answered wrong more often and make a model backtrack more often, so the crude comparison says
which problems those are; the one within problems compares samples of one problem. Neither is causal:
what makes a sample backtrack may also make it err. Interventions answer that.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from backtracking.core.errors import InputError
from backtracking.core.events import Event, OnsetRow
from backtracking.core.groups import count_groups, crude_difference, within_difference, within_p_value
from backtracking.core.interventions import BASELINE
from backtracking.core.statistics import Estimate, clustered_rate
from backtracking.measures.arms import refuse_duplicates


@dataclass(frozen=True)
class DoseRow:
    """Completions with that many onsets that count."""

    onsets: int
    or_more: bool
    completions: int
    accuracy: Estimate
    truncated: Estimate


@dataclass(frozen=True)
class BaselineMetrics:
    """Shares of baseline completions; "with" and "without" mean strict backtracking. None: no such completions."""

    completions: int
    problems: int
    backtracking: Estimate
    accuracy: Estimate
    accuracy_with: Estimate | None
    accuracy_without: Estimate | None
    crude: Estimate | None
    """Accuracy with minus without; positive means that backtracking completions are right more often."""
    within: Estimate | None
    """The same within problems; its clusters are the informative ones. None: no problem has both kinds."""
    within_p_value: float
    """Exact, of the difference within problems; NaN where there is none."""
    informative_problems: int
    """Problems with completions of both kinds."""
    truncated_with: Estimate | None
    truncated_without: Estimate | None
    dose: tuple[DoseRow, ...]
    """By number of onsets; empty where no onsets were given."""

    def to_pandas(self) -> pd.DataFrame:
        """One row per quantity: value, low, high, n (completions), clusters (problems); NaN where missing."""
        named: dict[str, Estimate | None] = {
            "backtracking": self.backtracking,
            "accuracy": self.accuracy,
            "accuracy_with": self.accuracy_with,
            "accuracy_without": self.accuracy_without,
            "crude_difference": self.crude,
            "within_difference": self.within,
            "truncated_with": self.truncated_with,
            "truncated_without": self.truncated_without,
        }
        for row in self.dose:
            label = f"{row.onsets}{'_or_more' if row.or_more else ''}_onsets"
            named |= {f"accuracy_{label}": row.accuracy, f"truncated_{label}": row.truncated}
        return pd.DataFrame([_row(name, estimate) for name, estimate in named.items()])


def baseline_metrics(
    events: Sequence[Event], onsets: Sequence[OnsetRow] | None = None, *, most_onsets: int = 3, seed: int = 0
) -> BaselineMetrics:
    """Measure the baseline.

    Args:
        events: Of the baseline condition and of one formatting variant.
        onsets: All triggers of the same completions, for the accuracy by number of onsets.
        most_onsets: Completions with at least so many onsets make one group.
        seed: Of the bootstrap.

    Raises:
        InputError: There are no events, some are of another condition, variants are mixed, or a sample
            occurs twice; or an onset belongs to none of the events.
    """
    _check(events, onsets, most_onsets)
    problems = [event.example_id for event in events]
    right = [event.is_correct for event in events]
    backtracks = [event.has_backtracking_strict for event in events]
    cut = [event.verdict == "truncated" for event in events]

    def share(outcomes: Sequence[bool], chosen: Sequence[bool]) -> Estimate | None:
        kept = [(o, p) for o, p, c in zip(outcomes, problems, chosen, strict=True) if c]
        return clustered_rate(*map(list, zip(*kept, strict=True)), seed=seed) if kept else None

    without = [not flag for flag in backtracks]
    counts = count_groups(right, backtracks, problems)
    within = within_difference(counts, seed=seed)
    return BaselineMetrics(
        completions=len(events),
        problems=len(set(problems)),
        backtracking=clustered_rate(backtracks, problems, seed=seed),
        accuracy=clustered_rate(right, problems, seed=seed),
        accuracy_with=share(right, backtracks),
        accuracy_without=share(right, without),
        crude=crude_difference(counts, seed=seed),
        within=within,
        within_p_value=float("nan") if within is None else within_p_value(counts),
        informative_problems=int(counts.informative.sum()),
        truncated_with=share(cut, backtracks),
        truncated_without=share(cut, without),
        dose=() if onsets is None else _dose(events, onsets, most_onsets, seed),
    )


def _check(events: Sequence[Event], onsets: Sequence[OnsetRow] | None, most_onsets: int) -> None:
    if not events:
        raise InputError("no events to measure; sample the baseline first")
    others = sorted({event.condition for event in events} - {BASELINE.name})
    if others:
        raise InputError(f"baseline metrics are of the condition {BASELINE.name!r} alone; leave out {others}")
    variants = sorted({event.variant for event in events})
    if len(variants) > 1:
        raise InputError(f"baseline metrics are of one formatting variant, not of {variants}; choose one")
    refuse_duplicates(events, BASELINE.name)
    if most_onsets < 1:
        raise InputError(f"most_onsets is {most_onsets}; give at least 1")
    keys = {_key(event) for event in events}
    strays = sorted({str(_key(onset)) for onset in onsets or () if _key(onset) not in keys})
    if strays:
        raise InputError(
            f"{len(strays)} completions with onsets have no event, such as {strays[0]}; give both of one run"
        )


def _key(row: Event | OnsetRow) -> tuple[int | str, int, str, str]:
    return row.example_id, row.sample_id, row.variant, row.condition


def _dose(events: Sequence[Event], onsets: Sequence[OnsetRow], most: int, seed: int) -> tuple[DoseRow, ...]:
    number = Counter(_key(onset) for onset in onsets if onset.counts and onset.strict)
    groups: dict[int, list[Event]] = {}
    for event in events:
        groups.setdefault(min(number[_key(event)], most), []).append(event)
    rows = []
    for count, group in sorted(groups.items()):
        problems = [event.example_id for event in group]
        accuracy = clustered_rate([event.is_correct for event in group], problems, seed=seed)
        cut = clustered_rate([event.verdict == "truncated" for event in group], problems, seed=seed)
        rows.append(DoseRow(count, count == most, len(group), accuracy, cut))
    return tuple(rows)


def _row(name: str, estimate: Estimate | None) -> dict:
    nan = float("nan")
    if estimate is None:
        return {"quantity": name, "value": nan, "low": nan, "high": nan, "n": 0, "clusters": 0}
    found = estimate
    return {
        "quantity": name,
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "clusters": found.clusters,
    }
