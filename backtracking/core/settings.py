"""How tokens are sampled, and in which ways a model is loaded: what a config says and the model layer takes.

They stand here so that a config is read, and refused, before anything that loads a model is imported.
"""

import math
from dataclasses import dataclass
from typing import Literal

from backtracking.core.errors import InputError
from backtracking.core.given import number, whole

Engine = Literal["packed", "graphed", "bridge"]
DeviceMap = str | dict[str, int | str]
Quantization = Literal["8bit", "4bit"]


@dataclass(frozen=True)
class Settings:
    """How tokens are sampled."""

    max_new_tokens: int = 512
    temperature: float = 0.7
    """0 is greedy."""
    top_p: float = 0.95
    """Mass of the nucleus: the fewest tokens that hold it are sampled from."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings under which nothing can be sampled."""
        whole("max_new_tokens", self.max_new_tokens)
        if not 0 <= number("temperature", self.temperature) < math.inf:
            raise InputError(f"temperature {self.temperature} cannot be; give 0, which is greedy, or a number above it")
        if not 0 < number("top_p", self.top_p) <= 1:
            raise InputError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
