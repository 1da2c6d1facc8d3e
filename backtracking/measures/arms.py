"""Arms: the completions of one condition, never pooled with others, and paired with another arm's.

What every comparison of arms shares: refusing what would pool, pairing by sample key, differences with
their tests, and rows as flat tables.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass

import pandas as pd

from backtracking.core.errors import InputError
from backtracking.core.events import Event
from backtracking.core.interventions import BASELINE
from backtracking.core.statistics import Estimate, clustered_rate, paired_difference, paired_p_value

VERDICTS = ("right", "wrong", "unparsed", "truncated")
FLAG_MARGIN = 0.05
"""Difference of the unparsed or truncated share, as a share, above which accuracy is flagged."""

Key = tuple[int | str, int]
"""Problem and sample."""


@dataclass(frozen=True)
class PairedShares:
    """One arm minus another, over pairs of the same problem and sample; positive means it has more."""

    pairs: int
    backtracking: Estimate
    accuracy: Estimate
    unparsed: Estimate
    truncated: Estimate
    accuracy_flag: str
    """Why the accuracy comparison cannot be taken at face value; empty if nothing speaks."""
    backtracking_p: float
    accuracy_p: float


def arms_of(events: Sequence[Event]) -> dict[str, tuple[Event, ...]]:
    """The events of each condition, in the order in which conditions occur.

    Raises:
        InputError: There are no events, they mix formatting variants, or a condition has two events of one
            sample, as when two runs or an ablated arm are read as one.
    """
    if not events:
        raise InputError("no events to compare; sample something first")
    variants = sorted({event.variant for event in events})
    if len(variants) > 1:
        raise InputError(f"conditions are compared within one variant, not over {variants}; choose one")
    arms: dict[str, list[Event]] = {}
    for event in events:
        arms.setdefault(event.condition, []).append(event)
    for name, arm in arms.items():
        refuse_duplicates(arm, name)
    return {name: tuple(arm) for name, arm in arms.items()}


def refuse_duplicates(arm: Sequence[Event], name: str) -> None:
    """Raise an InputError if the arm has two events of one problem and sample."""
    seen: set[Key] = set()
    for event in arm:
        key = (event.example_id, event.sample_id)
        if key in seen:
            raise InputError(
                f"{name!r} has problem {key[0]!r}, sample {key[1]} twice; arms are never pooled: give each run alone"
            )
        seen.add(key)


def baseline_of(arms: Mapping[str, Sequence[Event]]) -> Sequence[Event]:
    """The baseline's events.

    Raises:
        InputError: There is no baseline.
    """
    if BASELINE.name not in arms:
        raise InputError(f"no condition is called {BASELINE.name!r}, only {list(arms)}; sample the baseline too")
    return arms[BASELINE.name]


def twins(arm: Sequence[Event], reference: Sequence[Event], *, name: str, other: str) -> tuple[Event, ...]:
    """For each event of the arm the reference's event of the same problem and sample; both without duplicates.

    Raises:
        InputError: The two do not hold the same sample keys.
    """
    others = {(event.example_id, event.sample_id): event for event in reference}
    keys = [(event.example_id, event.sample_id) for event in arm]
    if set(keys) != set(others):
        raise InputError(
            f"{name} and {other} do not hold the same sample keys "
            f"({len(set(keys) ^ set(others))} are in one alone); sample both in full"
        )
    return tuple(others[key] for key in keys)


def pair(arm: Sequence[Event], others: Sequence[Event], *, seed: int) -> PairedShares:
    """Differences between events and their `twins`, with sign-flip tests by problem."""
    problems = [event.example_id for event in arm]

    def values(read: Callable[[Event], bool]) -> tuple[list[bool], list[bool]]:
        return [read(event) for event in arm], [read(event) for event in others]

    backtracking = values(lambda event: event.has_backtracking_strict)
    right = values(lambda event: event.is_correct)
    unparsed, truncated = (
        paired_difference(*values(lambda event, word=word: event.verdict == word), problems, seed=seed)
        for word in ("unparsed", "truncated")
    )
    return PairedShares(
        pairs=len(arm),
        backtracking=paired_difference(*backtracking, problems, seed=seed),
        accuracy=paired_difference(*right, problems, seed=seed),
        unparsed=unparsed,
        truncated=truncated,
        accuracy_flag=accuracy_flag(unparsed, truncated),
        backtracking_p=paired_p_value(*backtracking, problems, seed=seed),
        accuracy_p=paired_p_value(*right, problems, seed=seed),
    )


def accuracy_flag(unparsed: Estimate, truncated: Estimate) -> str:
    """Why arms that differ so in unparsed and truncated shares cannot be compared in accuracy; or empty."""
    reasons = [
        f"{word} share differs by {100 * share.value:+.1f} points"
        for word, share in (("unparsed", unparsed), ("truncated", truncated))
        if abs(share.value) > FLAG_MARGIN or share.low > 0 or share.high < 0
    ]
    return "; ".join(reasons)


def verdict_shares(arm: Sequence[Event], *, seed: int) -> dict[str, Estimate]:
    """Share of each verdict, of backtracking and of degenerate completions, by name."""
    problems = [event.example_id for event in arm]
    outcomes = {word: [event.verdict == word for event in arm] for word in VERDICTS}
    outcomes["backtracking"] = [event.has_backtracking_strict for event in arm]
    outcomes["degenerate"] = [event.degenerate for event in arm]
    return {name: clustered_rate(values, problems, seed=seed) for name, values in outcomes.items()}


def frame(rows: Sequence[object], kind: type) -> pd.DataFrame:
    """One line per row of that kind; an estimate becomes three columns: name, name_low, name_high (NaN if None)."""
    estimates = [name for name, annotated in kind.__annotations__.items() if annotated in (Estimate, Estimate | None)]
    lines = []
    for row in rows:
        assert is_dataclass(row) and not isinstance(row, type)
        line: dict[str, object] = {}
        for name, value in asdict(row).items():
            if name not in estimates:
                line[name] = value
                continue
            found = value or dict.fromkeys(("value", "low", "high"), float("nan"))
            line |= {name: found["value"], f"{name}_low": found["low"], f"{name}_high": found["high"]}
        lines.append(line)
    return pd.DataFrame(lines)
