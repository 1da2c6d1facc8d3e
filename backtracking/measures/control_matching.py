"""Finding the control of an event: a position like the event's at which no trigger follows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import regex as re
import torch
from jaxtyping import Float
from transformer_lens.tools.analysis import logit_readout

from backtracking.core.completions import Completion
from backtracking.core.errors import InputError
from backtracking.core.onsets import Lexicon, find_onsets
from backtracking.model.last_position import last_logits_only
from backtracking.model.reasoner import HookedReasoner

Match = Literal["position", "sentence", "entropy"]
FIRST = 32
"""Completions of a pool that are put in order before any is looked at; few events look further."""
_LOOK_BACK = 64
"""Characters before a token in which the end of a sentence is looked for."""
_BOUNDARY = re.compile(r"""(?:[.!?…:]["'”’)\]*]*\s+|[。！？]\s*|\n\s*|</?think>\s*)$""")


@dataclass(frozen=True)
class Wanted:
    """The event's place, to which controls are matched."""

    completion: Completion
    position: int


@dataclass(frozen=True)
class Found:
    """Places for the controls of one event."""

    places: tuple[tuple[Completion, int], ...]
    """Completion, and index in it of the token that is predicted."""
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


class _Pool:
    """Completions of a variant, of one problem or of all but one, in random order; made as far as they are looked at.

    The random order of all of them is drawn at once. It is the one thing that costs as much as there are
    completions, for each event that finds no control at home.
    """

    def __init__(self, every: Sequence[Completion], own: Sequence[int], home: bool, rng: np.random.Generator) -> None:
        self._every, self._own, self._home = every, own, home
        self._order = rng.permutation(len(own) if home else len(every) - len(own))
        self._begin = self._made(self._order[:FIRST])
        self._rest: list[Completion] | None = None

    def __iter__(self) -> Iterator[Completion]:
        """The completions, always in the same order."""
        yield from self._begin
        if self._rest is None:
            self._rest = self._made(self._order[FIRST:])
        yield from self._rest

    def _made(self, order: np.ndarray) -> list[Completion]:
        own = np.array(self._own, dtype=int)
        if self._home:
            return [self._every[index] for index in own[order].tolist()]
        before = np.searchsorted(own - np.arange(len(own)), order, side="right")  # own ones that are passed over
        return [self._every[index] for index in (order + before).tolist()]


class Matcher:
    """Baseline completions by variant and problem, and which of their contexts serve as controls already."""

    def __init__(
        self,
        baseline: Sequence[Completion],
        taboo: set[tuple[int, ...]],
        *,
        match: tuple[Match, ...],
        tolerance: int,
        lexicon: Lexicon,
        model: HookedReasoner | None,
        rng: np.random.Generator,
    ) -> None:
        """Take the completions and the contexts at which the model did backtrack, which are no controls."""
        self._by_variant: dict[str, list[Completion]] = {}
        self._own: dict[tuple[str, int | str], list[int]] = {}
        for completion in baseline:
            every = self._by_variant.setdefault(completion.variant, [])
            self._own.setdefault((completion.variant, completion.problem_id), []).append(len(every))
            every.append(completion)
        self._taboo = taboo
        self._match = match
        self._tolerance = tolerance
        self._lexicon = lexicon
        self._model = model
        self._rng = rng
        self._used: set[tuple[int, ...]] = set()
        self._triggers: dict[int, frozenset[int]] = {}
        self._entropies: dict[int, Float[np.ndarray, " token"]] = {}

    def controls(self, events: Sequence[Wanted], count: int) -> list[Found]:
        """So many places for each event, fewer if no more fit.

        First every event looks in its own problem, then those that lack some elsewhere, then among places that
        serve already; each time in random order, so that no event has first choice.
        """
        places: list[list[tuple[Completion, int]]] = [[] for _ in events]
        own: list[set[tuple[int, ...]]] = [set() for _ in events]
        for home, again in ((True, False), (False, False), (True, True), (False, True)):
            for index in self._rng.permutation(len(events)).tolist():
                for place in self._ordered(events[index], home=home) if len(places[index]) < count else ():
                    completion, position = place
                    context = completion.prompt_ids + completion.ids[:position]
                    if context in self._taboo or context in own[index] or (context in self._used and not again):
                        continue
                    places[index].append(place)
                    own[index].add(context)
                    self._used.add(context)
                    if len(places[index]) == count:
                        break
        return [Found(tuple(p), self._reason(e, len(p), count)) for e, p in zip(events, places, strict=True)]

    def _reason(self, wanted: Wanted, found: int, count: int) -> str:
        boundary = ", at the same kind of sentence boundary" if "sentence" in self._match else ""
        return (
            f"{found} of {count} controls: no other position without a trigger within {self._tolerance} tokens "
            f"of position {wanted.position}{boundary}"
        )

    def _ordered(self, wanted: Wanted, *, home: bool) -> Iterator[tuple[Completion, int]]:
        """Places that fit, in the event's problem or outside it, best first; ties in random order."""
        like = wanted.completion
        own = self._own.get((like.variant, like.problem_id), ())
        shuffled = _Pool(self._by_variant.get(like.variant, ()), own, home, self._rng)
        near = (place for distance in range(self._tolerance + 1) for place in self._at(shuffled, wanted, distance))
        if "entropy" not in self._match:
            yield from near
            return
        target = self._entropy(wanted.completion, wanted.position)
        yield from sorted(near, key=lambda place: abs(self._entropy(*place) - target))

    def _at(self, pool: _Pool, wanted: Wanted, distance: int) -> Iterator[tuple[Completion, int]]:
        sides = [-distance, distance] if self._rng.integers(2) else [distance, -distance]
        for completion in pool:
            for position in dict.fromkeys(wanted.position + side for side in sides):
                if 0 <= position < len(completion.ids) and self._fits(completion, position, wanted):
                    yield completion, position

    def _fits(self, completion: Completion, position: int, wanted: Wanted) -> bool:
        if position in self._trigger_tokens(completion):
            return False
        if "sentence" not in self._match:
            return True
        return begins_sentence(completion, position) == begins_sentence(wanted.completion, wanted.position)

    def _trigger_tokens(self, completion: Completion) -> frozenset[int]:
        """Tokens of every trigger, counted or not, from its first to its last character."""
        key = id(completion)
        if key not in self._triggers:
            onsets = find_onsets(completion.text, lexicon=self._lexicon)
            spans = [(completion.token_at(onset.char), completion.token_at(onset.end - 1)) for onset in onsets]
            self._triggers[key] = frozenset(token for first, last in spans for token in range(first, last + 1))
        return self._triggers[key]

    def _entropy(self, completion: Completion, position: int) -> float:
        assert self._model is not None
        key = id(completion)
        if key not in self._entropies:
            self._entropies[key] = next_token_entropies(self._model, completion)
        return float(self._entropies[key][position])
