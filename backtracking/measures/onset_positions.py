"""Where in its completion a model first turns back, as a share of the completion's tokens."""

from dataclasses import dataclass
from typing import Literal

import pandas as pd

from backtracking.core.errors import InputError


@dataclass(frozen=True)
class OnsetPosition:
    """The first strict onset that counts, of one completion."""

    problem_id: str
    sample_id: int
    token: int
    """Its index among the sampled tokens."""
    tokens: int
    """Sampled tokens of the completion, the stop token included."""

    @property
    def share(self) -> float:
        """0 is the first sampled token; the last is just below 1."""
        return self.token / self.tokens


@dataclass(frozen=True)
class PositionGroup:
    """The completions of one condition or variant."""

    name: str
    completions: int
    onsets: tuple[OnsetPosition, ...]


@dataclass(frozen=True)
class OnsetPositions:
    """Onsets by group, in the order in which groups occur; one without onsets is there, and empty."""

    by: Literal["condition", "variant"]
    groups: tuple[PositionGroup, ...]

    def to_pandas(self) -> pd.DataFrame:
        """One row per onset: the group, problem_id, sample_id, token, tokens, share."""
        rows = [
            (group.name, each.problem_id, each.sample_id, each.token, each.tokens, each.share)
            for group in self.groups
            for each in group.onsets
        ]
        return pd.DataFrame(rows, columns=[self.by, "problem_id", "sample_id", "token", "tokens", "share"])


def onset_positions(events: pd.DataFrame, *, by: Literal["condition", "variant"] = "condition") -> OnsetPositions:
    """Read the positions of the first onsets from a table of events.

    Args:
        events: As in a run's events.parquet, or `table(events, Event)`.
        by: What makes a group; of the other there must be one only, since groups are never pooled.

    Raises:
        InputError: There are no events, a sample stands there twice, or they mix variants (or, by variant,
            conditions).
    """
    if not len(events):
        raise InputError("no events: there is no onset to place; detect events first")
    other = "variant" if by == "condition" else "condition"
    mixed = sorted(map(str, events[other].unique()))
    if len(mixed) > 1:
        raise InputError(f"the events mix {other}s ({', '.join(mixed[:5])}); choose one of them")
    twice = events.duplicated([by, "example_id", "sample_id"])
    if twice.any():
        raise InputError(f"{int(twice.sum())} samples stand in the events twice; give each completion once")
    return OnsetPositions(by, tuple(_group(str(name), rows) for name, rows in events.groupby(by, sort=False)))


def _group(name: str, rows: pd.DataFrame) -> PositionGroup:
    found = rows[rows["onset_token_in_completion"].notna()]
    columns = ("example_id", "sample_id", "onset_token_in_completion", "completion_tokens")
    onsets = [
        OnsetPosition(str(problem), int(sample), int(token), int(tokens))
        for problem, sample, token, tokens in zip(*(found[column] for column in columns), strict=True)
    ]
    return PositionGroup(name, len(rows), tuple(onsets))
