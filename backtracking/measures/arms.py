"""Arms: the completions of one condition, never pooled with others, and paired with another arm's.

What every comparison of arms shares: refusing what would pool, pairing by sample key, differences with
their tests, and rows as flat tables.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass

import pandas as pd

from backtracking.core.errors import InputError
from backtracking.core.events import Event
from backtracking.core.statistics import Estimate, clustered_mean, clustered_share, flip_p_value
from backtracking.measures.arm_counts import OUTCOMES, ArmCounts, check_variants

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
    check_variants({event.variant for event in events})
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


def pair(arm: ArmCounts, reference: ArmCounts, *, names: tuple[str, str], seed: int) -> PairedShares:
    """Differences over the pairs of both arms' sample keys, with sign-flip tests by problem.

    Args:
        arm: What is compared.
        reference: With what.
        names: What the two are called, should they not fit.
        seed: Of the intervals.

    Raises:
        InputError: The two do not hold the same sample keys.
    """
    other = reference.in_order_of(arm, names=names)
    pairs = arm.by_problem("completions")

    def difference(outcome: str) -> tuple[Estimate, list[float]]:
        sums = (arm.by_problem(outcome) - other.by_problem(outcome)).tolist()
        return clustered_mean(sums, pairs.tolist(), n=arm.completions, seed=seed), sums

    (backtracking, changes), (accuracy, gains) = difference("backtracking"), difference("right")
    (unparsed, _), (truncated, _) = difference("unparsed"), difference("truncated")
    return PairedShares(
        pairs=arm.completions,
        backtracking=backtracking,
        accuracy=accuracy,
        unparsed=unparsed,
        truncated=truncated,
        accuracy_flag=accuracy_flag(unparsed, truncated),
        backtracking_p=flip_p_value(changes, seed=seed),
        accuracy_p=flip_p_value(gains, seed=seed),
    )


def accuracy_flag(unparsed: Estimate, truncated: Estimate) -> str:
    """Why arms that differ so in unparsed and truncated shares cannot be compared in accuracy; or empty."""
    reasons = [
        f"{word} share differs by {100 * share.value:+.1f} points"
        for word, share in (("unparsed", unparsed), ("truncated", truncated))
        if abs(share.value) > FLAG_MARGIN or share.low > 0 or share.high < 0
    ]
    return "; ".join(reasons)


def verdict_shares(arm: ArmCounts, *, seed: int) -> dict[str, Estimate]:
    """Share of each verdict, of backtracking and of degenerate completions, by name."""
    counts = arm.by_problem("completions").tolist()
    return {name: clustered_share(arm.by_problem(name).tolist(), counts, seed=seed) for name in OUTCOMES}


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
    columns = []
    for field in fields(kind):
        columns += [field.name, *(f"{field.name}_{end}" for end in ("low", "high") if field.name in estimates)]
    return pd.DataFrame(lines, columns=columns)
