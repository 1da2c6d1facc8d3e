"""The arms of a steering sweep: which direction, how far, and what role it plays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from backtracking.core.errors import InputError
from backtracking.core.interventions import BASELINE, Condition
from backtracking.measures.steering_controls import NOISE, random_directions
from backtracking.measures.steering_directions import Direction

Role = Literal["baseline", "direction", "random", "noise", "control", "ablation"]


@dataclass(frozen=True)
class SteeringArm:
    """One condition of a sweep."""

    condition: Condition
    role: Role
    direction: Direction | None
    """None for the baseline and for noise, which has a direction per completion."""
    label: str
    """Name of the direction, the same at every magnitude."""
    magnitude: float
    """In units of the direction's own length; signed; NaN for ablation and baseline."""


NO_STEERING = SteeringArm(BASELINE, "baseline", None, BASELINE.name, float("nan"))


def check_magnitudes(magnitudes: Sequence[float]) -> tuple[float, ...]:
    """The magnitudes in order, each once.

    Raises:
        InputError: There is none, or one is not above 0 (both signs are always tried).
    """
    found = tuple(sorted(set(map(float, magnitudes))))
    if not found or not all(0 < each < float("inf") for each in found):
        raise InputError(f"magnitudes are {list(magnitudes)}; give numbers above 0, each is tried with both signs")
    return found


def direction_arms(direction: Direction, magnitudes: Sequence[float]) -> list[SteeringArm]:
    """The direction at every magnitude, with both signs."""
    signed = [sign * each for each in magnitudes for sign in (1, -1)]
    return [_arm(direction, each, "direction", str(direction)) for each in signed]


def random_arms(direction: Direction, magnitudes: Sequence[float], draws: int, *, seed: int) -> list[SteeringArm]:
    """The same random directions at every magnitude; a random direction and its negative are alike, so one sign."""
    return [
        _arm(each, magnitude, "random", each.vector.name)
        for magnitude in magnitudes
        for each in random_directions(direction, draws, seed=seed)
    ]


def control_arms(controls: Sequence[Direction], magnitudes: Sequence[float]) -> list[SteeringArm]:
    """Other directions at the signed magnitudes given."""
    return [_arm(each, magnitude, "control", each.vector.name) for each in controls for magnitude in magnitudes]


def ablation_arm(direction: Direction) -> SteeringArm:
    """The component along the direction removed."""
    label = f"{direction} removed"
    return SteeringArm(Condition(label, [direction.ablation()]), "ablation", direction, label, float("nan"))


def noise_name(magnitude: float) -> SteeringArm:
    """The arm that is put together from the completions of the random draws at a magnitude."""
    return SteeringArm(Condition(f"{NOISE} ×{magnitude:g}"), "noise", None, NOISE, magnitude)


def _arm(direction: Direction, magnitude: float, role: Role, label: str) -> SteeringArm:
    condition = Condition(f"{label} ×{magnitude:+g}", [direction.intervention(magnitude)])
    return SteeringArm(condition, role, direction, label, magnitude)
