"""The packed engine: a whole sweep decoded as one batch, on the plain model.

Rows of any problems and conditions sit side by side. Each distinct prompt is run once for all its
samples, and for all conditions that leave the prompt alone. A row that finishes makes room for the
next at once; when none is left to seat, the batch shrinks. transformers' continuous batching is not
used: it knows neither interventions by row nor noise by row.
"""

from collections import deque
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from backtracking.core.completions import Completion, Completions
from backtracking.core.errors import NotFiniteError
from backtracking.core.interventions import Ban
from backtracking.core.settings import Settings
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling.alone import alone
from backtracking.model.sampling.attention import use_packed_attention
from backtracking.model.sampling.bans import Bans
from backtracking.model.sampling.captured import Capture, Steps
from backtracking.model.sampling.choice import choose
from backtracking.model.sampling.edits import Edits, Spec, Tally
from backtracking.model.sampling.finish import completion_of, not_finite
from backtracking.model.sampling.noise import row_key
from backtracking.model.sampling.packed_cache import BLOCK, READ, PackedCache, Packing
from backtracking.model.sampling.plan import Row
from backtracking.model.sampling.prefixes import AHEAD, Prefix, Prefixes
from backtracking.model.sampling.refusals import steady_length
from backtracking.model.sampling.replaced import Replaced
from backtracking.model.sampling.seating import Seating
from backtracking.model.sampling.taps import Taps, no_taps
from backtracking.model.threads import threads_for

EMPTY = -1
"""Row of a seat in which nobody sits."""
ALL = slice(None)
"""Every seat."""
STEP, LAST = 16, 4
"""Seats by which a batch shrinks, and by which one of no more than that many does."""
SHRINK = 12
"""The batch is repacked when one in this many of its rows has finished."""


@alone
@torch.inference_mode()
def run_unit(
    model: HookedReasoner,
    rows: Sequence[Row],
    settings: Settings,
    *,
    seats: int | None = None,
    taps: Taps | None = None,
    capture: Capture | None = None,
) -> Completions:
    """Sample every row of a unit.

    Args:
        model: The reasoner.
        rows: What to sample, prompts of like length together.
        settings: How.
        seats: Rows decoded at once; all of them if not given.
        taps: Sites that are read meanwhile.
        capture: How to capture the pass of a step, where nothing but tokens and positions changes between steps: not
            where sites are read, or an intervention acts at given positions, or keys depend on a text's length.

    Raises:
        ReceiptError: An intervention touched other positions than the sampled tokens say.
        InputError: The architecture is not one that this engine can run.
    """
    module, seats = model.plain.module, min(seats or len(rows), len(rows))
    use_packed_attention(module)
    batch = _Batch(model, rows, settings, seats, taps or no_taps(model), capture)
    with threads_for(module), Replaced.of(module).installed(), batch.edits.installed(), batch.taps.installed():
        try:
            while batch.seat_rows():
                batch.step()
        finally:
            batch.forward.forget()
    return Completions(batch.done[index] for index in range(len(rows)))


class _Batch:
    """The rows being decoded, each in a seat, and those that wait for one."""

    def __init__(
        self,
        model: HookedReasoner,
        rows: Sequence[Row],
        settings: Settings,
        seats: int,
        taps: Taps,
        capture: Capture | None,
    ) -> None:
        self.model, self.rows, self.settings, self.device = model, rows, settings, model.device
        self.taps = taps
        self.done: dict[int, Completion] = {}
        self.queue = deque(range(len(rows)))
        of_rows = [Prefix.of(row.prompt_ids, row.condition.interventions, row.prompt_tokens) for row in rows]
        listed = [*(prefix.spec for prefix in of_rows), *(row.condition.interventions for row in rows)]
        specs: dict[Spec, int] = {spec: index for index, spec in enumerate(dict.fromkeys(listed))}
        self.edits = Edits(model, list(specs))
        self.edits.count_from_zero(seats)
        if taps.sites or any(stage.by_position for stage in self.edits.all) or steady_length(model) is not None:
            capture = None
        self.forward = Steps(model, capture)
        self.bans = Bans(model, rows)
        width = max(len(row.prompt_ids) for row in rows)
        entries = min(len(set(of_rows)), seats + AHEAD)
        grain = READ if capture is None else BLOCK  # a captured pass lasts for as long as it reads the same columns
        self.cache = PackedCache(seats=seats, entries=entries, width=width, grain=grain)
        self.prefixes = Prefixes(model, self.edits, specs, self.cache, of_rows)
        self.prefix_of = of_rows
        taps.begin(of_rows, seats, settings.max_new_tokens)
        self.spec_of = [specs[row.condition.interventions] for row in rows]
        self.stop_ids, self.stops = model.stop_ids, set(model.stop_ids.tolist())
        keys = [row_key(settings.seed, row.problem_id, row.sample_id) for row in rows]
        self.keys = torch.tensor(keys, device=self.device)
        # One row more, for seats in which nobody sits, and one token more, for rows that have finished.
        shape = (len(rows) + 1, settings.max_new_tokens + 1)
        self.sampled = torch.zeros(shape, dtype=torch.long, device=self.device)

        def empty(value: int = 0) -> Int[Tensor, " seat"]:
            return torch.full((seats,), value, dtype=torch.long, device=self.device)

        self.row, self.live = empty(EMPTY), empty().bool()
        self.prefix, self.prompt, self.start = empty(), empty(), empty()
        self.steps, self.next_ids, self.spec = empty(), empty(), empty()
        self.seating: Seating | None = None
        self.settled = False
        """Whether no row has finished since seats were last given."""

    def seat_rows(self) -> bool:
        """Give free seats to rows that wait; False when no row is left to decode."""
        if self.settled:
            return True
        while self.queue:
            free = (~self.live).nonzero().flatten().tolist()[: len(self.queue)]
            if not free:
                break
            self._seat(free)
        self._shrink()
        self.settled = True
        return bool(self.live.any())

    def step(self) -> None:
        """One token more for every row."""
        if self.cache.filled == self.cache.columns:
            self.start -= self.cache.advance(int(self.start[self.live].min()), len(self.live))
        positions = self.prompt + self.steps - 1
        if self.seating is None:
            self.seating = Seating.of(self.prefix, self.prompt, self.start)
            self.edits.bind(self.spec, positions[:, None], self.prompt)
        else:
            self.edits.move(self.spec, positions[:, None], self.prompt)
        ids, lasting = self.next_ids[:, None], not self.queue
        logits = self.forward(ids, positions, self.cache, self.seating, lasting=lasting)
        self.cache.filled += 1
        self.taps.keep_step(self.steps - 1)
        self._sample(logits, ALL)

    def _seat(self, seats: list[int]) -> None:
        """Put the next rows into the seats and sample their first tokens."""
        if not bool(self.live.any()):
            self.cache.filled = 0
        logits = []
        for seat in seats:
            self._leave(seat)
            row = self.queue.popleft()
            prefix = self.prefix_of[row]
            if not self.prefixes.has(prefix):
                if not self.prefixes.has_room():
                    self._tidy()
                self.taps.keep_prompts(self.prefixes.run_next())
            self.prefix[seat], first = self.prefixes.seat(prefix)
            self.row[seat], self.spec[seat], self.prompt[seat] = row, self.spec_of[row], len(prefix.ids)
            logits.append(first)
        taken = torch.tensor(seats, device=self.device)
        self.start[taken], self.steps[taken], self.live[taken] = self.cache.filled, 0, True
        self.edits.restart(taken)
        self.seating = None
        self._sample(torch.stack(logits), taken)

    def _sample(self, logits: Float[Tensor, "some vocab"], seats: Int[Tensor, " some"] | slice) -> None:
        """Choose the next token of the rows in those seats; those that end leave with a completion."""
        rows, live, steps = self.row[seats], self.live[seats], self.steps[seats]
        allowed, settings = self.bans.apply(logits, rows, live), self.settings
        nucleus = {"temperature": settings.temperature, "top_p": settings.top_p}
        try:
            tokens = choose(allowed, **nucleus, keys=self.keys[rows], positions=steps)
        except NotFiniteError as error:
            taken = rows != EMPTY
            raise not_finite([self.rows[row] for row in rows[taken].tolist()], allowed[taken]) from error
        ended = live & (torch.isin(tokens, self.stop_ids) | (steps + 1 == self.settings.max_new_tokens))
        # Where nobody sits, or somebody who has finished, what is written is never read.
        self.sampled[rows, steps] = tokens
        self.next_ids[seats] = tokens
        self.steps[seats] += live
        finished = ended.nonzero().flatten() if isinstance(seats, slice) else seats[ended]
        if len(finished):
            self.live[finished] = False
            self.settled = False
            self._finish(finished)

    def _finish(self, seats: Int[Tensor, " some"]) -> None:
        rows, steps, places = self.row[seats].tolist(), self.steps[seats].tolist(), seats.tolist()
        ids = self.sampled[self.row[seats]].tolist()
        counted = self.edits.counted(seats, [self.spec_of[row] for row in rows])
        for index, row in enumerate(rows):
            prompt = self.prefixes.tally(self.prefix_of[row])
            receipts = []
            for intervention in self.rows[row].condition.interventions:
                if not isinstance(intervention, Ban):
                    name = str(intervention)
                    receipts.append((counted[index][name] + prompt.get(name, Tally(0, 0.0))).receipt(name))
            receipts += self.bans.receipts(row)
            self.done[row] = completion_of(
                self.model, self.rows[row], ids[index][: steps[index]], tuple(receipts), self.stops
            )
            self.taps.finish(row, places[index], self.prefix_of[row], self.done[row])

    def _leave(self, seat: int) -> None:
        if (row := int(self.row[seat])) != EMPTY:
            self.prefixes.leave(self.prefix_of[row])
            self.row[seat] = EMPTY

    def _tidy(self) -> None:
        """Drop prefixes that no row needs any more."""
        if (renumbered := self.prefixes.tidy()) is not None:
            self.prefix = renumbered[self.prefix]

    def _shrink(self) -> None:
        """Repack the batch once enough of its rows have finished and none waits.

        A few empty seats stay, so that the number of seats takes few values: matrix kernels are
        prepared anew for every shape.
        """
        empty = (~self.live).nonzero().flatten().tolist()
        living = len(self.live) - len(empty)
        by = STEP if living > STEP else LAST
        spare = -living % by
        if self.queue or not living or len(empty) - spare < max(by, len(self.live) // SHRINK):
            return
        keep = self.live.clone()
        keep[empty[:spare]] = True
        for seat in empty[spare:]:
            self._leave(seat)
        packing = Packing.of(keep)
        for kept in self.cache.added.values():
            kept.move(packing.source, packing.target)
        self.edits.pack(packing)
        self.taps.pack(packing)
        for name in ("row", "live", "prefix", "prompt", "start", "steps", "next_ids", "spec"):
            setattr(self, name, packing(getattr(self, name)))
        self._tidy()
        self.seating = None
