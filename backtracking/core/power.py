"""What a paired study of conditions can find, before it is run.

The model: every problem is sampled `samples` times in each of two arms. Outcomes are yes or no, with
rates `baseline` and `baseline + difference`. Three correlations describe what the rows share:

- `intra`: two samples of one problem in one arm (problems are harder and easier);
- `pairing`: the same sample of the same problem in both arms (they share their noise too);
- `across`: different samples of one problem in different arms. It equals `intra` if the intervention
  shifts all problems alike, and is smaller where it helps some problems and hurts others.

The difference of one row has variance `v1 + v0 - 2 pairing sqrt(v1 v0)` with `v = p (1 - p)`, and at
least `|d| (1 - |d|)`, which is that of a difference never in the wrong direction. Two rows of one problem have
covariance `intra (v1 + v0) - 2 across sqrt(v1 v0)`. The test is taken as Student's with `problems - 1`
degrees of freedom, after a continuity correction of one row, `1 / (problems samples)`: the exact
sign-flip test counts differences on a lattice of step two rows, half of which counts against finding one.
`benchmarks/intervals.py` compares the result with simulated studies under `paired_p_value`.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal

import numpy as np
from scipy import stats
from scipy.optimize import brentq

from backtracking.core.errors import InputError

FEW_PROBLEMS = 16
"""Below so many, the exact test finds less than is announced: a rise of 10 points on 8 problems of 4 samples is to be
found in 10 % of studies, and is found in 4 % (`data/benchmarks/intervals.json`)."""


@dataclass(frozen=True)
class PairedDesign:
    """Two arms over the same problems and samples; the correlations as in the module's docstring."""

    problems: int
    samples: int
    """Per problem and arm."""
    baseline: float
    """Rate of the reference arm, as a share."""
    intra: float = 0.3
    pairing: float = 0.3
    across: float | None = None
    """None: equal to `intra`."""

    def __post_init__(self) -> None:
        if self.problems < 2 or self.samples < 1:
            raise InputError(
                f"{self.problems} problems x {self.samples} samples: at least 2 problems and 1 sample are needed"
            )
        if not 0 < self.baseline < 1:
            raise InputError(f"the baseline rate is {self.baseline}; give a share between 0 and 1")
        for name in ("intra", "pairing", "across"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{name} is {value}; a correlation between 0 and 1 is needed")


def design_effect(design: PairedDesign) -> float:
    """Variance of one arm's rate relative to independent samples: `1 + (samples - 1) intra` (Kish 1965)."""
    return 1 + (design.samples - 1) * design.intra


def standard_error(design: PairedDesign, difference: float = 0.0) -> float:
    """Standard error of the paired difference of rates, as a share.

    Raises:
        InputError: `baseline + difference` is no rate.
    """
    arm = design.baseline + difference
    if not 0 <= arm <= 1:
        raise InputError(f"baseline {design.baseline} and difference {difference:+} make the rate {arm:.3f}")
    v0, v1 = design.baseline * (1 - design.baseline), arm * (1 - arm)
    across = design.intra if design.across is None else design.across
    row = max(v1 + v0 - 2 * design.pairing * sqrt(v1 * v0), abs(difference) * (1 - abs(difference)))
    shared = max(min(design.intra * (v1 + v0) - 2 * across * sqrt(v1 * v0), row), -row / max(design.samples - 1, 1))
    return sqrt((row + (design.samples - 1) * shared) / (design.samples * design.problems))


def power(design: PairedDesign, difference: float, *, level: float = 0.05, comparisons: int = 1) -> float:
    """Chance of a two-sided paired test at the level to find a true difference of rates.

    With `comparisons` conditions under Holm the first is tested at `level / comparisons`; the power is
    computed for that, so it is a lower bound for the later ones. It is that of a t-test: with fewer than
    `FEW_PROBLEMS` the exact test finds less, and nothing where no signs of so few problems give a p-value
    as small as the level, 2 to the power of 1 - problems being the smallest.

    Raises:
        InputError: The level or the comparisons are impossible, or `baseline + difference` is no rate.
    """
    if not 0 < level < 1 or comparisons < 1:
        raise InputError(f"level {level} over {comparisons} comparisons; give a level in (0, 1) and at least one")
    error = standard_error(design, difference)
    if 2.0 ** (1 - design.problems) > level / comparisons:
        return 0.0
    beyond = abs(difference) - 1 / (design.problems * design.samples)
    if beyond <= 0:
        return level / comparisons
    if error == 0:
        return 1.0
    return _t_power(beyond / error, design.problems - 1, level / comparisons)


def minimum_detectable(
    design: PairedDesign,
    *,
    target: float = 0.8,
    level: float = 0.05,
    comparisons: int = 1,
    direction: Literal["down", "up"] = "down",
) -> float:
    """Smallest difference of rates found with the power `target`, as a positive share.

    NaN where even a fall to 0 (or a rise to 1) would not be found with it.

    Raises:
        InputError: The target is not between the level and 1.
    """
    if not level < target < 1:
        raise InputError(f"the target power is {target}; give a share above the level {level} and below 1")
    sign, most = (-1, design.baseline) if direction == "down" else (1, 1 - design.baseline)

    def missing(size: float) -> float:
        return power(design, sign * size, level=level, comparisons=comparisons) - target

    largest = most * (1 - 1e-9)
    if missing(largest) < 0:
        return float("nan")
    return float(brentq(missing, 1e-6, largest, xtol=1e-6))  # pyright: ignore[reportArgumentType]


def _t_power(shift: float, freedom: int, level: float) -> float:
    """Power of a two-sided t-test, averaging over what the estimated variance may be.

    `scipy.stats.nct` is the same in one call, but NaN for shifts beyond about 37.
    """
    grid = (np.arange(4000) + 0.5) / 4000
    bound = stats.t.isf(level / 2, freedom) * np.sqrt(stats.chi2.ppf(grid, freedom) / freedom)
    return float(np.mean(stats.norm.sf(bound - shift) + stats.norm.cdf(-bound - shift)))


def intra_correlation(outcomes: Sequence[bool], clusters: Sequence[Hashable]) -> float:
    """Correlation of two samples of one problem, estimated from a pilot: one-way analysis of variance (Donner 1986).

    Slightly negative by chance where problems hardly differ; NaN where no problem has two samples or all
    outcomes agree.

    Raises:
        InputError: Outcomes and clusters differ in length.
    """
    if len(outcomes) != len(clusters):
        raise InputError(f"{len(outcomes)} outcomes, but {len(clusters)} cluster labels")
    order: dict[Hashable, int] = {}
    index = np.array([order.setdefault(cluster, len(order)) for cluster in clusters], dtype=int)
    values = np.asarray(outcomes, dtype=float)
    n, k = len(values), len(order)
    if k < 2 or n == k or np.ptp(values) == 0:
        return float("nan")
    sizes = np.bincount(index)
    means = np.bincount(index, weights=values) / sizes
    between = float((sizes * (means - values.mean()) ** 2).sum() / (k - 1))
    within = float(((values - means[index]) ** 2).sum() / (n - k))
    size = (n - (sizes**2).sum() / n) / (k - 1)
    return float((between - within) / (between + (size - 1) * within))
