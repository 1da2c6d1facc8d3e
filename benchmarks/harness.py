"""What every benchmark shares: contenders timed in turn, ratios, machine and versions, JSON.

The contenders take turns within each repetition, in an order that rotates from repetition to repetition, so that a
slow minute of the machine falls on all of them; a ratio is formed within one repetition.
"""

import datetime
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

ROOT = Path(__file__).parent.parent
PACKAGES = ("torch", "transformers", "transformer-lens", "nnsight")


@dataclass(frozen=True)
class Contender:
    """Something to be timed: an engine or a peer."""

    name: str
    does: str
    """Which slice of the work it does, in words."""
    run: Callable[[], int]
    """Does the slice once; returns the units of work done (useful tokens, or cells of a scan)."""
    before: Callable[[], None] | None = None
    """Makes the place ready; not timed."""


@dataclass(frozen=True)
class Timing:
    """One run of one contender."""

    repetition: int
    place: int
    """Its turn within the repetition, from 0."""
    units: int
    seconds: float
    """Wall time."""
    cpu_seconds: float
    """Processor time of this process, all threads, and of its children that have ended."""
    other_cores: float
    """Cores that everything else on the machine kept busy meanwhile; near 0 where the timing can be trusted."""

    @property
    def rate(self) -> float:
        """Units per second of wall time."""
        return self.units / self.seconds


def take_turns(
    contenders: Sequence[Contender], repetitions: int, *, say: Callable[[str], None]
) -> dict[str, list[Timing]]:
    """Time every contender once per repetition, in rotating order."""
    timings: dict[str, list[Timing]] = {contender.name: [] for contender in contenders}
    for repetition in range(repetitions):
        first = repetition % len(contenders)
        for place, contender in enumerate([*contenders[first:], *contenders[:first]]):
            if contender.before is not None:
                contender.before()
            gc.collect()
            wall, cpu, busy = time.perf_counter(), _own_seconds(), _busy_seconds()
            units = contender.run()
            seconds, own = time.perf_counter() - wall, _own_seconds() - cpu
            others = max(_busy_seconds() - busy - own, 0.0) / seconds
            timing = Timing(repetition, place, units, seconds, own, others)
            timings[contender.name].append(timing)
            say(f"repetition {repetition}: {contender.name}: {units} in {timing.seconds:.2f} s = {timing.rate:.1f}/s")
    return timings


def _own_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _busy_seconds() -> float:
    """Processor time that all processes of the machine have had."""
    times = psutil.cpu_times()
    return times.user + times.system


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summary(timings: dict[str, list[Timing]], engine: str) -> dict[str, Any]:
    """Rates of every contender, and the ratio engine/peer paired by repetition."""
    found: dict[str, Any] = {}
    for name, runs in timings.items():
        entry: dict[str, Any] = {"repetitions": [{**asdict(run), "rate": run.rate} for run in runs]}
        entry["rate"] = spread([run.rate for run in runs])
        entry["other_cores"] = max(run.other_cores for run in runs)
        if name != engine and engine in timings:
            pairs = zip(timings[engine], runs, strict=True)
            ratios = [mine.rate / theirs.rate for mine, theirs in pairs]
            entry["engine_over_peer"] = {**spread(ratios), "by_repetition": ratios}
        found[name] = entry
    return found


def circumstances() -> dict[str, Any]:
    """Machine, versions, date and commit."""
    return {
        "machine": {
            "cpu": _cpu_model(),
            "cores": psutil.cpu_count(logical=False),
            "logical_cores": psutil.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "system": platform.platform(),
            "load_before": os.getloadavg(),
        },
        "versions": {"python": platform.python_version(), **dict(_versions())},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD") + ("+changes" if _git("status", "--porcelain", "-uno") else ""),
    }


def write_json(result: dict[str, Any], path: Path) -> None:
    """Write a result as indented JSON, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _versions() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield package, "not installed"


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "not a git checkout"
