"""How much faster are two workers than one? The organism's units of work on Ray workers of one thread each.

Run: python -m benchmarks.scaling [--workers 2] [--problems 60] [--repetitions 3]

Each repetition samples the same units with one worker and with several, in an order that alternates, on a Ray of its
own; `other_cores` says how many cores the machine's other processes had meanwhile. Efficiency is the time of one worker
over N times that of N workers: 1 is perfect. It is given with start-up (starting Ray, importing, loading the model)
and from the moment at which every worker is ready. What was sampled must be the same.
"""

import argparse
import json
import statistics
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.harness import ROOT, circumstances, spread, write_json

ASKED = 0.9
CONDITIONS = {"head off": ["attn.1.h0*0@decode"], "mlp halved": ["mlp.1*0.5@decode"]}


@dataclass(frozen=True)
class Timing:
    """One sampling of all units."""

    workers: int
    whole: float
    """Seconds from the start of Ray to the last unit."""
    working: float
    """Seconds from the moment at which every worker was ready."""
    busy: float
    """Mean share of that time in which a worker had a unit."""
    other_cores: float
    """Cores that other processes had, on average, while units were sampled."""


def work(problems: int, samples: int, rows: int, new_tokens: int) -> tuple[Any, list[Any], Any]:
    """The model, the units, and the job."""
    from backtracking.core.completions import Origin
    from backtracking.core.interventions import parse_conditions
    from backtracking.core.prompts import VARIANTS, Prompting
    from backtracking.core.settings import Settings
    from backtracking.experiments.config_sections import ModelSection
    from backtracking.experiments.executors import SamplingJob, Unit
    from backtracking.experiments.models import open_model
    from backtracking.experiments.problem_sets import load_problems
    from backtracking.model.sampling.plan import ROUNDS, plan_rows, units

    section = ModelSection(hf_id="organism", device="cpu")
    model, settings = open_model(section), Settings(new_tokens, 0.7, 0.95, 0)
    plan = plan_rows(
        model, load_problems("organism", n=problems), conditions=parse_conditions(CONDITIONS), samples=samples,
        variant=VARIANTS[0].name, settings=settings, prompting=Prompting(),
    )  # fmt: skip
    cut = units(plan, rows * ROUNDS)
    made = [Unit("scaling", "arms", unit, Origin("scaling", "", rows, number)) for number, unit in enumerate(cut)]
    return model, made, SamplingJob.of(section, model, settings, "packed")


def timed(workers: int, model: Any, units: list[Any], job: Any) -> tuple[Timing, dict[int, Any]]:
    """Sample every unit once."""
    from backtracking.experiments.executors import Driver, Failed
    from backtracking.experiments.ray_executor import RayExecutor

    driver = Driver(model, lambda event, **values: None, lambda: None)
    executor = RayExecutor(workers=workers, threads=1)
    done, seconds = {}, 0.0
    start = time.perf_counter()
    try:
        executor.prepare(job, driver)
        ready, used = time.perf_counter(), _used_by_others()
        for outcome in executor.run(units, job, driver):
            assert not isinstance(outcome, Failed), outcome
            done[outcome.unit.number] = outcome.completions
            seconds += outcome.seconds
        end = time.perf_counter()
        others = (_used_by_others() - used) / (end - ready)
    finally:
        executor.close()
    return Timing(workers, end - start, end - ready, seconds / workers / (end - ready), others), done


def _used_by_others() -> float:
    """Processor seconds that processes which are not ours have had since the machine started."""
    times = psutil.cpu_times()
    mine = psutil.Process()
    ours = 0.0
    for process in (mine, *mine.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            spent = process.cpu_times()
            ours += spent.user + spent.system
    return times.user + times.system - ours


def efficiency(timings: list[Timing], workers: int, name: str) -> list[float]:
    """Of each repetition: the time of one worker over N times that of N."""
    one = [getattr(each, name) for each in timings if each.workers == 1]
    many = [getattr(each, name) for each in timings if each.workers == workers]
    return [alone / (workers * together) for alone, together in zip(one, many, strict=True)]


def main() -> None:
    """Measure, print and write the JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--problems", type=int, default=60)
    options.add_argument("--samples", type=int, default=4)
    options.add_argument("--rows", type=int, default=12, help="Rows decoded together; a unit is four times as many.")
    options.add_argument("--new-tokens", type=int, default=160)
    options.add_argument("--repetitions", type=int, default=3)
    options.add_argument("--out", type=Path, default=ROOT / "data" / "benchmarks" / "scaling.json")
    given = options.parse_args()
    torch.set_num_threads(1)
    model, units, job = work(given.problems, given.samples, given.rows, given.new_tokens)
    timings: list[Timing] = []
    results: list[dict[int, Any]] = []
    for repetition in range(given.repetitions):
        for workers in (1, given.workers) if repetition % 2 == 0 else (given.workers, 1):
            timing, done = timed(workers, model, units, job)
            timings.append(timing)
            results.append(done)
            print(timing, flush=True)  # noqa: T201
    assert all(done == results[0] for done in results), "the number of workers changed what was sampled"
    found = {name: efficiency(timings, given.workers, name) for name in ("working", "whole")}
    result = {
        "benchmark": "scaling",
        "workers": given.workers,
        "units": len(units),
        "completions": sum(len(unit.rows) for unit in units),
        "tokens": sum(len(row.ids) for part in results[0].values() for row in part),
        "same_results": True,
        "timings": [asdict(timing) for timing in timings],
        "efficiency_without_start_up": spread(found["working"]),
        "efficiency_with_start_up": spread(found["whole"]),
        "asked": ASKED,
        "reached": statistics.median(found["working"]) >= ASKED,
        **circumstances(),
    }
    write_json(result, given.out)
    print(json.dumps({name: result[name] for name in result if "efficiency" in name}, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
