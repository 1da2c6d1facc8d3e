"""Do the library's intervals, tests and announced power hold? Simulated studies with a known truth.

Run: python benchmarks/intervals.py [--studies 1000] [--out data/benchmarks/intervals.json]

A study has problems x samples rows in each arm. A row is a success where a standard normal
`a u + b e + c f` lies below the arm's threshold: u belongs to the problem, e to problem and sample (the
noise that arms share), f to the row alone, so problems differ (intra-problem correlation) and arms are
paired, while the rates are exactly those planted. With `uneven`, part of u is each arm's own: the
intervention then helps some problems and hurts others, and the mean difference is still exact.

(Not named statistics.py: a script's folder comes first on the path and would hide the standard library's
module of that name.)
"""

import argparse
import gc
import json
import platform
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from scipy import stats

from backtracking.core.multiplicity import holm
from backtracking.core.power import PairedDesign, power
from backtracking.core.statistics import clustered_rate, paired_difference, paired_p_value

CONDITIONS = 6
EFFECT = 0.10


@dataclass(frozen=True)
class Setting:
    """A kind of study; the latent shares are variances of the parts of the normal."""

    problems: int
    samples: int
    baseline: float
    problem: float = 0.4
    """Latent share of the problem."""
    noise: float = 0.3
    """Latent share of the noise that arms share."""
    uneven: float = 0.0
    """Latent share of the problem that is each arm's own."""


@dataclass(frozen=True)
class Result:
    """What the studies of one setting came to; all shares of studies."""

    setting: Setting
    studies: int
    rate_coverage: float
    difference_coverage: float
    """Of a planted effect of +10 points."""
    null_difference_coverage: float
    family_wise_error: float
    """A null sweep of six conditions with any rejection under Holm at 5 %."""
    power_found: float
    power_announced: float
    seconds: float


SETTINGS = (
    *(
        Setting(*size, baseline, uneven=uneven)
        for size in ((60, 4), (16, 4), (200, 2))
        for baseline, uneven in ((0.6, 0.0), (0.6, 0.2), (0.2, 0.0))
    ),
    *(Setting(*size, 0.6) for size in ((3, 8), (5, 8), (8, 4))),  # few problems
    *(Setting(*size, 0.03) for size in ((60, 4), (20, 8), (200, 2))),  # rare outcomes
)


def draw_arms(rng: np.random.Generator, setting: Setting, rates: list[float]) -> np.ndarray:
    """Outcomes of one study, arms x problems x samples."""
    shape = (len(rates), setting.problems, setting.samples)
    own_row = 1 - setting.problem - setting.noise - setting.uneven
    latent = np.sqrt(setting.problem) * rng.normal(size=(1, setting.problems, 1))
    latent = latent + np.sqrt(setting.noise) * rng.normal(size=(1, *shape[1:]))
    latent = latent + np.sqrt(setting.uneven) * rng.normal(size=(len(rates), setting.problems, 1))
    latent = latent + np.sqrt(own_row) * rng.normal(size=shape)
    return latent < stats.norm.ppf(rates)[:, None, None]


def design_of(setting: Setting, effect: float) -> PairedDesign:
    """The announced design: the correlations of outcomes that the latent shares amount to."""
    arm = setting.baseline + effect
    return PairedDesign(
        setting.problems,
        setting.samples,
        setting.baseline,
        intra=_correlation(setting.baseline, setting.baseline, setting.problem + setting.uneven),
        pairing=_correlation(setting.baseline, arm, setting.problem + setting.noise),
        across=_correlation(setting.baseline, arm, setting.problem),
    )


def simulate(setting: Setting, *, studies: int, seed: int = 0) -> Result:
    """Draw the studies and read each with the library's own functions."""
    start = time.perf_counter()
    gc.freeze()  # statsmodels' multipletests collects garbage on every call, a fifth of a second with torch loaded
    rng = np.random.default_rng(seed)
    labels = np.arange(setting.problems).repeat(setting.samples).tolist()
    base, up = setting.baseline, setting.baseline + EFFECT
    hits = np.zeros(5)
    for _ in range(studies):
        reference, raised, *null = (
            draw_arms(rng, setting, [base, up] + [base] * CONDITIONS).reshape(CONDITIONS + 2, -1).tolist()
        )
        rate = clustered_rate(reference, labels)
        found = paired_difference(raised, reference, labels)
        nothing = paired_difference(null[0], reference, labels)
        p_values = [paired_p_value(arm, reference, labels) for arm in null]
        hits += (
            rate.low <= base <= rate.high,
            found.low <= EFFECT <= found.high,
            nothing.low <= 0 <= nothing.high,
            min(holm(p_values)) <= 0.05,
            paired_p_value(raised, reference, labels) <= 0.05,
        )
    gc.unfreeze()
    announced = power(design_of(setting, EFFECT), EFFECT)
    return Result(setting, studies, *(hits / studies).tolist(), announced, time.perf_counter() - start)


def _correlation(one: float, other: float, latent: float) -> float:
    joint = stats.multivariate_normal.cdf(stats.norm.ppf([one, other]), cov=[[1, latent], [latent, 1]])
    return float((joint - one * other) / np.sqrt(one * (1 - one) * other * (1 - other)))


def machine() -> dict:
    """What the figures were made with."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    cores = Path("/proc/cpuinfo").read_text().count("processor\t")
    packages = {name: version(name) for name in ("numpy", "scipy", "statsmodels")}
    return {"cpu": cpu, "cores": cores, "python": platform.python_version(), **packages}


def table(results: list[Result]) -> str:
    """The results as lines of text."""
    lines = ["problems x samples  base  uneven | rate  difference  null  | FWE   | power found  announced | seconds"]
    for r in results:
        s = r.setting
        lines.append(
            f"{s.problems:>8} x {s.samples:<8} {s.baseline:>5} {s.uneven:>7} | {r.rate_coverage:.3f} "
            f"{r.difference_coverage:>9.3f} {r.null_difference_coverage:>6.3f}  | {r.family_wise_error:.3f} | "
            f"{r.power_found:>9.3f} {r.power_announced:>12.3f} | {r.seconds:.1f}"
        )
    return "\n".join(lines)


def main() -> str:
    """Simulate every setting, write the JSON and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("data/benchmarks/intervals.json"))
    options = parser.parse_args()
    results = [simulate(setting, studies=options.studies) for setting in SETTINGS]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine(), "level": 0.95, "results": [asdict(result) for result in results]}
    options.out.write_text(json.dumps(content, indent=1) + "\n")
    return table(results)


if __name__ == "__main__":
    print(main())  # noqa: T201
