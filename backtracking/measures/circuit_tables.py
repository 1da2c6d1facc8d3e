"""A circuit: its nodes, how faithful it is at every size, and what random sets of that size keep."""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float

from backtracking.core.clustered_ratios import clustered_ratio
from backtracking.core.errors import InputError
from backtracking.core.null_draws import NullRank, null_rank
from backtracking.core.sites import Site
from backtracking.core.statistics import Estimate
from backtracking.measures.trigger_reading import Reading


@dataclass(frozen=True)
class SmallestCircuit:
    """The smallest set that keeps what was asked for, by the half of the problems that chose it."""

    keeps: float
    """Share that was asked for: its faithfulness is no further from 1 than this share is."""
    sites: tuple[Site, ...]
    window: int
    """Last positions at which the other nodes were held at their mean; before them the whole model ran."""
    selecting: float
    """Its faithfulness on the half that chose it."""
    faithfulness: Estimate
    """On the other half."""
    random: NullRank
    """Among random sets of as many heads and MLPs, on the other half."""

    def __str__(self) -> str:
        """Return it in one line."""
        low, high = 100 * self.random.low, 100 * self.random.high
        what, them = ("node keeps", "it") if len(self.sites) == 1 else ("nodes keep", "them")
        return (
            f"{len(self.sites)} {what} {self.faithfulness.percent()} of the trigger on problems that did not choose "
            f"{them}, the others held at their mean at {last_positions(self.window)} (random sets {low:.1f} to "
            f"{high:.1f} %): {', '.join(map(str, self.sites))}"
        )


def last_positions(window: int) -> str:
    """In words, the positions at which nodes were ablated."""
    return "the prediction position alone" if window == 1 else f"the last {window} positions"


@dataclass(frozen=True)
class Circuit:
    """Nodes, the last to be taken away first, and readings in nats under what each size keeps.

    Faithfulness is (circuit - nothing) / (whole - nothing) of the readings' sums: 0 with everything at its mean, 1 for
    the whole model; above 1 where the rest of the model held the trigger back.
    """

    order: tuple[Site, ...]
    """The circuit of size k is the first k."""
    sizes: tuple[int, ...]
    """Those that were measured."""
    reading: Reading
    reference: str
    """Whose means stand in for what is not kept."""
    reference_contexts: int
    window: int
    """Last positions at which nodes that are not kept are held at their mean."""
    selecting_problems: int
    """Problems that chose the order; those of the readings below, unless named so, are others."""
    problems: tuple[Hashable, ...]
    """Of each measured event."""
    full: Float[np.ndarray, " event"]
    none: Float[np.ndarray, " event"]
    kept: Float[np.ndarray, "event size"]
    random: Float[np.ndarray, "event size draw"]
    """Under random sets of as many heads and MLPs."""
    selecting_full: Float[np.ndarray, " selecting"]
    selecting_none: Float[np.ndarray, " selecting"]
    selecting_kept: Float[np.ndarray, "selecting size"]

    @property
    def draws(self) -> int:
        """Random sets per size."""
        return self.random.shape[2]

    def faithfulness(self, size: int) -> Estimate:
        """Of the circuit of that size, on problems that did not choose it, clustered by problem.

        Raises:
            InputError: The size was not measured.
        """
        return self._estimates[self._column(size)]

    def selecting_faithfulness(self, size: int) -> float:
        """The same on the problems that chose the circuit; too high, since it was chosen there.

        Raises:
            InputError: The size was not measured.
        """
        gained = self.selecting_kept[:, self._column(size)] - self.selecting_none
        return float(gained.sum() / (self.selecting_full - self.selecting_none).sum())

    def random_faithfulness(self, size: int) -> NullRank:
        """Where the circuit stands among the random sets of its size; p counts those at least as faithful.

        Raises:
            InputError: The size was not measured.
        """
        column = self._column(size)
        gap = (self.full - self.none).sum()
        drawn = (self.random[:, column] - self.none[:, None]).sum(0) / gap
        return null_rank(self._estimates[column].value, drawn.tolist(), side="greater")

    def smallest(self, keeps: float = 0.8) -> SmallestCircuit:
        """The smallest measured size whose faithfulness, on the half that chose it, is near enough to the whole's.

        Near enough is |1 - faithfulness| <= 1 - keeps, since nodes were taken away by how far the reading moved, up
        or down. A set that keeps 450 % lacks what holds the trigger back, and is further from the whole than nothing.

        Args:
            keeps: Share of the trigger; 0.8 takes a faithfulness of 0.8 to 1.2.

        Raises:
            InputError: `keeps` is not above 0 and at most 1, or no measured size is that near.
        """
        if not 0 < keeps <= 1:
            raise InputError(f"a circuit cannot be asked to keep {keeps}; give a share above 0, at most 1")
        # The whole model keeps exactly 1, but only if it was among the sizes.
        enough = [size for size in self.sizes if abs(1 - self.selecting_faithfulness(size)) <= 1 - keeps + 1e-9]
        if not enough:
            raise InputError(
                f"none of the sizes {list(self.sizes)} keeps {keeps:g} to {2 - keeps:g} of the trigger; "
                "measure larger ones"
            )
        size = enough[0]
        return SmallestCircuit(
            keeps,
            self.order[:size],
            self.window,
            self.selecting_faithfulness(size),
            self.faithfulness(size),
            self.random_faithfulness(size),
        )

    def to_pandas(self) -> pd.DataFrame:
        """One row per size: `added` (the node of that rank), numbers of heads and MLPs, and faithfulness.

        `faithfulness` has its 95 % interval clustered by problem, on problems that did not choose; `selecting` is that
        of those that did; `random_low`, `random_median` and `random_high` are 2.5, 50 and 97.5 % of the random sets;
        `window` is the number of last positions at which nodes were ablated.
        """
        rows = []
        for size in self.sizes:
            estimate, rank = self.faithfulness(size), self.random_faithfulness(size)
            heads = sum(node.head is not None for node in self.order[:size])
            rows.append(
                {
                    "size": size, "added": str(self.order[size - 1]), "heads": heads, "mlps": size - heads,
                    "faithfulness": estimate.value, "faithfulness_low": estimate.low,
                    "faithfulness_high": estimate.high, "selecting": self.selecting_faithfulness(size),
                    "random_low": rank.low, "random_median": rank.median, "random_high": rank.high,
                    "random_p": rank.p_value, "draws": rank.draws, "events": estimate.n,
                    "problems": estimate.clusters, "selecting_problems": self.selecting_problems,
                    "reference": self.reference, "reference_contexts": self.reference_contexts,
                    "window": self.window,
                }
            )  # fmt: skip
        return pd.DataFrame(rows)

    @cached_property
    def _estimates(self) -> tuple[Estimate, ...]:
        gap = self.full - self.none
        return tuple(
            clustered_ratio(self.kept[:, column] - self.none, gap, self.problems) for column in range(len(self.sizes))
        )

    def _column(self, size: int) -> int:
        if size not in self.sizes:
            raise InputError(f"size {size} was not measured; sizes are {list(self.sizes)}")
        return self.sizes.index(size)
