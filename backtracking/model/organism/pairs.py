"""Matched pairs: the same prefix with a right and with a wrong stated value.

Difficulty cannot explain a difference within a pair, as both sides contain the same step.
"""

import random
from dataclasses import dataclass

from backtracking.core.interventions import BASELINE
from backtracking.core.prompts import VARIANTS
from backtracking.core.settings import Settings
from backtracking.core.statistics import Estimate
from backtracking.model.organism.evaluation import ROWS, share
from backtracking.model.organism.grammar import Document, Rates, draw_document, wrong_value
from backtracking.model.organism.problems import DIFFICULTIES
from backtracking.model.organism.tokenizer import prompt_text
from backtracking.model.organism.truth import Step, parse_truth
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling.plan import Row, units
from backtracking.model.sampling.sampler import sample_units

OPENING = "<think>\n"
CLEAN = Rates(slip=0.0, carry=0.0, check=0.5, spurious=0.0, spurious_unchecked=0.0, lines=0.0)
TOKENS_TO_DECISION = 22
"""Long enough for a check sentence and the word after it."""


@dataclass(frozen=True)
class PairResult:
    """Trigger rates within pairs."""

    n_pairs: int
    sampled_wrong: Estimate
    """Continuations with a trigger before the next step, after the wrong value."""
    sampled_right: Estimate
    forced_wrong: float
    """Mean probability of a trigger at the decision after a right check, forced, at temperature 1."""
    forced_right: float


@dataclass(frozen=True)
class _Pair:
    prompt: str
    before: str
    """The reasoning up to the stated value."""
    step: Step
    index: int
    wrong: int


def matched_pairs(
    model: HookedReasoner, *, n_pairs: int = 300, samples: int = 4, temperature: float = 0.7, seed: int = 0
) -> PairResult:
    """Continue both sides of held-out pairs, and read the decision after a forced check.

    The sides of a pair share their noise.
    """
    pairs = [_draw_pair(model, random.Random(f"pairs/{seed}/{index}"), index) for index in range(n_pairs)]
    settings = Settings(TOKENS_TO_DECISION, temperature, top_p=1.0, seed=seed)
    rates, forced = {}, {}
    for wrong in (True, False):
        texts = [pair.before + f" {pair.wrong if wrong else pair.step.value}" for pair in pairs]
        rows = [
            Row(index, sample, VARIANTS[0].name, BASELINE, _ids(model, pair.prompt + texts[index]))
            for index, pair in enumerate(pairs)
            for sample in range(samples)
        ]
        hits = [0] * n_pairs
        for _, part in sample_units(model, units(rows, ROWS), settings):
            for one in part:
                index = int(one.problem_id)
                hits[index] += parse_truth(texts[index] + one.text).triggered(pairs[index].index)
        rates[wrong] = share(hits, [samples] * n_pairs)
        forced[wrong] = sum(_forced(model, pair, wrong=wrong) for pair in pairs) / n_pairs
    return PairResult(n_pairs, rates[True], rates[False], forced[True], forced[False])


def _ids(model: HookedReasoner, text: str) -> tuple[int, ...]:
    return tuple(model.tokenizer.encode(text, add_special_tokens=False))


def _tokens(model: HookedReasoner, *pieces: str) -> list[int]:
    return [token for piece in pieces for token in _ids(model, piece)]


def _draw_pair(model: HookedReasoner, rng: random.Random, index: int) -> _Pair:
    document: Document = draw_document(
        rng, difficulty=DIFFICULTIES[index % len(DIFFICULTIES)], split="eval", rates=CLEAN
    )
    place = rng.randrange(len(document.truth.steps))
    step = document.truth.steps[place]
    move = step.right if step.sign == "+" else -step.right
    others = [abs(m) for m in document.story.moves if m != move]
    before = document.reasoning[: step.end].rpartition(" ")[0]
    prompt = prompt_text(model.tokenizer, document.question, OPENING)
    return _Pair(prompt, before, step, place, wrong_value(rng, step.left, move, others))


def _forced(model: HookedReasoner, pair: _Pair, *, wrong: bool) -> float:
    step = pair.step
    stated = pair.wrong if wrong else step.value
    text = f"{pair.prompt}{pair.before} {stated}. Check, {step.left} {step.sign} {step.right} gives {step.value}"
    ids = _ids(model, text)
    stops, comma = _tokens(model, ".", ".\n"), _tokens(model, ",")[0]
    chances = model.logits([[*ids, stop] for stop in stops]).softmax(-1)
    total = float(chances[0, -2, comma])
    for row, (stop, space) in enumerate(zip(stops, (" ", ""), strict=True)):
        first = _tokens(model, *(space + word for word in ("Wait", "Act", "Hold")))
        total += float(chances[row, -2, stop] * chances[row, -1, first].sum())
    return total
