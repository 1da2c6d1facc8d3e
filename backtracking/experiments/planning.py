"""What a config will cost and what it can find, before it is run."""

import math
import time
from dataclasses import dataclass

from backtracking.core.errors import InputError
from backtracking.core.interventions import BASELINE, Condition
from backtracking.core.power import FEW_PROBLEMS, PairedDesign, minimum_detectable
from backtracking.core.settings import Settings
from backtracking.experiments.config import Config
from backtracking.experiments.models import open_model
from backtracking.experiments.phases import require_sites
from backtracking.experiments.run_problems import problems_of
from backtracking.experiments.stages import Stage, most_selected, stages_of, sweeps_selected
from backtracking.model.sampling import sample_units
from backtracking.model.sampling.memory import GIB, MemoryPlan
from backtracking.model.sampling.plan import default_rows, plan_rows
from backtracking.model.sampling.sampler import memory_for
from backtracking.model.sampling.shares import shares_for

PROBE_TOKENS = 16
"""Sampled per row to measure the rate."""


@dataclass(frozen=True)
class Plan:
    """A config in numbers."""

    model: str
    problems: int
    samples: int
    stages: tuple[Stage, ...]
    memory: MemoryPlan
    weights: int
    """Bytes of the model's weights."""
    rate: float
    """Sampled tokens per second, measured now on this machine, with as many rows as the run will use."""
    detectable: tuple[tuple[float, int, float], ...]
    """Rate of the baseline, comparisons, and the least difference found with 80 % power, in points.

    Empty with one problem: problems are the clusters of every test, and one cluster shows no difference.
    """

    @property
    def tokens(self) -> int:
        """Sampled at most, over all stages."""
        return sum(stage.tokens for stage in self.stages)

    device: str
    """Kind of device the rate was measured on."""
    workers: int
    """Of a cluster, for which the time is given too."""
    rows_at_most: int
    """Rows decoded together in a stage that has enough of them."""
    most_sites: int
    """The most sites that the scan can select, for which the subset sweep is counted; 0 where it does not count."""

    @property
    def seconds(self) -> float:
        """Time for sampling at most, on one worker like this machine."""
        return self.tokens / self.rate

    @property
    def device_hours(self) -> float:
        """Hours of one device like this machine's that sampling takes at most, however many share them."""
        return self.seconds / 3600

    def seconds_on(self, workers: int) -> float:
        """Time for sampling at most on so many workers like this machine.

        Stages come one after the other, and a unit of work is never shared: a stage with fewer units than workers
        leaves some of them idle.
        """
        rounds = [(stage, stage.units(self.rows_at_most)) for stage in self.stages if stage.completions]
        return sum(stage.tokens / self.rate * -(-units // workers) / units for stage, units in rounds)

    def _costs(self) -> tuple[str, ...]:
        what = "GPU-hours" if self.device == "cuda" else "machine-hours (CPU)"
        units = sum(stage.units(self.rows_at_most) for stage in self.stages)
        together = self.seconds_on(self.workers)
        return (
            f"{what}: at most {self.device_hours:.3g} of sampling, in about {units} units of work; not counted are "
            "start-up and the scans, which the driver does",
            f"  1 worker: {duration(self.seconds)}; {self.workers} workers: {duration(together)}, holding "
            f"{self.workers * together / 3600:.3g} {what} (a stage with fewer units leaves some idle)",
        )

    def lines(self) -> tuple[str, ...]:
        """The plan as text."""
        found = [f"{self.model}: {self.problems} problems x {self.samples} samples"]
        found += [
            f"  {stage.name}: {stage.arms} arms, {stage.completions} completions, at most {stage.tokens:,} tokens"
            for stage in self.stages
        ]
        found.append(
            f"at most {self.tokens:,} tokens; at {self.rate:,.0f} tokens/s (measured now, {self.memory.rows} rows) "
            f"at most {duration(self.seconds)}; stop tokens make it shorter"
        )
        if self.most_sites:
            found.append(
                f"the subset sweep is counted for the most sites that the scan of this config can select, "
                f"{self.most_sites}; with fewer it has fewer arms"
            )
        found += self._costs()
        found.append(f"memory: weights {self.weights / GIB:.2f} GiB; {self.memory}")
        if self.problems < 2:
            found.append("no difference is detectable with one problem: problems are the clusters of every test")
        found += [
            f"with 80 % power {_difference(points)} is found from a baseline of {100 * rate:.0f} %, "
            f"{comparisons} comparison{'s' * (comparisons > 1)} under Holm (correlations as in core/power.py)"
            for rate, comparisons, points in self.detectable
        ]
        if 1 < self.problems < FEW_PROBLEMS:
            found.append(f"with fewer than {FEW_PROBLEMS} problems the exact tests find less than that")
        return tuple(found)


def _difference(points: float) -> str:
    return "no difference, however large," if math.isnan(points) else f"a difference of {points:.1f} points"


def plan(config: Config, *, baseline_rates: tuple[float, ...] = (0.5, 0.2), workers: int = 8) -> Plan:
    """Count completions and tokens, measure the rate and memory, and say what can be detected.

    The model is loaded and samples a few tokens, to measure the rate; nothing is written.

    Args:
        config: What would be run.
        baseline_rates: Rates, as shares, for which the minimum detectable effect is given.
        workers: Of a cluster of machines like this one, for which the time is given too.

    Raises:
        InputError: Something in the config cannot be used, or there is no worker.
    """
    if workers < 1:
        raise InputError(f"workers is {workers}; at least 1 is needed")
    problems = problems_of(config)
    model = open_model(config.model)
    if not config.conditions:
        require_sites(model, config)
    settings, samples = config.settings(), config.generation.num_samples_per_prompt
    options = {"variant": config.variant(), "prompting": config.prompts()}
    conditions: tuple[Condition, ...] = config.arms() if config.conditions else (BASELINE,)
    rows = plan_rows(model, problems, conditions=conditions, samples=samples, settings=settings, **options)
    generation = config.generation
    memory = memory_for(model, rows, settings, rows=generation.batch_size, engine=generation.engine)
    most = generation.batch_size or default_rows(model, settings.max_new_tokens, generation.engine)
    probe = Settings(PROBE_TOKENS, settings.temperature, settings.top_p, settings.seed)
    begin = time.perf_counter()
    shares = shares_for(model, settings, seats=memory.rows)
    probed = sample_units(model, [rows[: memory.rows]], probe, engine=generation.engine, shares=shares)
    made = [c for _, part in probed for c in part]
    rate = sum(len(c.ids) for c in made) / (time.perf_counter() - begin)
    selected = most_selected(config, model) if sweeps_selected(config) else ()
    stages = stages_of(config, len(problems), selected)
    comparisons = max(1, *(stage.compared for stage in stages))
    return Plan(
        model.name,
        len(problems),
        samples,
        stages,
        memory,
        sum(p.numel() * p.element_size() for p in model.plain.module.parameters()),
        rate,
        _detectable(len(problems), samples, baseline_rates, comparisons),
        model.device.type,
        workers,
        most if memory.rows == memory.asked else memory.rows,
        len(selected),
    )


def _detectable(
    problems: int, samples: int, rates: tuple[float, ...], comparisons: int
) -> tuple[tuple[float, int, float], ...]:
    if problems < 2:
        return ()
    return tuple(
        (base, count, 100 * abs(minimum_detectable(PairedDesign(problems, samples, base), comparisons=count)))
        for base in rates
        for count in sorted({1, comparisons})
    )


def duration(seconds: float) -> str:
    """Return `40 s`, `12 min` or `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
