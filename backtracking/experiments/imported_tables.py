"""Tables of an imported run: arms with clustered intervals, and arms in pairs, as published and regraded.

Arms are never pooled over conditions. Rows whose problem is not at hand have no regraded verdict and are left
out of the regraded shares, which say of how many rows they are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from backtracking.core.interventions import BASELINE
from backtracking.core.multiplicity import holm
from backtracking.core.statistics import Estimate, clustered_rate, paired_difference, paired_p_value
from backtracking.experiments.published import SweepCell
from backtracking.measures.arms import accuracy_flag

ALL_VARIANTS = "(all)"
NOTHING = Estimate(math.nan, math.nan, math.nan, 0, 0)
"""A share of no rows at all."""


@dataclass(frozen=True)
class ImportedArm:
    """One condition of one formatting variant, over the rows of the folder."""

    variant: str
    condition: str
    completions: int
    problems: int
    backtracking: Estimate
    stored_accuracy: Estimate
    """By the study's own verdicts; a missing one counts as not right, as the study counts it."""
    right: Estimate
    """Regraded from the stored answer strings."""
    wrong: Estimate
    unparsed: Estimate
    regraded: int
    """Rows with a regraded verdict."""
    at_cap: float
    """Share of stored lengths at the limit; they count padding, so at most so many were cut off."""
    published_completions: float
    """Rows that the study's own tables speak of; NaN where they give no number. So are the next two."""
    published_backtracking: float
    published_accuracy: float


@dataclass(frozen=True)
class ImportedPair:
    """One condition minus the baseline of its variant, over the same problems and sample numbers."""

    variant: str
    condition: str
    pairs: int
    backtracking: Estimate
    backtracking_p: float
    backtracking_p_holm: float
    stored_accuracy: Estimate
    accuracy: Estimate
    """Regraded; over pairs of which both have a verdict."""
    unparsed: Estimate
    accuracy_flag: str


@dataclass(frozen=True)
class ImportedCell:
    """One condition of a sweep of phase 2, of which the folder has counts alone."""

    sweep: str
    subset: str
    scale: float
    completions: int
    backtracking: Estimate
    """With Wilson's interval, as if the samples of a problem all agreed: too wide rather than too narrow."""
    published_accuracy: float


def arms_table(
    events: pd.DataFrame, published: Mapping[tuple[str, str], Mapping[str, float]], *, seed: int
) -> tuple[ImportedArm, ...]:
    """Every condition of every variant, and first the baseline over all variants, as the study states it.

    Args:
        events: Of `regraded_events`.
        published: By variant and condition what the study states: total, backtracking_rate, accuracy.
        seed: Of the bootstrap.
    """
    found = [
        _arm(variant, condition, _of(events, variant=variant, condition=condition), published, seed)
        for variant, condition in dict.fromkeys(zip(events["variant"], events["condition"], strict=True))
    ]
    if len(set(events["variant"])) > 1:
        rows = _of(events, condition=BASELINE.name)
        if len(rows):
            found.insert(0, _arm(ALL_VARIANTS, BASELINE.name, rows, {}, seed))
    return tuple(found)


def pairs_table(events: pd.DataFrame, *, seed: int) -> tuple[tuple[ImportedPair, ...], tuple[str, ...]]:
    """Each condition against the baseline of its variant, and a line for each that cannot be paired."""
    found: list[ImportedPair] = []
    refused: list[str] = []
    for variant in dict.fromkeys(events["variant"]):
        reference = _of(events, variant=variant, condition=BASELINE.name)
        for name in dict.fromkeys(_of(events, variant=variant)["condition"]):
            arm = _of(events, variant=variant, condition=name)
            if name == BASELINE.name:
                continue
            joined = arm.merge(reference, on=["example_id", "sample_id"], suffixes=("", "_base"), how="inner")
            if not len(joined) == len(arm) == len(reference):
                refused.append(
                    f"{name} ({variant}) is not paired: it and the baseline do not hold the same problems and samples."
                )
                continue
            found.append(_pair(str(variant), str(name), joined, seed))
    adjusted = holm([each.backtracking_p for each in found]) if found else []
    return (
        tuple(replace(each, backtracking_p_holm=p) for each, p in zip(found, adjusted, strict=True)),
        tuple(refused),
    )


def cells_table(sweep: str, cells: Sequence[SweepCell], *, samples: int) -> tuple[ImportedCell, ...]:
    """The conditions of a sweep; `samples` of each problem are counted as one."""
    return tuple(
        ImportedCell(
            sweep,
            cell.subset,
            cell.scale,
            cell.total,
            Estimate(cell.backtracking / cell.total, *cell.interval(samples), cell.total, cell.total // samples),
            cell.correct / cell.total,
        )
        for cell in cells
    )


def _arm(
    variant: str,
    condition: str,
    rows: pd.DataFrame,
    published: Mapping[tuple[str, str], Mapping[str, float]],
    seed: int,
) -> ImportedArm:
    graded = pd.DataFrame(rows[rows["verdict"].notna()])
    stated = published.get((variant, condition), {})
    nan = math.nan
    return ImportedArm(
        variant=variant,
        condition=condition,
        completions=len(rows),
        problems=len(set(rows["example_id"])),
        backtracking=_rate(rows, list(rows["has_backtracking_strict"]), seed),
        stored_accuracy=_rate(rows, _right(rows, "stored_correct"), seed),
        right=_rate(graded, list(graded["verdict"] == "right"), seed),
        wrong=_rate(graded, list(graded["verdict"] == "wrong"), seed),
        unparsed=_rate(graded, list(graded["verdict"] == "unparsed"), seed),
        regraded=len(graded),
        at_cap=sum(rows["at_cap"]) / len(rows),
        published_completions=float(stated.get("total", nan)),
        published_backtracking=float(stated.get("backtracking_rate", nan)),
        published_accuracy=float(stated.get("accuracy", nan)),
    )


def _pair(variant: str, condition: str, joined: pd.DataFrame, seed: int) -> ImportedPair:
    graded = pd.DataFrame(joined[joined["verdict"].notna() & joined["verdict_base"].notna()])
    problems = list(joined["example_id"])
    backtracking = (list(joined["has_backtracking_strict"]), list(joined["has_backtracking_strict_base"]))
    stored = (_right(joined, "stored_correct"), _right(joined, "stored_correct_base"))
    p = paired_p_value(*backtracking, problems, seed=seed)
    unparsed = _difference(graded, "unparsed", seed)
    return ImportedPair(
        variant=variant,
        condition=condition,
        pairs=len(joined),
        backtracking=paired_difference(*backtracking, problems, seed=seed),
        backtracking_p=p,
        backtracking_p_holm=p,
        stored_accuracy=paired_difference(*stored, problems, seed=seed),
        accuracy=_difference(graded, "right", seed),
        unparsed=unparsed,
        accuracy_flag=""
        if math.isnan(unparsed.value)
        else accuracy_flag(unparsed, replace(unparsed, value=0, low=0, high=0)),
    )


def _rate(rows: pd.DataFrame, outcomes: list[bool], seed: int) -> Estimate:
    return clustered_rate(outcomes, list(rows["example_id"]), seed=seed) if len(rows) else NOTHING


def _difference(joined: pd.DataFrame, word: str, seed: int) -> Estimate:
    if not len(joined):
        return NOTHING
    arm, base = (list(joined[column] == word) for column in ("verdict", "verdict_base"))
    return paired_difference(arm, base, list(joined["example_id"]), seed=seed)


def _right(rows: pd.DataFrame, column: str) -> list[bool]:
    return [not pd.isna(value) and bool(value) for value in rows[column]]


def _of(events: pd.DataFrame, **values: str) -> pd.DataFrame:
    """The rows with these values in these columns."""
    for column, value in values.items():
        events = pd.DataFrame(events[events[column] == value])
    return events
