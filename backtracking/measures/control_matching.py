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
        self._baseline = baseline
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
        pool = [c for c in self._baseline if c.variant == like.variant and (c.problem_id == like.problem_id) == home]
        shuffled = [pool[index] for index in self._rng.permutation(len(pool)).tolist()]
        near = (place for distance in range(self._tolerance + 1) for place in self._at(shuffled, wanted, distance))
        if "entropy" not in self._match:
            yield from near
            return
        target = self._entropy(wanted.completion, wanted.position)
        yield from sorted(near, key=lambda place: abs(self._entropy(*place) - target))

    def _at(self, pool: Sequence[Completion], wanted: Wanted, distance: int) -> Iterator[tuple[Completion, int]]:
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
