"""Corrections without the word: how often a value changes in a text without any trigger, arm by arm and paired."""

from collections.abc import Mapping
from dataclasses import dataclass

from backtracking.core.errors import InputError
from backtracking.core.interventions import BASELINE
from backtracking.core.multiplicity import holm
from backtracking.core.statistics import Estimate, clustered_rate, paired_difference, paired_p_value
from backtracking.measures.arms import Key


@dataclass(frozen=True)
class SilentChanges:
    """One condition; the comparison is missing for the baseline itself, and where there is none."""

    share: Estimate
    """Of all completions of the condition."""
    difference: Estimate | None
    """Condition minus baseline over pairs of the same problem and sample; positive means the condition has more."""
    p: float
    """Two-sided, by flipping the sign of whole problems."""
    p_holm: float
    """Adjusted over the conditions."""


def silent_changes(silent: Mapping[str, Mapping[Key, bool]], *, seed: int = 0) -> dict[str, SilentChanges]:
    """Share of each condition, and its difference from the baseline.

    Args:
        silent: For each condition, whether each of its samples changes a value without any trigger.
        seed: Of the intervals.

    Raises:
        InputError: A condition does not hold the samples of the baseline.
    """
    reference = silent.get(BASELINE.name)
    others = [name for name in silent if reference is not None and name != BASELINE.name]
    differences: dict[str, tuple[Estimate, float]] = {}
    for name in others:
        assert reference is not None
        differences[name] = _against(silent[name], reference, name, seed)
    adjusted = dict(zip(others, holm([p for _, p in differences.values()]), strict=True))
    found = {}
    for name, arm in silent.items():
        share = clustered_rate(list(arm.values()), [problem for problem, _ in arm], seed=seed)
        difference, p = differences.get(name, (None, float("nan")))
        found[name] = SilentChanges(share, difference, p, adjusted.get(name, float("nan")))
    return found


def _against(arm: Mapping[Key, bool], reference: Mapping[Key, bool], name: str, seed: int) -> tuple[Estimate, float]:
    alone = arm.keys() ^ reference.keys()
    if alone:
        raise InputError(
            f"condition {name!r} and the baseline do not hold the same sample keys ({len(alone)} are in one alone); "
            "sample both in full"
        )
    problems = [problem for problem, _ in arm]
    own, other = list(arm.values()), [reference[key] for key in arm]
    return paired_difference(own, other, problems, seed=seed), paired_p_value(own, other, problems, seed=seed)
