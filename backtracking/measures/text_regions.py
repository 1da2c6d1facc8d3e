"""Which part of its context each token of a decision point belongs to: prompt, statement, an earlier trigger."""

from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import regex as re
from jaxtyping import Int

from backtracking.core.completions import Completion
from backtracking.core.onsets import Lexicon, find_onsets
from backtracking.measures.control_matching import begins_sentence
from backtracking.measures.decision_points import DecisionPoint
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.tokens import decode_with_offsets

TextRegion = Literal["first token", "prompt", "previous triggers", "last statement", "earlier text"]
TEXT_REGIONS: tuple[TextRegion, ...] = get_args(TextRegion)
_TAG = re.compile(r"</?think>")
_SAYS = re.compile(r"[^\W_]")
_LABEL = re.compile(r"\W*\w+\W*:\W*")
DISTANCES = (0, 1, 4, 16, 64)
"""Each band of distances reaches from the one before it, exclusive, to its own number; the last is open."""
DISTANCE_REGIONS = ("itself", "1 back", "2 to 4", "5 to 16", "17 to 64", "65 and more")


def written_so_far(model: HookedReasoner, point: DecisionPoint) -> Completion:
    """The sampled part of a point's context as a completion, decoded from its ids."""
    ids = point.context[point.prompt_tokens :]
    text, offsets = decode_with_offsets(model.tokenizer, ids)
    return Completion(
        point.problem_id, point.sample_id, point.variant, "baseline", point.context[: point.prompt_tokens], ids,
        text, "length", offsets,
    )  # fmt: skip


def statement_starts(completion: Completion) -> list[int]:
    """Indices of the sampled tokens at which a sentence or line begins, the first token included."""
    return [index for index in range(len(completion.ids)) if index == 0 or begins_sentence(completion, index)]


def sentence_spans(completion: Completion) -> list[tuple[int, int]]:
    """First token and end of every sentence or line of the sampled tokens that says something.

    Left out are white space, punctuation and thinking tags that stand alone, and a label such as "Final:".
    """
    starts = statement_starts(completion)
    borders = [*(completion.offsets[start] for start in starts), len(completion.text)]
    texts = [_TAG.sub("", completion.text[first:end]) for first, end in pairwise(borders)]
    spans = pairwise([*starts, len(completion.ids)])
    return [span for span, text in zip(spans, texts, strict=True) if _SAYS.search(text) and not _LABEL.fullmatch(text)]


def text_regions(model: HookedReasoner, point: DecisionPoint, lexicon: Lexicon) -> Int[np.ndarray, " pos"]:
    """Index in `TEXT_REGIONS` of every token of the context; each token is in exactly one region.

    A trigger's tokens are `previous triggers` wherever they stand, counted or not. `last statement` is the sentence
    or line that the prediction position ends or is in. Before anything is sampled there is only the prompt.
    """
    found = np.full(len(point.context), TEXT_REGIONS.index("earlier text"))
    found[: point.prompt_tokens] = TEXT_REGIONS.index("prompt")
    found[0] = TEXT_REGIONS.index("first token")
    completion = written_so_far(model, point)
    if not completion.ids:
        return found
    found[point.prompt_tokens + statement_starts(completion)[-1] :] = TEXT_REGIONS.index("last statement")
    for onset in find_onsets(completion.text, lexicon=lexicon):
        first, last = completion.token_at(onset.char), completion.token_at(onset.end - 1)
        found[point.prompt_tokens + first : point.prompt_tokens + last + 1] = TEXT_REGIONS.index("previous triggers")
    return found


def distance_regions(point: DecisionPoint) -> Int[np.ndarray, " pos"]:
    """Index in `DISTANCE_REGIONS` of every token of the context, by how far before the prediction position it is."""
    back = np.arange(len(point.context))[::-1]
    return np.searchsorted(DISTANCES, back)
