"""What runs in the process of a Ray worker: it prepares a job once, and then does unit after unit."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from backtracking.core.completions import Completions
from backtracking.experiments.executors import Job, Unit
from backtracking.experiments.ray_cluster import in_one_line
from backtracking.experiments.remote_store import RemoteStore


@dataclass(frozen=True)
class Loaded:
    """A worker that is ready."""

    pid: int
    machine: str
    """Ray's name of it."""
    device: str
    threads: int


@dataclass(frozen=True)
class Done:
    """A unit that a worker has done."""

    completions: Completions
    seconds: float
    """How long it took."""
    unkept: str | None = None
    """Why it is not in the store; None where it is, or where there is no store."""


class Worker:
    """An actor; the cluster places it."""

    def __init__(self, threads: int, store: RemoteStore | None) -> None:
        """Keep to so many threads; the model comes with `begin`, whose errors the driver can see."""
        torch.set_num_threads(threads)
        self._store = store
        self._do: Callable[[Unit], Completions] | None = None

    def begin(self, job: Job) -> Loaded:
        """Prepare the job.

        Raises:
            InputError: This machine cannot do it.
        """
        import ray

        self._do = job.begin()
        machine = ray.get_runtime_context().get_node_id()
        return Loaded(os.getpid(), machine, job.device, torch.get_num_threads())

    def sample(self, unit: Unit) -> Done:
        """Do one unit, and keep it in the store where there is one; a store that fails does not cost the unit."""
        assert self._do is not None
        start = time.monotonic()
        completions = self._do(unit)
        unkept = None
        if self._store is not None:
            try:
                self._store.save(unit, completions)
            except OSError as error:
                unkept = in_one_line(error)
        return Done(completions, time.monotonic() - start, unkept)
