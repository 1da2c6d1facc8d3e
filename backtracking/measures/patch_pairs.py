"""What patching compares: an onset and its control, one of which runs while the other lends its activations."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from backtracking.core.errors import InputError
from backtracking.measures.decision_points import DecisionPoint, DecisionPoints
from backtracking.measures.tails import Tails, batches
from backtracking.model.reasoner import HookedReasoner

Direction = Literal["denoise", "noise"]


@dataclass(frozen=True)
class Pair:
    """An onset and one of its controls."""

    event: DecisionPoint
    control: DecisionPoint

    def receiver(self, direction: Direction) -> DecisionPoint:
        """The run that is patched."""
        return self.control if direction == "denoise" else self.event

    def donor(self, direction: Direction) -> DecisionPoint:
        """The run whose activations are put in."""
        return self.event if direction == "denoise" else self.control


def pairs_of(points: DecisionPoints) -> tuple[Pair, ...]:
    """Every control with its own event.

    Raises:
        InputError: There are no controls.
    """
    if not points.controls:
        raise InputError("there are no controls to patch with; make decision points with controls")
    return tuple(Pair(points.events[control.event], control) for control in points.controls)


def check_direction(direction: str) -> None:
    """Refuse an unknown direction.

    Raises:
        InputError: It is neither.
    """
    if direction not in get_args(Direction):
        raise InputError(f"no direction is called {direction!r}; give one of {', '.join(get_args(Direction))}")


@dataclass(frozen=True)
class PairBatch:
    """Pairs that run together."""

    rows: tuple[int, ...]
    """Indices of the pairs."""
    receivers: Tails
    donors: Tails


def paired_batches(
    model: HookedReasoner, pairs: Sequence[Pair], direction: Direction, *, window: int
) -> Iterator[PairBatch]:
    """Both runs of every pair up to their last `window` tokens, shortest pairs first."""
    lengths = [max(len(pair.event.context), len(pair.control.context)) for pair in pairs]
    for rows in batches(lengths, model):
        chosen = [pairs[row] for row in rows]
        receivers = Tails.of(model, [pair.receiver(direction).context for pair in chosen], window=window)
        donors = Tails.of(model, [pair.donor(direction).context for pair in chosen], window=window)
        yield PairBatch(tuple(rows), receivers, donors)
