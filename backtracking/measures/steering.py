"""Steering sweep: directions x magnitudes on one half of the problems, the best one beside its controls on the other.

Both signs of every magnitude are sampled, all arms of a half in one packed batch with shared noise. The best cell is
chosen on the first half alone; what is reported about it comes from the second, where the same number of random
directions of its length is sampled at every magnitude.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd

from backtracking.core.completions import Completions
from backtracking.core.errors import InputError
from backtracking.core.null_draws import MINIMUM_DRAWS, NullRank, measured_rank
from backtracking.core.problems import Problem, check_problems
from backtracking.core.prompts import VARIANTS
from backtracking.measures.steering_arms import (
    NO_STEERING,
    SteeringArm,
    ablation_arm,
    check_magnitudes,
    control_arms,
    direction_arms,
    noise_name,
    random_arms,
)
from backtracking.measures.steering_choice import Aim, Chosen, choose
from backtracking.measures.steering_controls import noise_arm
from backtracking.measures.steering_directions import Direction
from backtracking.measures.steering_outcomes import BACKTRACKING, Half, OutcomeRow, Reader, measure_half, rows_to_pandas
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling import sample


@dataclass(frozen=True)
class SteeringSampling:
    """How completions of a sweep are sampled; see `sample`."""

    samples: int = 1
    max_new_tokens: int = 512
    temperature: float = 0.7
    top_p: float = 0.95
    variant: str = VARIANTS[0].name
    rows: int | None = None


@dataclass(frozen=True)
class CellRank:
    """A cell of the report half beside random directions of its length; effects are arm minus baseline."""

    outcome: str
    magnitude: float
    rank: NullRank

    @property
    def beyond(self) -> bool | None:
        """Whether the effect is outside the range that holds 95 % of the random directions; None if there is no range.

        There is none where the outcome could not be measured under the direction or under one of the random ones;
        `rank.draws` is the number of those under which it could.
        """
        if self.rank.as_extreme is None:
            return None
        return not self.rank.low <= self.rank.effect <= self.rank.high


@dataclass(frozen=True)
class SteeringSweep:
    """Every cell of the sweep on the selection half, and the chosen direction on the report half."""

    target: str
    aim: Aim
    rows: tuple[OutcomeRow, ...]
    chosen: Chosen | None
    """None if no cell left enough completions whole, or changed anything; nothing is reported then."""
    ranks: tuple[CellRank, ...]
    """One for every outcome and magnitude of the chosen direction."""
    draws: int
    selection_problems: tuple[int | str, ...]
    report_problems: tuple[int | str, ...]

    def row(self, magnitude: float, *, outcome: str | None = None, half: Half = "report") -> OutcomeRow:
        """The row of the chosen direction at a signed magnitude.

        Raises:
            InputError: Nothing was chosen, or not at that magnitude.
        """
        for row in self.rows:
            mine = self.chosen is not None and row.label == self.chosen.label and row.role == "direction"
            if mine and (row.half, row.outcome, row.magnitude) == (half, outcome or self.target, magnitude):
                return row
        raise InputError(f"the sweep reports nothing at the magnitude {magnitude}; it chose {self.chosen}")

    def to_pandas(self, half: Half | None = None) -> pd.DataFrame:
        """One row per half, outcome and arm; each estimate as three columns."""
        return rows_to_pandas([row for row in self.rows if half in (None, row.half)])

    def ranks_to_pandas(self) -> pd.DataFrame:
        """One row per outcome and magnitude of the chosen direction: its effect beside the random directions'.

        `draws` is how many random directions were measured. Where that is not all of them, or the effect is missing,
        the range, the p-value and `beyond` are.
        """
        names = ["outcome", "magnitude", *(field.name for field in fields(NullRank)), "beyond"]
        rows = [
            {"outcome": e.outcome, "magnitude": e.magnitude, **vars(e.rank), "beyond": e.beyond} for e in self.ranks
        ]
        return pd.DataFrame(rows, columns=names)


def steering_sweep(
    model: HookedReasoner,
    problems: Sequence[Problem],
    directions: Sequence[Direction],
    *,
    magnitudes: Sequence[float] = (0.5, 1.0, 2.0),
    target: str = BACKTRACKING,
    outcomes: Mapping[str, Reader] | None = None,
    aim: Aim = "both",
    controls: Sequence[Direction] = (),
    draws: int = MINIMUM_DRAWS,
    most_broken: float = 0.1,
    sampling: SteeringSampling | None = None,
    seed: int = 0,
) -> SteeringSweep:
    """Steer along every direction at every magnitude and both signs; choose on one half, report on the other.

    On the report half stand, beside the chosen direction at every magnitude: random directions of its length, noise
    (a random direction of its own for every completion), the controls given, at the chosen magnitudes, and the
    direction removed (`Project`).

    Args:
        model: The reasoner.
        problems: None of which a direction was made from.
        directions: Cells of the sweep, with different labels.
        magnitudes: Above 0, in units of each direction's length.
        target: The outcome that is to change: `backtracking`, `right`, `broken`, `degenerate`, or one of yours.
        outcomes: More outcomes by name; what each completion adds to a share.
        aim: `both` chooses the direction whose smaller effect of the two ways is largest.
        controls: Other directions, such as `self_direction` and `other_direction`.
        draws: Random directions; 20 at least.
        most_broken: A cell is not chosen if its share of unparsed or truncated completions exceeds the baseline's by
            more than this, since a broken model backtracks differently for other reasons.
        sampling: How completions are sampled.
        seed: Of the halves, the noise, the random directions and the intervals.

    Raises:
        InputError: Something given cannot be used; a problem served to make a direction; too few problems or draws.
    """
    found = check_magnitudes(magnitudes)
    _check(directions, controls, problems, draws)
    halves = _halves(problems, seed)
    run = _Run(model, dict(outcomes or {}), sampling or SteeringSampling(), seed)
    cells = [arm for direction in directions for arm in direction_arms(direction, found)]
    rows = run.half("selection", halves[0], [NO_STEERING, *cells])
    if target not in {row.outcome for row in rows}:
        raise InputError(f"no outcome is called {target!r}; there are {sorted({row.outcome for row in rows})}")
    chosen = choose(rows, target=target, aim=aim, most_broken=most_broken)
    ranks: tuple[CellRank, ...] = ()
    if chosen is not None:
        direction = next(each for each in directions if str(each) == chosen.label)
        signed = [each for each in (chosen.raising, chosen.lowering) if each is not None]
        others = [
            *random_arms(direction, found, draws, seed=seed),
            *control_arms(controls, signed),
            ablation_arm(direction),
        ]
        reported = run.half("report", halves[1], [NO_STEERING, *direction_arms(direction, found), *others])
        ranks, rows = _ranks(reported), rows + reported
    ids = [tuple(problem.id for problem in half) for half in halves]
    return SteeringSweep(target, aim, rows, chosen, ranks, draws, ids[0], ids[1])


@dataclass(frozen=True)
class _Run:
    """What both halves share."""

    model: HookedReasoner
    outcomes: dict[str, Reader]
    sampling: SteeringSampling
    seed: int

    def half(self, half: Half, problems: Sequence[Problem], arms: Sequence[SteeringArm]) -> tuple[OutcomeRow, ...]:
        """Sample every arm in one batch and measure it; noise is put together from the random arms."""
        conditions = [arm.condition for arm in arms]
        completions = sample(self.model, problems, conditions=conditions, seed=self.seed, **vars(self.sampling))
        every = list(arms)
        for magnitude in sorted({arm.magnitude for arm in arms if arm.role == "random"}):
            drawn = [a.condition.name for a in arms if a.role == "random" and a.magnitude == magnitude]
            noise = noise_name(magnitude)
            completions = completions + Completions(noise_arm(completions, drawn, name=noise.condition.name))
            every.append(noise)
        return measure_half(half, completions, problems, every, outcomes=self.outcomes, seed=self.seed)


def _ranks(rows: Sequence[OutcomeRow]) -> tuple[CellRank, ...]:
    random: dict[tuple[str, float], list[float]] = {}
    for row in rows:
        if row.role == "random":
            random.setdefault((row.outcome, row.magnitude), []).append(row.change.value)
    return tuple(
        CellRank(row.outcome, row.magnitude, measured_rank(row.change.value, random[row.outcome, abs(row.magnitude)]))
        for row in rows
        if row.role == "direction"
    )


def _halves(problems: Sequence[Problem], seed: int) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """Two halves at random, the order kept."""
    first = set(np.random.default_rng(seed).permutation(len(problems))[: len(problems) // 2].tolist())
    return (
        tuple(problem for index, problem in enumerate(problems) if index in first),
        tuple(problem for index, problem in enumerate(problems) if index not in first),
    )


def _check(
    directions: Sequence[Direction], controls: Sequence[Direction], problems: Sequence[Problem], draws: int
) -> None:
    check_problems(problems)
    labels = [str(direction) for direction in directions]
    if not labels or len(set(labels)) < len(labels):
        raise InputError(f"the sweep needs different directions, not {labels or 'none'}")
    if len(problems) < 4:
        raise InputError(f"{len(problems)} problems cannot be halved for choosing and reporting; give at least 4")
    if draws < MINIMUM_DRAWS:
        raise InputError(f"{draws} random directions are no null distribution; draw at least {MINIMUM_DRAWS}")
    asked = {problem.id for problem in problems}
    for direction in (*directions, *controls):
        both = sorted(asked & set(direction.fitted_on), key=str)
        if both:
            raise InputError(f"problem {both[0]!r} served to make {direction}; steer on problems it has not seen")
