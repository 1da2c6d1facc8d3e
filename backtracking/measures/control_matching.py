"""Finding the control of an event: a position like the event's, at which no trigger follows and none is near."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import regex as re
import torch
from jaxtyping import Float
from transformer_lens.tools.analysis import logit_readout

from backtracking.core.completions import Completion
from backtracking.core.errors import InputError
from backtracking.measures.control_pools import Group, Marks, Place, Pool
from backtracking.model.last_position import last_logits_only
from backtracking.model.reasoner import HookedReasoner

Match = Literal["position", "sentence", "entropy"]
CHUNK = 8
"""Completions, at random, whose entropies are computed before the best of their places is taken."""
_LOOK_BACK = 64
"""Characters before a token in which the end of a sentence is looked for."""
_BOUNDARY = re.compile(r"""(?:[.!?…:]["'”’)\]*]*\s+|[。！？]\s*|\n\s*|</?think>\s*)$""")


@dataclass(frozen=True)
class Found:
    """Places for the controls of one event."""

    places: tuple[Place, ...]
    reason: str
    """Why there are not more, should there be too few."""


def check_match(match: Sequence[Match], model: HookedReasoner | None) -> None:
    """Refuse a way of matching that does not exist or lacks what it needs.

    Raises:
        InputError: An unknown word, no `position`, or `entropy` without a model.
    """
    unknown = [word for word in match if word not in get_args(Match)]
    if unknown or "position" not in match:
        raise InputError(f"cannot match on {list(match)}; give position, and optionally sentence and entropy")
    if "entropy" in match and model is None:
        raise InputError("matching on entropy needs the model; give model=")


def begins_sentence(completion: Completion, position: int) -> bool:
    """Whether the token at `position` of the completion begins a sentence or line.

    That is so at the start of the completion, after a line break or a thinking tag, and after . ! ? … or : and
    white space, which may belong to the token itself.
    """
    piece = completion.token_text(position)
    start = completion.offsets[position]
    blank = len(piece) - len(piece.lstrip())
    end = start + (blank if blank < len(piece) else 0)
    before = completion.text[max(0, end - _LOOK_BACK) : end]
    return not completion.text[:end].strip() or _BOUNDARY.search(before) is not None


def next_token_entropies(
    model: HookedReasoner, completion: Completion, *, chunk: int = 64
) -> Float[np.ndarray, " token"]:
    """Entropy, in nats, of the model's distribution over each token of a completion, at temperature 1.

    The vocabulary is read `chunk` positions at a time and never for the whole sequence.
    """
    name = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    last = len(completion.prompt_ids) + len(completion.ids) - 1
    ids = [*completion.prompt_ids, *completion.ids][:last]
    _, cache = model.run_with_cache(ids, names_filter=[name], **last_logits_only(model))
    resid = cache[name][0, len(completion.prompt_ids) - 1 :]
    entropy = logit_readout(model.bridge, resid, top_k=1, chunk_size=chunk).entropy
    return entropy.to(torch.float64).cpu().numpy()


_Source = Literal["problem", "elsewhere", "itself"]


@dataclass(frozen=True)
class _Tier:
    """One round of the search; earlier rounds give better controls."""

    behind: bool
    """Whether places behind a trigger of their completion are looked at, rather than those before any."""
    again: bool
    """Whether a context may serve that serves already."""
    source: _Source
    """Other completions of the event's problem, those of other problems, or the event's own."""


_TIERS = tuple(
    _Tier(behind, again, source) for behind in (False, True) for again in (False, True) for source in get_args(_Source)
)


class Matcher:
    """Baseline completions by variant and problem, and which of their contexts serve as controls already."""

    def __init__(
        self,
        baseline: Sequence[Completion],
        marks: Marks,
        *,
        match: tuple[Match, ...],
        tolerance: int,
        model: HookedReasoner | None,
        rng: np.random.Generator,
    ) -> None:
        """Take the completions and where they backtrack."""
        by_variant: dict[str, list[Completion]] = {}
        by_problem: dict[tuple[str, int | str], list[Completion]] = {}
        for completion in baseline:
            by_variant.setdefault(completion.variant, []).append(completion)
            by_problem.setdefault((completion.variant, completion.problem_id), []).append(completion)
        self._everywhere = {key: Group(rows, marks) for key, rows in by_variant.items()}
        self._at_home = {key: Group(rows, marks) for key, rows in by_problem.items()}
        self._marks = marks
        self._match = match
        self._tolerance = tolerance
        self._model = model
        self._rng = rng
        self._used: set[tuple[int, ...]] = set()
        self._pools: dict[tuple[Hashable, ...], Pool] = {}
        self._entropies: dict[int, Float[np.ndarray, " token"]] = {}

    def controls(self, events: Sequence[Place], count: int) -> list[Found]:
        """So many places for each event, fewer if no more fit.

        Every event looks in the other completions of its own problem first, then those that lack some in other
        problems, then well before the event in its own completion; then among places that serve already; and only
        then behind a trigger. Each time in random order, so that no event has first choice.

        Args:
            events: Places in the completions given, the same objects.
            count: Controls of each.
        """
        places: list[list[Place]] = [[] for _ in events]
        for tier in _TIERS:
            lacking = [index for index, found in enumerate(places) if len(found) < count]
            for index in self._rng.permutation(lacking).tolist():
                while len(places[index]) < count:
                    place = self._place(events[index], tier, places[index])
                    if place is None:
                        break
                    places[index].append(place)
                    self._used.add(place.context)
        return [Found(tuple(p), self._reason(e, len(p), count)) for e, p in zip(events, places, strict=True)]

    def _reason(self, wanted: Place, found: int, count: int) -> str:
        boundary = ", at the same kind of sentence boundary" if "sentence" in self._match else ""
        return (
            f"{found} of {count} controls: no other position within {self._tolerance} tokens of position "
            f"{wanted.position} and more than {self._marks.clearance} from every trigger{boundary}"
        )

    def _place(self, wanted: Place, tier: _Tier, taken: Sequence[Place]) -> Place | None:
        """The best place of the round, None if none fits; ties are broken at random."""
        own = wanted.completion
        key: tuple[Hashable, ...] = own.variant, own.problem_id
        group = home = self._at_home[own.variant, own.problem_id]
        if tier.source == "problem" and len(home) == 1:
            return None
        if tier.source == "elsewhere":
            key, group = (own.variant,), self._everywhere[own.variant]
            if len(group) == len(home):
                return None
        elif tier.source == "itself":
            key, group = (*key, own.sample_id), Group([own], self._marks)
        served = {place.context for place in taken}
        if "entropy" in self._match:
            return self._most_alike(wanted, tier, group, served)
        kind = self._kind(wanted)
        for position in self._positions(wanted):
            name = (*key, position, kind, tier.behind, tier.again)
            if name not in self._pools:
                self._pools[name] = group.pool(position, behind=tier.behind)
            found = self._pools[name].draw(
                self._rng,
                never=partial(self._never, position=position, kind=kind, tier=tier),
                fits=partial(self._serves, position=position, wanted=wanted, source=tier.source, served=served),
            )
            if found is not None:
                return Place(found, position)
        return None

    def _positions(self, wanted: Place) -> Iterator[int]:
        """Positions within the tolerance, nearest first; of two as near, either first."""
        for distance in range(self._tolerance + 1):
            sides = [-distance, distance] if self._rng.integers(2) else [distance, -distance]
            yield from (at for at in dict.fromkeys(wanted.position + side for side in sides) if at >= 0)

    def _kind(self, wanted: Place) -> bool | None:
        """Whether a sentence begins at the event; None where that is not matched."""
        return begins_sentence(wanted.completion, wanted.position) if "sentence" in self._match else None

    def _never(self, row: Completion, position: int, kind: bool | None, tier: _Tier) -> bool:
        """Whether no event with this kind of boundary can have its control there in such a round."""
        if tier.behind and (position < self._marks.clear_until(row) or self._marks.near(row, position)):
            return True
        if kind is not None and begins_sentence(row, position) != kind:
            return True
        if not tier.again and Place(row, position).context in self._used:
            return True
        return self._marks.leads_to_event(row, position)

    def _serves(
        self, row: Completion, position: int, wanted: Place, source: _Source, served: set[tuple[int, ...]]
    ) -> bool:
        """Whether a place that may be a control is of the source, and not one that this event has already."""
        own = wanted.completion
        of_the_source = {
            "problem": row is not own,
            "elsewhere": row.problem_id != own.problem_id,
            "itself": position < wanted.position - self._marks.clearance,
        }
        return of_the_source[source] and Place(row, position).context not in served

    def _most_alike(self, wanted: Place, tier: _Tier, group: Group, served: set[tuple[int, ...]]) -> Place | None:
        """Of the places in a few completions, the one whose entropy is nearest; more completions if none fits."""
        target, kind = self._entropy(wanted), self._kind(wanted)
        rows = group.reaching(max(0, wanted.position - self._tolerance), behind=tier.behind)
        order = self._rng.permutation(len(rows)).tolist()
        for begin in range(0, len(rows), CHUNK):
            fitting = [
                Place(row, position)
                for row in (rows[index] for index in order[begin : begin + CHUNK])
                for position in self._positions(wanted)
                if position < (len(row.ids) if tier.behind else self._marks.clear_until(row))
                and self._serves(row, position, wanted, tier.source, served)
                and not self._never(row, position, kind, tier)
            ]
            if fitting:
                return min(fitting, key=lambda place: abs(self._entropy(place) - target))
        return None

    def _entropy(self, place: Place) -> float:
        assert self._model is not None
        key = id(place.completion)
        if key not in self._entropies:
            self._entropies[key] = next_token_entropies(self._model, place.completion)
        return float(self._entropies[key][place.position])
