"""Where to start with a model: problems it can work on, and how long it needs for one.

The organism has its own made-up problems and answers in under a hundred tokens; any other model gets GSM8K
and room to think. So a notebook runs on another model when one name in it is changed.
"""

from dataclasses import dataclass
from typing import Any

from backtracking.core.errors import InputError
from backtracking.core.problems import Problem
from backtracking.experiments.config import Config, read_config
from backtracking.experiments.run_problems import problems_of

ORGANISM = "organism"
_TOKENS = {ORGANISM: 160}
_ROOM_TO_THINK = 1024
_GSM8K_FILE = "data/processed/gsm8k_200.jsonl"
_SECTIONS = ("run", "model", "dataset", "generation")


@dataclass(frozen=True)
class StartingPoint:
    """A model's name with a small set of problems for it."""

    model: str
    problems: tuple[Problem, ...]
    max_new_tokens: int
    """Sampled per completion, at most."""

    def config(self, name: str, *, samples: int = 2, **sections: Any) -> Config:
        """A config of both phases on these problems; every site and head is scanned.

        Args:
            name: Of the run.
            samples: Per problem and condition.
            sections: More of the config, as in its file: `phase2={"scale_sweep": {"scales": [0, 0.5]}}`.

        Raises:
            InputError: A section that is given already, or one that a config refuses.
        """
        taken = [key for key in sections if key in _SECTIONS]
        if taken:
            raise InputError(f"the starting point decides {taken[0]!r} itself; write a config file to change it")
        analysis = {"scan_heads": True, "topk_layers_for_generation": 1} | sections.pop("analysis", {})
        content = {
            "run": {"name": name},
            "model": {"hf_id": self.model},
            "dataset": _dataset(self.model, len(self.problems)),
            "generation": {"num_samples_per_prompt": samples, "max_new_tokens": self.max_new_tokens},
            "analysis": analysis,
            "phase2": {},
        }
        return read_config(content | sections, where=f"the config of {name}")


def starting_point(model: str = ORGANISM, *, n: int = 24) -> StartingPoint:
    """A small set of problems for a model: the organism's own, or GSM8K for any other.

    GSM8K comes from `gsm8k_200.jsonl` where that lies in a data folder, or else from the Hub.

    Args:
        model: What `load_model` takes.
        n: How many problems.

    Raises:
        InputError: The problems cannot be had, or are fewer than `n`.
    """
    if n < 1:
        raise InputError(f"n is {n}; at least 1 problem is needed")
    config = read_config({"dataset": _dataset(model, n)}, where="the starting point")
    return StartingPoint(model, problems_of(config), _TOKENS.get(model, _ROOM_TO_THINK))


def _dataset(model: str, n: int) -> dict[str, Any]:
    if model == ORGANISM:
        return {"name": ORGANISM, "max_examples": n}
    return {"name": "gsm8k", "max_examples": n, "save_path": _GSM8K_FILE}
