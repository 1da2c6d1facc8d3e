"""Units of work on the workers of a Ray cluster, each an actor that holds the model.

A worker has one unit at a time, so no more units are in flight than there are workers. What dies is replaced, and its
unit given to another: a unit is the same whoever samples it, so nothing is lost but time. Only a unit that fails by
itself `ATTEMPTS` times is given up; a machine that is taken away is not held against the unit it had.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Any

from backtracking.core.errors import InputError
from backtracking.experiments.executors import ATTEMPTS, Driver, Failed, Job, Sampled, Say, Unit
from backtracking.experiments.ray_cluster import Staff, connect, in_one_line, is_alive, sized
from backtracking.experiments.ray_worker import Done, Loaded, Worker
from backtracking.experiments.remote_store import Keeping, RemoteStore

PULSE = 20.0
"""Seconds after which a driver that waits gives a sign of life."""
LOST_STARTS = 3
"""Workers, for each one wanted, that may die one after the other before the first is ready."""


@dataclass
class _Held:
    """A worker, and what it is at."""

    name: str
    actor: Any
    loaded: Loaded | None = None
    """None until the model is loaded."""
    unit: Unit | None = None


@dataclass
class RayExecutor:
    """A cluster, or this machine as one."""

    address: str | None = None
    """`auto`, or host:port of the head node; None starts Ray on this machine alone."""
    workers: int | None = None
    """Actors; one per GPU if not given, or one per machine where there is none."""
    threads: int | None = None
    """Processor threads of each; as many as this process if not given, or an equal share of the cluster's if less."""
    gpus: int = 1
    """Of each worker, where the cluster has any; more than one for a model with a device_map."""
    store: RemoteStore | None = None
    """Where workers write what is done, besides giving it to the driver."""
    attempts: int = ATTEMPTS
    _keeping: Keeping = field(init=False)
    _held: dict[Any, _Held] = field(default_factory=dict, init=False)
    """Workers, by what they were asked last and have not answered."""
    _idle: list[_Held] = field(default_factory=list, init=False)
    _job: Job | None = field(default=None, init=False)
    _connected: bool = field(default=False, init=False)
    _reference: Any = field(default=None, init=False)
    _wanted: Staff = field(default=Staff(), init=False)
    _started: int = field(default=0, init=False)
    _lost: int = field(default=0, init=False)
    _waiting: bool = field(default=False, init=False)
    """Whether it was said that there is nothing to do but wait."""

    def __post_init__(self) -> None:
        """Refuse what cannot be, before anything is loaded.

        Raises:
            InputError: Ray is missing, or a number or an address cannot be used.
        """
        if find_spec("ray") is None:
            raise InputError("the executor ray needs Ray; run in the checkout: pip install -e '.[ray]'")
        for name, value in (("workers", self.workers), ("threads", self.threads), ("gpus", self.gpus)):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; at least 1 is needed")
        if self.address is not None and self.address.startswith("ray://"):
            raise InputError(
                f"{self.address} is an address for Ray's remote client; run the command on a machine of the cluster "
                "and give --address auto"
            )
        self._keeping = Keeping(self.store)
        if self.store is not None:
            self.store.check()

    def run(self, units: Sequence[Unit], job: Job, driver: Driver) -> Iterator[Sampled | Failed]:
        """Give each unit's completions as soon as a worker has them, or what the store has of an earlier driver.

        Raises:
            InputError: The cluster cannot be reached, has no room, or a worker cannot do the job.
        """
        queue, failures = deque[Unit](), dict[str, list[str | None]]()
        for unit in units:
            found = self._keeping.load(unit, driver.say)
            if found is None:
                queue.append(unit)
            else:
                yield Sampled(unit, found, "store", 0.0)
        if not queue:
            return
        self._connect(job, driver.say)
        while queue or self._busy:
            self._staff(len(queue), driver.say)
            self._hand_out(queue)
            for answered in self._answered(driver):
                held = self._held.pop(answered)
                outcome = self._take(answered, held, queue, failures, driver.say)
                self._hand_out(queue)
                if outcome is not None:
                    yield outcome

    def prepare(self, job: Job, driver: Driver) -> None:
        """Start every worker and wait until all have the model; `run` starts those that are missing by itself.

        Raises:
            InputError: As in `run`.
        """
        self._connect(job, driver.say)
        while len(self._idle) < (self._wanted.workers or 1):
            self._staff(self._wanted.workers or 1, driver.say)
            for answered in self._answered(driver):
                self._take(answered, self._held.pop(answered), deque(), {}, driver.say)

    def close(self) -> None:
        """End the workers, and the connection."""
        if not self._connected:
            return
        import ray

        for held in [*self._held.values(), *self._idle]:
            ray.kill(held.actor)
        self._held.clear()
        self._idle.clear()
        self._job = self._reference = None
        self._connected = False
        ray.shutdown()

    def _connect(self, job: Job, say: Say) -> None:
        """Connect where that has not been done, and see that workers with this job can be had."""
        if job == self._job:
            return
        self.close()
        cluster = connect(self.address)
        self._connected = True
        import ray

        wanted = Staff(self.workers, self.threads, self.gpus if job.device == "cuda" else 0)
        self._wanted = sized(wanted, cluster, may_grow=self.address is not None)
        self._job, self._reference = job, ray.put(job)
        say("cluster", machines=len(cluster), **asdict(self._wanted))

    @property
    def _busy(self) -> int:
        return sum(held.unit is not None for held in self._held.values())

    def _staff(self, waiting: int, say: Say) -> None:
        """Start as many workers as are missing for the units that wait."""
        import ray

        threads, gpus = self._wanted.threads or 1, self._wanted.gpus
        environment = {"env_vars": {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}}
        options = {"num_cpus": threads, "num_gpus": gpus, "runtime_env": environment}
        wanted = min(self._wanted.workers or 1, self._busy + waiting)
        for _ in range(wanted - len(self._held) - len(self._idle)):
            self._started += 1
            actor = ray.remote(Worker).options(**options).remote(threads, self.store)
            held = _Held(f"worker-{self._started}", actor)
            self._held[actor.begin.remote(self._reference)] = held
            say("worker started", worker=held.name)

    def _hand_out(self, queue: deque[Unit]) -> None:
        while queue and self._idle:
            held = self._idle.pop()
            held.unit = queue.popleft()
            self._held[held.actor.sample.remote(held.unit)] = held

    def _answered(self, driver: Driver) -> list[Any]:
        """What was answered within a pulse."""
        import ray

        driver.beat()
        found = ray.wait(list(self._held), num_returns=1, timeout=PULSE)[0]
        if not found and not self._busy and not self._waiting:
            driver.say("waiting for workers", level="warning", starting=len(self._held))
        self._waiting = not found and not self._busy
        return found

    def _take(
        self, answered: Any, held: _Held, queue: deque[Unit], failures: dict[str, list[str | None]], say: Say
    ) -> Sampled | Failed | None:
        """What a worker answered: that it is ready, a unit, that it failed; or that it is gone."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        unit, held.unit = held.unit, None
        try:
            answer = ray.get(answered)
        except RayTaskError as error:  # raised by our own code, there
            cause = error.cause if isinstance(error.cause, Exception) else error
            if unit is None:
                ray.kill(held.actor)
                if isinstance(cause, InputError):
                    raise InputError(f"{held.name}: {cause}") from error
                say("worker lost", level="warning", worker=held.name, unit=None, reason=in_one_line(cause))
                self._count_loss(unit, cause)
                return None
            self._idle.append(held)
            failures.setdefault(unit.name, []).append(None)
            return self._again(unit, queue, failures[unit.name], say, cause)
        except RayError as error:  # the worker is gone, or what it made was lost with its machine
            what = None if unit is None else unit.name
            say("worker lost", level="warning", worker=held.name, unit=what, reason=in_one_line(error))
            ray.kill(held.actor)
            self._count_loss(unit, error)
            if unit is None or held.loaded is None:
                return None
            failures.setdefault(unit.name, []).append(held.loaded.machine)
            return self._again(unit, queue, failures[unit.name], say, error)
        self._lost = 0
        self._idle.append(held)
        if isinstance(answer, Loaded):
            held.loaded = answer
            say("worker ready", worker=held.name, pid=answer.pid, device=answer.device, threads=answer.threads)
            return None
        assert unit is not None and isinstance(answer, Done)
        self._keeping.saved(answer.unkept, say)
        return Sampled(unit, answer.completions, held.name, answer.seconds)

    def _again(
        self, unit: Unit, queue: deque[Unit], failures: Sequence[str | None], say: Say, error: BaseException
    ) -> Failed | None:
        """Put a unit back, or give it up.

        `failures` has one entry for each: the machine of a worker that died, None where the unit itself raised. Which
        machines are gone shows seconds later, so all are looked at anew each time.
        """
        own = sum(machine is None or is_alive(machine) for machine in failures)
        if own >= self.attempts:
            return Failed(unit, own, in_one_line(error))
        say("unit again", level="warning", unit=unit.name, failures=own, reason=in_one_line(error))
        queue.appendleft(unit)
        return None

    def _count_loss(self, unit: Unit | None, error: BaseException) -> None:
        """Give up where workers die again and again before they are ready."""
        self._lost += unit is None
        if self._lost > LOST_STARTS * (self._wanted.workers or 1):
            raise InputError(
                f"{self._lost} workers failed one after the other while loading the model ({in_one_line(error)}); is "
                "there memory enough for it on every machine?"
            ) from error
