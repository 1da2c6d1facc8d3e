"""Forks: a baseline completion cut right before its onset token, and continued in several arms.

Every arm continues the same prefixes with the same noise. The arm "resample" continues without any
intervention. Completions are cut where they backtracked, and sampling again from there already rescues
many wrong ones and breaks some right ones, so the shares of an intervention mean something only beside
those of "resample": every row carries both, and nothing is computed without that arm.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from backtracking.core.clustered_means import clustered_average
from backtracking.core.errors import InputError
from backtracking.core.grading import Outcome
from backtracking.core.multiplicity import holm
from backtracking.core.statistics import Estimate, clustered_rate, paired_difference, paired_p_value
from backtracking.measures.arms import frame

RESAMPLE = "resample"
Key = tuple[int | str, int, int]


@dataclass(frozen=True)
class Fork:
    """One continuation of one prefix."""

    problem_id: int | str
    sample_id: int
    """Of the baseline completion that was cut."""
    fork_sample: int
    """Number of the continuation among those of its prefix and arm, from 0; arms share its noise."""
    arm: str
    original_right: bool
    """Whether the completion that was cut had answered right."""
    triggers_at_once: bool
    """Whether the continuation begins with a trigger that counts; blank text before it is passed over."""
    triggered_again: bool
    """Whether a trigger that counts stands in the continuation's first sentence, blank text passed over."""
    triggers_later: bool
    """Whether a trigger that counts stands anywhere but at the beginning."""
    right: bool
    verdict: Outcome
    tokens: int
    """Sampled tokens of the continuation."""
    degenerate: bool


@dataclass(frozen=True)
class ForkRow:
    """One arm. Rescued are the originals that were wrong and are now right; broken were right and are not."""

    arm: str
    forks: int
    problems: int
    triggers_at_once: Estimate
    triggered_again: Estimate
    triggers_later: Estimate
    accuracy: Estimate
    rescued: Estimate | None
    """Of the forks whose original was wrong; None if there are none."""
    rescued_by_resample: Estimate | None
    """The same of the unsteered arm: what sampling again does alone."""
    broken: Estimate | None
    """Of the forks whose original was right; None if there are none."""
    broken_by_resample: Estimate | None
    unparsed: Estimate
    truncated: Estimate
    degenerate: Estimate
    tokens: Estimate


@dataclass(frozen=True)
class ForkDifference:
    """One outcome of an arm minus that of "resample", paired by problem, sample and fork sample.

    Positive means that the arm has more.
    """

    arm: str
    outcome: str
    pairs: int
    difference: Estimate
    p: float
    """Two-sided, by flipping the sign of whole problems."""
    p_holm: float
    """Adjusted over the arms, for this outcome."""


@dataclass(frozen=True)
class ForkStudy:
    """All arms, and each against the unsteered continuation."""

    rows: tuple[ForkRow, ...]
    differences: tuple[ForkDifference, ...]

    def difference(self, arm: str, outcome: str) -> ForkDifference:
        """Return the difference of that arm and outcome."""
        return next(row for row in self.differences if (row.arm, row.outcome) == (arm, outcome))

    def to_pandas(self) -> pd.DataFrame:
        """One row per arm; each share as three columns: name, name_low, name_high; NaN where missing."""
        return frame(self.rows, ForkRow)

    def differences_to_pandas(self) -> pd.DataFrame:
        """One row per arm and outcome."""
        return frame(self.differences, ForkDifference)


_OUTCOMES: dict[str, Callable[[Fork], float]] = {
    "triggers_at_once": lambda fork: fork.triggers_at_once,
    "triggered_again": lambda fork: fork.triggered_again,
    "triggers_later": lambda fork: fork.triggers_later,
    "accuracy": lambda fork: fork.right,
    "unparsed": lambda fork: fork.verdict == "unparsed",
    "truncated": lambda fork: fork.verdict == "truncated",
    "degenerate": lambda fork: fork.degenerate,
    "rescued": lambda fork: fork.right,
    "broken": lambda fork: not fork.right,
    "tokens": lambda fork: fork.tokens,
}
_OF_ORIGINALS = {"rescued": False, "broken": True}
"""Outcomes that are shares of the forks whose original was right, or was not."""


def compare_forks(forks: Sequence[Fork], *, seed: int = 0) -> ForkStudy:
    """Measure each arm of a fork study in the order in which arms occur, and against "resample".

    Raises:
        InputError: There are no forks, the arm "resample" is missing, an arm has two forks of one key or not the
            keys of "resample", or records contradict each other or themselves.
    """
    arms = _arms(forks)
    resampled = arms[RESAMPLE]
    rows = tuple(_row(name, arm, resampled, seed) for name, arm in arms.items())
    others = [name for name in arms if name != RESAMPLE]
    found: list[ForkDifference] = []
    for outcome in _OUTCOMES:
        differences = [_difference(name, arms[name], resampled, outcome, seed) for name in others]
        present = [difference for difference in differences if difference is not None]
        adjusted = holm([each.p for each in present])
        found += [replace(each, p_holm=p) for each, p in zip(present, adjusted, strict=True)]
    return ForkStudy(rows, tuple(sorted(found, key=lambda row: others.index(row.arm))))


def _arms(forks: Sequence[Fork]) -> dict[str, dict[Key, Fork]]:
    if not forks:
        raise InputError("no forks to compare; continue some baseline completions first")
    arms: dict[str, dict[Key, Fork]] = {}
    originals: dict[tuple[int | str, int], bool] = {}
    for fork in forks:
        key, arm = (fork.problem_id, fork.sample_id, fork.fork_sample), arms.setdefault(fork.arm, {})
        where = f"problem {fork.problem_id!r}, sample {fork.sample_id}, fork sample {fork.fork_sample}"
        if key in arm:
            raise InputError(f"the arm {fork.arm!r} has {where} twice; arms are never pooled: give each run alone")
        if originals.setdefault(key[:2], fork.original_right) != fork.original_right:
            raise InputError(f"forks disagree whether the original of {where} was right; grade it once")
        if fork.right != (fork.verdict == "right"):
            raise InputError(f"the fork of {where} in {fork.arm!r} has right={fork.right}, but is {fork.verdict!r}")
        arm[key] = fork
    if RESAMPLE not in arms:
        raise InputError(
            f"no arm is called {RESAMPLE!r}, only {list(arms)}: sampling again rescues answers by itself, "
            "so continue every prefix without intervention too"
        )
    for name, arm in arms.items():
        if set(arm) != set(arms[RESAMPLE]):
            apart = len(set(arm) ^ set(arms[RESAMPLE]))
            raise InputError(f"arm {name!r} and {RESAMPLE!r} do not hold the same forks ({apart} are in one alone)")
    return arms


def _of(arm: dict[Key, Fork], outcome: str) -> dict[Key, Fork]:
    wanted = _OF_ORIGINALS.get(outcome)
    return {key: fork for key, fork in arm.items() if wanted is None or fork.original_right == wanted}


def _row(name: str, arm: dict[Key, Fork], resampled: dict[Key, Fork], seed: int) -> ForkRow:
    def share(outcome: str, of: dict[Key, Fork]) -> Estimate | None:
        kept, read = list(_of(of, outcome).values()), _OUTCOMES[outcome]
        problems = [fork.problem_id for fork in kept]
        return clustered_rate([bool(read(fork)) for fork in kept], problems, seed=seed) if kept else None

    problems = [fork.problem_id for fork in arm.values()]
    shares = {outcome: share(outcome, arm) for outcome in _OUTCOMES if outcome != "tokens"}
    return ForkRow(
        arm=name,
        forks=len(arm),
        problems=len(set(problems)),
        rescued_by_resample=share("rescued", resampled),
        broken_by_resample=share("broken", resampled),
        tokens=clustered_average([fork.tokens for fork in arm.values()], problems, seed=seed),
        **shares,  # pyright: ignore[reportArgumentType] - only rescued and broken can be None
    )


def _difference(
    name: str, arm: dict[Key, Fork], resampled: dict[Key, Fork], outcome: str, seed: int
) -> ForkDifference | None:
    kept, read = _of(arm, outcome), _OUTCOMES[outcome]
    if not kept:
        return None
    values = [read(fork) for fork in kept.values()]
    reference = [read(resampled[key]) for key in kept]
    problems = [key[0] for key in kept]
    if outcome == "tokens":
        apart = [one - other for one, other in zip(values, reference, strict=True)]
        difference = clustered_average(apart, problems, seed=seed)
    else:
        flags, others = ([bool(value) for value in side] for side in (values, reference))
        difference = paired_difference(flags, others, problems, seed=seed)
    p = paired_p_value(values, reference, problems, seed=seed)
    return ForkDifference(name, outcome, len(kept), difference, p, float("nan"))
