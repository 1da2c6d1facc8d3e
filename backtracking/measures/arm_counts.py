"""What the statistics of an arm need of its completions: counts per problem, and which samples there are.

Rates, their clustered intervals and paired differences follow from these counts alone, so a million
completions can be read one after another. A difference over pairs is a difference of sums, since both arms
hold the same sample keys; a bit per sample says that they do.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Float

from backtracking.core.errors import InputError
from backtracking.core.events import Event

VERDICTS = ("right", "wrong", "unparsed", "truncated")
OUTCOMES = (*VERDICTS, "backtracking", "degenerate")
"""What is counted of completions, besides themselves and their tokens."""
_COLUMNS = ("completions", *OUTCOMES, "tokens")
NEEDED = (
    "example_id", "sample_id", "variant", "condition", "verdict", "has_backtracking_strict", "degenerate",
    "completion_tokens",
)  # fmt: skip
"""Columns of the events' table that are read."""
ProblemId = int | str


@dataclass
class ArmCounts:
    """The completions of one condition, counted by problem in the order in which problems occur."""

    name: str
    _rows: dict[ProblemId, np.ndarray] = field(default_factory=dict)
    """For each problem one number per name of `_COLUMNS`."""
    _samples: dict[ProblemId, int] = field(default_factory=dict)
    """For each problem its sample numbers, as bits."""

    @classmethod
    def of(cls, name: str, events: Iterable[Event]) -> "ArmCounts":
        """Count the events of one arm.

        Raises:
            InputError: Two of them are of one problem and sample.
        """
        counts = cls(name)
        for event in events:
            flags = [event.verdict == word for word in VERDICTS]
            flags += [event.has_backtracking_strict, event.degenerate]
            counts.add(event.example_id, [event.sample_id], np.array([1, *flags, event.completion_tokens]))
        return counts

    def add(self, problem: ProblemId, samples: Sequence[int], sums: np.ndarray) -> None:
        """Count completions of one problem: their sample numbers, and their sums by name of `_COLUMNS`.

        Raises:
            InputError: A sample is there already.
        """
        held = self._samples.get(problem, 0)
        for sample in samples:
            if held >> sample & 1:
                raise InputError(
                    f"{self.name!r} has problem {problem!r}, sample {sample} twice; arms are never pooled: "
                    "give each run alone"
                )
            held |= 1 << sample
        self._samples[problem] = held
        self._rows[problem] = self._rows[problem] + sums if problem in self._rows else sums

    @property
    def problems(self) -> tuple[ProblemId, ...]:
        """The problems, in the order in which they occur."""
        return tuple(self._rows)

    @property
    def completions(self) -> int:
        """How many there are in all."""
        return int(self.by_problem("completions").sum())

    def by_problem(self, column: str) -> Float[np.ndarray, " problem"]:
        """For each problem the completions of which the outcome is true; or `completions`, or `tokens`."""
        place = _COLUMNS.index(column)
        return np.array([row[place] for row in self._rows.values()], dtype=float)

    def in_order_of(self, other: "ArmCounts", *, names: tuple[str, str]) -> "ArmCounts":
        """These counts with the problems in the order of another arm, of the same sample keys.

        Raises:
            InputError: The two do not hold the same sample keys; `names` says what they are.
        """
        problems = dict.fromkeys((*other._samples, *self._samples))
        alone = sum((self._samples.get(p, 0) ^ other._samples.get(p, 0)).bit_count() for p in problems)
        if alone:
            raise InputError(
                f"{names[0]} and {names[1]} do not hold the same sample keys ({alone} are in one alone); "
                "sample both in full"
            )
        rows = {problem: self._rows[problem] for problem in other._rows}
        return ArmCounts(self.name, rows, {problem: self._samples[problem] for problem in rows})


def count_arms(events: Iterable[Event]) -> dict[str, ArmCounts]:
    """The counts of each condition, in the order in which conditions occur.

    Raises:
        InputError: There are no events, they mix formatting variants, or a condition has two events of one
            sample, as when two runs or an ablated arm are read as one.
    """
    arms: dict[str, list[Event]] = {}
    variants: set[str] = set()
    for event in events:
        variants.add(event.variant)
        arms.setdefault(event.condition, []).append(event)
    check_variants(variants)
    return {name: ArmCounts.of(name, arm) for name, arm in arms.items()}


def count_tables(tables: Iterable[pd.DataFrame]) -> dict[str, dict[str, ArmCounts]]:
    """The counts of each variant and condition, from parts of the events' table read one after another.

    Raises:
        InputError: A condition has two events of one sample.
    """
    variants: dict[str, dict[str, ArmCounts]] = {}
    for rows in tables:
        keys = rows[["variant", "condition", "example_id"]].astype(str)
        group = keys.groupby(list(keys), sort=False).ngroup().to_numpy()
        columns = [np.ones(len(rows)), *(rows["verdict"] == word for word in VERDICTS)]
        columns += [rows["has_backtracking_strict"], rows["degenerate"], rows["completion_tokens"]]
        values = np.column_stack([np.asarray(column, dtype=np.int64) for column in columns])
        firsts = keys[~keys.duplicated()].itertuples(index=False)
        sums = np.zeros((int(group.max(initial=-1)) + 1, len(_COLUMNS)), dtype=np.int64)
        np.add.at(sums, group, values)
        samples: list[list[int]] = [[] for _ in sums]
        for place, sample in zip(group.tolist(), rows["sample_id"].tolist(), strict=True):
            samples[place].append(sample)
        for key, sample_ids, total in zip(firsts, samples, sums, strict=True):
            arms = variants.setdefault(str(key.variant), {})
            name = str(key.condition)
            arms.setdefault(name, ArmCounts(name)).add(str(key.example_id), sample_ids, total)
    return variants


def check_variants(variants: Iterable[str]) -> None:
    """Refuse none and several.

    Raises:
        InputError: There are no events, or they mix formatting variants.
    """
    found = sorted(set(variants))
    if not found:
        raise InputError("no events to compare; sample something first")
    if len(found) > 1:
        raise InputError(f"conditions are compared within one variant, not over {found}; choose one")
