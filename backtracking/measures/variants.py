"""The formatting sweep: does the baseline's backtracking depend on how the question is put?

Baseline completions alone, one arm per formatting variant, compared within problem and sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import pandas as pd

from backtracking.core.errors import InputError
from backtracking.core.events import Event
from backtracking.core.interventions import BASELINE
from backtracking.core.multiplicity import holm
from backtracking.core.statistics import Estimate
from backtracking.measures.arm_counts import ArmCounts
from backtracking.measures.arms import frame, pair, verdict_shares


@dataclass(frozen=True)
class VariantRow:
    """One formatting variant: shares of its baseline completions, each with its interval."""

    variant: str
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
class VariantPair:
    """One variant minus another over the same problems and samples; positive means that `variant` has more."""

    variant: str
    minus: str
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
    """Adjusted over all pairs of variants."""
    accuracy_p: float
    accuracy_p_holm: float


@dataclass(frozen=True)
class VariantComparison:
    """All variants, and each pair of them."""

    rows: tuple[VariantRow, ...]
    pairs: tuple[VariantPair, ...]

    def to_pandas(self) -> pd.DataFrame:
        """One row per variant; each share as three columns: name, name_low, name_high."""
        return frame(self.rows, VariantRow)

    def pairs_to_pandas(self) -> pd.DataFrame:
        """One row per pair of variants, in the same form."""
        return frame(self.pairs, VariantPair)


def compare_variants(events: Sequence[Event], *, seed: int = 0) -> VariantComparison:
    """Compare the formatting variants in the order in which they occur, each with all later ones.

    Variants give a model different prompts, so pairs share the problem but no text; what is tested is
    whether problems differ, sample by sample, in one direction.

    Raises:
        InputError: There are no events, some are not of the baseline, a variant has two events of one
            sample, or variants do not hold the same samples.
    """
    if not events:
        raise InputError("no events to compare; sample the baseline under some variants first")
    others = sorted({event.condition for event in events} - {BASELINE.name})
    if others:
        raise InputError(f"variants are compared on the condition {BASELINE.name!r} alone; leave out {others}")
    arms: dict[str, list[Event]] = {}
    for event in events:
        arms.setdefault(event.variant, []).append(event)
    counts = {name: ArmCounts.of(name, arm) for name, arm in arms.items()}
    return VariantComparison(tuple(_row(arm, seed) for arm in counts.values()), _pairs(counts, seed))


def _row(arm: ArmCounts, seed: int) -> VariantRow:
    return VariantRow(
        variant=arm.name,
        completions=arm.completions,
        problems=len(arm.problems),
        mean_tokens=float(arm.by_problem("tokens").sum()) / arm.completions,
        **verdict_shares(arm, seed=seed),
    )


def _pairs(arms: dict[str, ArmCounts], seed: int) -> tuple[VariantPair, ...]:
    found = {
        (one, two): pair(arms[one], arms[two], names=(f"variant {one!r}", f"variant {two!r}"), seed=seed)
        for one, two in combinations(arms, 2)
    }
    backtracking_holm = holm([each.backtracking_p for each in found.values()])
    accuracy_holm = holm([each.accuracy_p for each in found.values()])
    return tuple(
        VariantPair(variant=one, minus=two, backtracking_p_holm=backtracking, accuracy_p_holm=accuracy, **vars(each))
        for ((one, two), each), backtracking, accuracy in zip(
            found.items(), backtracking_holm, accuracy_holm, strict=True
        )
    )
