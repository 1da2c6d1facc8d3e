"""Who samples the units of a run: this process, or the workers of a cluster.

A unit is a fixed set of rows, decided before anything runs and kept in the manifest, so the units are the same
whoever samples them, and their results too. An executor is ignorant of run folders: the study asks for what is
missing, and writes what it is given.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from backtracking.core.completions import Completions, Origin
from backtracking.core.errors import InputError
from backtracking.core.settings import Engine, Settings
from backtracking.experiments.config_sections import ModelSection
from backtracking.experiments.models import open_model
from backtracking.experiments.provenance import versions
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling.plan import Row
from backtracking.model.sampling.sampler import sample_units

ExecutorName = Literal["local", "ray"]
LOCAL = "local"
ATTEMPTS = 3
"""How often a unit is tried before it counts as failed."""
Say = Callable[..., None]
"""Writes an event to the run's log: `say(event, **values)`."""


@dataclass(frozen=True)
class Unit:
    """One unit of work: the rows of one file of completions."""

    run_id: str
    group: str
    rows: tuple[Row, ...]
    origin: Origin

    @property
    def number(self) -> int:
        """Which part of its group it is, from 0."""
        return self.origin.number

    @property
    def name(self) -> str:
        """Of its file, without the run."""
        return f"{self.group}-{self.number:05d}"


@dataclass(frozen=True)
class Sampled:
    """A unit that is done."""

    unit: Unit
    completions: Completions
    worker: str
    """Who sampled it."""
    seconds: float
    """How long that took, without waiting."""


@dataclass(frozen=True)
class Failed:
    """A unit that could not be sampled."""

    unit: Unit
    attempts: int
    reason: str
    """Of the last attempt."""


@dataclass(frozen=True)
class Driver:
    """What an executor may use of the process that it works for."""

    model: HookedReasoner
    say: Say
    """Writes to the run's one log."""
    beat: Callable[[], None]
    """Called after each unit, and while waiting, so that others see the run to be alive."""


@runtime_checkable
class Job(Protocol):
    """What a worker prepares once and then does for every unit; it is sent to other machines."""

    device: str
    """Kind of device that it needs: cpu, cuda or mps."""

    def begin(self) -> Callable[[Unit], Completions]:
        """Prepare, such as by loading the model; what is returned does one unit.

        Raises:
            InputError: This machine cannot do it.
        """
        ...


@dataclass(frozen=True)
class SamplingJob:
    """Sampling with one model, which every worker loads for itself and compares with the driver's."""

    section: ModelSection
    weights_hash: str | None
    dtype: str
    device: str
    """Kind of device, such as cuda: another kind rounds differently."""
    versions: tuple[tuple[str, str], ...]
    settings: Settings
    engine: Engine

    @classmethod
    def of(cls, section: ModelSection, model: HookedReasoner, settings: Settings, engine: Engine) -> "SamplingJob":
        """The job of sampling as this process would, with this model."""
        dtype = str(model.dtype).removeprefix("torch.")
        held = tuple(sorted(versions().items()))
        return cls(section, model.weights_hash, dtype, model.device.type, held, settings, engine)

    def begin(self) -> Callable[[Unit], Completions]:
        """Load the model and compare it with the driver's.

        Raises:
            InputError: Other versions, other weights, or another kind of device than the driver's.
        """
        here = versions()
        other = [
            f"{name} {here.get(name)} (not {theirs})" for name, theirs in self.versions if here.get(name) != theirs
        ]
        if other:
            raise InputError(f"a worker has {', '.join(other)}; install the same versions on every machine")
        quantized = self.section.quantization is not None
        model = open_model(self.section, dtype=None if quantized else self.dtype)
        if model.weights_hash != self.weights_hash:
            raise InputError(
                f"a worker's weights of {self.section.hf_id} are not the driver's; give every machine the same"
            )
        if model.device.type != self.device:
            raise InputError(
                f"a worker's model is on {model.device.type}, the driver's on {self.device}; run the command on a "
                "machine like the workers', or set model.device in the config"
            )
        return lambda unit: sample_unit(model, unit, self.settings, self.engine)


@runtime_checkable
class Executor(Protocol):
    """Samples units, in any order, each once."""

    def run(self, units: Sequence[Unit], job: SamplingJob, driver: Driver) -> Iterator[Sampled | Failed]:
        """Give each unit's completions as soon as they are there.

        Args:
            units: What is missing.
            job: What a worker does.
            driver: Of this process.
        """
        ...

    def close(self) -> None:
        """Let go of whatever it holds."""
        ...


@dataclass(frozen=True)
class LocalExecutor:
    """This process, one unit after the other; what goes wrong is raised at once."""

    def run(self, units: Sequence[Unit], job: SamplingJob, driver: Driver) -> Iterator[Sampled | Failed]:
        """Sample unit after unit with the model of this process."""
        for unit in units:
            start = time.monotonic()
            completions = sample_unit(driver.model, unit, job.settings, job.engine)
            driver.beat()
            yield Sampled(unit, completions, LOCAL, time.monotonic() - start)

    def close(self) -> None:
        """Nothing is held."""


def sample_unit(model: HookedReasoner, unit: Unit, settings: Settings, engine: Engine) -> Completions:
    """The completions of one unit, in the order of its rows."""
    origin = unit.origin
    found = sample_units(model, [unit.rows], settings, seats=origin.rows_at_once, engine=engine, shares=origin.shares)
    ((_, part),) = found
    return part
