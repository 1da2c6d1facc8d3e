"""Vectors that interventions add, write or remove, as frozen values."""

import hashlib
import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from backtracking.core.errors import InputError


@dataclass(frozen=True)
class FixedVector:
    """Given numbers, such as a steering direction or a mean activation.

    Its text form is its name, or a digest of its numbers, so that two different vectors never carry
    one label. Text cannot give it back: build the intervention in Python.
    """

    values: tuple[float, ...]
    name: str = ""

    def __post_init__(self) -> None:
        """Refuse a vector without numbers, or with one that is not finite."""
        if not self.values or not all(map(math.isfinite, self.values)):
            raise InputError(f"a vector needs finite numbers; got {len(self.values)} of which some are missing or not")

    def resolve(self, width: int) -> np.ndarray:
        """The numbers as float64.

        Raises:
            InputError: The site has another width.
        """
        if len(self.values) != width:
            raise InputError(f"{self} has {len(self.values)} numbers, but the site is {width} wide")
        return np.array(self.values)

    def __str__(self) -> str:
        """Return `vec(wait)` or `vec(3f2a91c07d5e)`."""
        digest = hashlib.sha256(np.array(self.values).tobytes()).hexdigest()[:12]
        return f"vec({self.name or digest})"


@dataclass(frozen=True)
class RandomVector:
    """A random direction of length 1, the same for a seed and a width on every machine: a control."""

    seed: int

    def resolve(self, width: int) -> np.ndarray:
        """Standard normal numbers, scaled to length 1."""
        values = np.random.default_rng(self.seed).standard_normal(width)
        return values / np.linalg.norm(values)

    def __str__(self) -> str:
        """Return `random(3)`."""
        return f"random({self.seed})"


Vector: TypeAlias = FixedVector | RandomVector


def as_vector(given: Any) -> Vector:
    """A vector from a list, an array or a tensor of one axis; a vector passes through.

    Raises:
        InputError: More than one axis, no numbers, or numbers that are not finite.
    """
    if isinstance(given, FixedVector | RandomVector):
        return given
    plain = given.detach().cpu().float().numpy() if hasattr(given, "detach") else given
    array = np.asarray(plain, dtype=np.float64)
    if array.ndim != 1:
        raise InputError(f"a vector has one axis; got the shape {array.shape}")
    return FixedVector(tuple(array.tolist()))
