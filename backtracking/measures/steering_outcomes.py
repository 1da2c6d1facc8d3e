"""What steering did to a half of the problems: every outcome of every arm, against the baseline."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from backtracking.core.completions import Completion, Completions
from backtracking.core.errors import InputError
from backtracking.core.events import Event, detect_events
from backtracking.core.multiplicity import holm
from backtracking.core.paired_shares import Counted, paired_share_difference
from backtracking.core.problems import Problem
from backtracking.core.statistics import Estimate, clustered_share
from backtracking.measures.point_activations import window_text
from backtracking.measures.steering_arms import Role, SteeringArm

Half = Literal["selection", "report"]
Reader = Callable[[Completion], Counted]
"""What one completion adds to a share, such as wrong steps followed by a trigger out of wrong steps."""

BACKTRACKING, RIGHT, BROKEN = "backtracking", "right", "broken"
_BUILT_IN: dict[str, Callable[[Event], bool]] = {
    BACKTRACKING: lambda event: event.has_backtracking_strict,
    RIGHT: lambda event: event.is_correct,
    BROKEN: lambda event: event.verdict in ("unparsed", "truncated"),
    "degenerate": lambda event: event.degenerate,
}


@dataclass(frozen=True)
class OutcomeRow:
    """One outcome of one arm on one half of the problems."""

    half: Half
    condition: str
    role: Role
    label: str
    site: str
    window: str
    method: str
    magnitude: float
    """Signed, in units of the direction's length."""
    length: float
    """Of what is added, as a share of the mean length of the activations there."""
    outcome: str
    completions: int
    share: Estimate
    """NaN with n = 0 where nothing was counted; n is what was counted."""
    change: Estimate
    """Arm minus baseline over the same samples, whose noise they share."""
    p: float
    p_holm: float
    """After Holm over the arms of that role in the half, for that outcome."""


def measure_half(
    half: Half,
    completions: Completions,
    problems: Sequence[Problem],
    arms: Sequence[SteeringArm],
    *,
    outcomes: Mapping[str, Reader],
    seed: int,
) -> tuple[OutcomeRow, ...]:
    """Every outcome of every arm, the baseline first.

    Raises:
        InputError: An outcome has the name of a built-in one.
    """
    taken = sorted(set(outcomes) & set(_BUILT_IN))
    if taken:
        raise InputError(f"the outcome {taken[0]!r} exists already; choose another name")
    counted = _counted(completions, problems, outcomes)
    return tuple(
        row
        for outcome in (*outcomes, *_BUILT_IN)
        for row in _rows(half, outcome, {name: found[outcome] for name, found in counted.items()}, arms, seed)
    )


def rows_to_pandas(rows: Sequence[OutcomeRow]) -> pd.DataFrame:
    """One line per row; `share` and `change` as three columns each, and `counted`, what the share is of."""
    lines = []
    for row in rows:
        line = {name: value for name, value in vars(row).items() if not isinstance(value, Estimate)}
        for name in ("share", "change"):
            found: Estimate = getattr(row, name)
            line |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        lines.append(line | {"counted": row.share.n})
    return pd.DataFrame(lines)


@dataclass(frozen=True)
class _Arm:
    """Rows of one arm in the order of the plan."""

    rows: tuple[Counted, ...]
    problems: tuple[int | str, ...]


def _counted(
    completions: Completions, problems: Sequence[Problem], outcomes: Mapping[str, Reader]
) -> dict[str, dict[str, _Arm]]:
    events, _ = detect_events(completions, problems)
    held: dict[str, list[tuple[Completion, Event]]] = {}
    for completion, event in zip(completions, events, strict=True):
        held.setdefault(completion.condition, []).append((completion, event))
    found: dict[str, dict[str, _Arm]] = {}
    for name, pairs in held.items():
        ids = tuple(event.example_id for _, event in pairs)
        own = {key: _Arm(tuple(reader(completion) for completion, _ in pairs), ids) for key, reader in outcomes.items()}
        built = {
            key: _Arm(tuple(Counted(int(read(event)), 1) for _, event in pairs), ids) for key, read in _BUILT_IN.items()
        }
        found[name] = own | built
    return found


def _rows(half: Half, outcome: str, found: dict[str, _Arm], arms: Sequence[SteeringArm], seed: int) -> list[OutcomeRow]:
    reference = found[arms[0].condition.name]
    differences = [
        paired_share_difference(found[arm.condition.name].rows, reference.rows, reference.problems, seed=seed)
        for arm in arms
    ]
    adjusted = np.full(len(arms), np.nan)
    for role in {arm.role for arm in arms} - {"baseline"}:
        mine = [index for index, arm in enumerate(arms) if arm.role == role]
        adjusted[mine] = holm([differences[index].p for index in mine])
    rows = []
    for arm, difference, p_holm in zip(arms, differences, adjusted.tolist(), strict=True):
        own = found[arm.condition.name]
        rows.append(
            OutcomeRow(
                half=half,
                condition=arm.condition.name,
                role=arm.role,
                label=arm.label,
                **_direction(arm),
                outcome=outcome,
                completions=len(own.rows),
                share=_share(own, seed),
                change=difference.change,
                p=difference.p if arm.role != "baseline" else float("nan"),
                p_holm=p_holm,
            )
        )
    return rows


def _direction(arm: SteeringArm) -> dict:
    direction, magnitude = arm.direction, arm.magnitude
    if direction is None:
        return {"site": "", "window": "", "method": arm.label, "magnitude": magnitude, "length": float("nan")}
    return {
        "site": str(direction.site),
        "window": window_text(direction.window),
        "method": direction.method,
        "magnitude": magnitude,
        "length": abs(magnitude) * direction.relative_norm,
    }


def _share(arm: _Arm, seed: int) -> Estimate:
    hits: dict[int | str, int] = {}
    counts: dict[int | str, int] = {}
    for row, problem in zip(arm.rows, arm.problems, strict=True):
        hits[problem] = hits.get(problem, 0) + row.hits
        counts[problem] = counts.get(problem, 0) + row.of
    if not sum(counts.values()):
        missing = float("nan")
        return Estimate(missing, missing, missing, 0, 0)
    return clustered_share(list(hits.values()), list(counts.values()), seed=seed)
