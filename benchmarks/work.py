"""The work that is timed: conditions x prompts x samples on one of two models, and the slices that peers do of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from backtracking.core.errors import MissingFileError
from backtracking.core.interventions import BASELINE, Condition
from backtracking.core.problems import Problem
from backtracking.experiments.problem_sets import load_problems

ModelName = Literal["organism", "smollm2"]
GSM8K_FILE = "gsm8k_200.jsonl"
ARMS: dict[ModelName, tuple[tuple[str, ...], ...]] = {
    "organism": (
        ("mlp.5*0@decode",),
        ("attn.1*0@decode",),
        ("attn.1.h0*0@decode",),
        ("mlp.3*0.5@decode", "mlp.4*0.5@decode"),
        ("attn.4*0@decode", "mlp.4*0@decode"),
    ),
    "smollm2": (
        ("mlp.15*0@decode",),
        ("attn.20*0@decode",),
        ("attn.24.h4*0@decode",),
        ("mlp.18*0.5@decode", "mlp.22*0.5@decode"),
        ("attn.26*0@decode", "mlp.26*0@decode"),
    ),
}
NEW_TOKENS: dict[ModelName, int] = {"organism": 160, "smollm2": 64}


@dataclass(frozen=True)
class Work:
    """Every condition x problem x sample, up to `new` tokens each."""

    problems: tuple[Problem, ...]
    source: str
    conditions: tuple[Condition, ...]
    samples: int
    new: int
    temperature: float = 0.7
    top_p: float = 0.95
    seed: int = 0

    @property
    def rows(self) -> int:
        """Completions of the whole work."""
        return len(self.conditions) * len(self.problems) * self.samples

    @property
    def sampling(self) -> dict[str, Any]:
        """Temperature and nucleus, under the names that `sample` and the peers share."""
        return {"temperature": self.temperature, "top_p": self.top_p}

    def described(self) -> dict[str, Any]:
        """The work as plain values for the JSON."""
        return {
            "conditions": {condition.name: str(condition) for condition in self.conditions},
            "problems": len(self.problems),
            "source": self.source,
            "samples": self.samples,
            "completions": self.rows,
            "max_new_tokens": self.new,
            **self.sampling,
            "seed": self.seed,
        }

    def slice(self, prompts: Sequence[Sequence[int]], rows: int) -> list[list[Sequence[int]]]:
        """For each condition `rows` prompts of the work, spread evenly over prompt lengths, shifted by condition.

        A prompt comes as often as the work samples it, at most.
        """
        ordered = sorted(prompts, key=len)
        rows = min(rows, len(ordered) * self.samples)
        kinds = min(rows, len(ordered))
        found = []
        for number in range(len(self.conditions)):
            first = number * len(ordered) // len(self.conditions)
            places = [(first + kind * len(ordered) // kinds) % len(ordered) for kind in range(kinds)]
            found.append([ordered[places[row % kinds]] for row in range(rows)])
        return found


def work_on(model: ModelName, *, quick: bool, new: int | None) -> Work:
    """6 conditions x 16 prompts x 4 samples, or 2 x 4 x 2 if it should be quick."""
    number = 4 if quick else 16
    problems, source = _problems(model, number)
    arms = ARMS[model][2:3] if quick else ARMS[model]
    conditions = (BASELINE, *(Condition(" + ".join(arm), arm) for arm in arms))
    return Work(problems, source, conditions, 2 if quick else 4, new or (16 if quick else NEW_TOKENS[model]))


def _problems(model: ModelName, number: int) -> tuple[tuple[Problem, ...], str]:
    if model == "organism":
        return load_problems("organism", n=number), "the organism's own problems"
    try:
        return load_problems(GSM8K_FILE, n=number), f"the first {number} of {GSM8K_FILE}"
    except MissingFileError:
        made = tuple(_made_up(index) for index in range(number))
        return made, f"made-up word problems, since {GSM8K_FILE} is in none of the data folders"


def _made_up(index: int) -> Problem:
    apples, price, days = 3 + index, 2 + index % 5, 2 + index % 3
    extra = " Each basket also holds a pear, which is not counted." * (index % 4)
    question = (
        f"A farmer fills {apples} baskets of {price} apples a day for {days} days and gives away {index} apples."
        f"{extra} How many apples does the farmer keep?"
    )
    return Problem(f"made-up-{index}", question, str(apples * price * days - index))
