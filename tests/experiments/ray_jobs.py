"""Work for the tests of executors that needs no model, and units that misbehave."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backtracking.core.completions import Completion, Completions, Origin
from backtracking.core.errors import InputError
from backtracking.experiments.executors import Unit


def unit_of(number: int, plan: str = "plan") -> Unit:
    return Unit("run", "arms", (), Origin(plan, "weights", 4, number))


def completions_of(unit: Unit) -> Completions:
    """What a unit's number alone decides."""
    ids = (unit.number, unit.number + 1)
    return Completions([Completion(unit.number, 0, "v", "baseline", (1, 2), ids, "ab", "length", (0, 1))])


@dataclass(frozen=True)
class Misbehaving:
    """Most units are done; some always fail, and some take their process with them, once."""

    folder: Path
    failing: tuple[int, ...] = ()
    killing: tuple[int, ...] = ()
    unfit: bool = False
    seconds: float = 0.0
    device: str = "cpu"

    def begin(self) -> Callable[[Unit], Completions]:
        if self.unfit:
            raise InputError("a worker's weights are not the driver's")
        return self._do

    def _do(self, unit: Unit) -> Completions:
        (self.folder / f"{unit.number}-{os.getpid()}-{time.time_ns()}").touch()
        tried = len(list(self.folder.glob(f"{unit.number}-*")))
        time.sleep(self.seconds)
        if unit.number in self.failing:
            raise ValueError(f"unit {unit.number} cannot be done")
        if unit.number in self.killing and tried == 1:
            os._exit(1)
        return completions_of(unit)
