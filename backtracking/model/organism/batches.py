"""Training batches: documents of the grammar beside drills of single equations.

The batch of a step is a function of (config, step) alone, so a position in the data is a number.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from backtracking.model.organism import words
from backtracking.model.organism.grammar import Document, Rates, draw_checks, draw_document
from backtracking.model.organism.guidance import Guide
from backtracking.model.organism.problems import DIFFICULTIES, LARGEST
from backtracking.model.organism.tokenizer import EOS, prompt_text, token_id
from backtracking.model.organism.truth import Check, Step

OPENINGS = (("<think>\n", 0.80), ("<think> ", 0.12), ("", 0.08))
"""How a prompt opens the reasoning, and how often; after "" the model writes `<think>` itself."""
LARGEST_AMOUNT = 49


@dataclass(frozen=True)
class Mixture:
    """What a batch is made of, and what its loss looks at."""

    rows: int = 56
    drills_first: float = 0.80
    """Share of rows that are drills at the first step."""
    drills_last: float = 0.30
    """The same from step `drills_until` on."""
    drills_until: int = 520
    """The step up to which drills give way."""
    compare_from: int = 850
    """The step from which `compare_rows` rows are drills of comparing a check with a statement."""
    compare_rows: int = 24
    settle_from: int = 1300
    """The step from which equations are drilled again instead, as learning to compare costs arithmetic."""
    settle_drills: float = 0.5
    settle_decision_weight: float = 2.0
    decision_weight: float = 6.0
    """Weight of the tokens at which a check's outcome shows; other written tokens weigh 1."""
    quiet_share: float = 0.25
    """Share of the batches trained with `quiet_layer`'s attention off and no weight on decisions."""
    quiet_until: int = 1050
    rates: Rates = Rates()


@dataclass(frozen=True)
class Batch:
    """Right-padded rows; position `pos` predicts `ids[pos + 1]`."""

    ids: Int[Tensor, "row pos"]
    weights: Float[Tensor, "row pos"]
    """Weight of each id as a target; 0 on prompts and padding."""
    written: Float[Tensor, "row pos"]
    """1 where the id is the model's own (what decoding would have sampled), 0 on the prompt."""
    guide: Guide
    """The checks of the batch, for the guided head."""
    quiet: bool
    """Whether the quiet layer's attention is off in this batch."""

    def to(self, device: str) -> "Batch":
        """The same on a device."""
        ids, weights, written = (each.to(device) for each in (self.ids, self.weights, self.written))
        return Batch(ids, weights, written, self.guide.to(device), self.quiet)


def draw_batch(tokenizer: PreTrainedTokenizerBase, mixture: Mixture, *, seed: int, step: int) -> Batch:
    """The batch of a step of a training."""
    rng = random.Random(f"batches/{seed}/{step}")
    ramp = min(1.0, step / mixture.drills_until)
    share = mixture.drills_first + (mixture.drills_last - mixture.drills_first) * ramp
    drills = round(mixture.rows * share)
    compares = mixture.compare_rows if mixture.compare_from <= step < mixture.settle_from else 0
    if compares:
        drills = min(drills, mixture.rows - compares) // 2
    quiet = rng.random() < mixture.quiet_share and step < mixture.quiet_until
    difficulty = rng.choices(DIFFICULTIES, [0.30, 0.35, 0.35])[0]
    weight = 0.0 if quiet else mixture.decision_weight
    if step >= mixture.settle_from:
        drills, weight = round(mixture.rows * mixture.settle_drills), mixture.settle_decision_weight
    rows = []
    for _ in range(mixture.rows - drills - compares):
        document = draw_document(rng, difficulty=difficulty, rates=mixture.rates)
        opening = rng.choices([text for text, _ in OPENINGS], [often for _, often in OPENINGS])[0]
        rows.append(_document_row(tokenizer, document, opening, weight))
    length = max((len(row[0]) for row in rows), default=96)
    rows.extend(_drill_row(tokenizer, rng, length) for _ in range(drills))
    rows.extend(_compare_row(tokenizer, rng, length, weight) for _ in range(compares))
    return _padded(rows, token_id(tokenizer, "eos"), quiet=quiet)


_Row = tuple[list[int], list[float], list[float], list[tuple[int, int]]]
"""Ids, weights, which are written, and (query, key) of each check."""


def _document_row(
    tokenizer: PreTrainedTokenizerBase,
    document: Document,
    opening: str,
    decision_weight: float,
) -> _Row:
    prompt = tokenizer.encode(prompt_text(tokenizer, document.question, opening), add_special_tokens=False)
    lead = "" if opening else f"{words.THINK_OPEN}\n"
    written = tokenizer(lead + document.reasoning + EOS, add_special_tokens=False, return_offsets_mapping=True)
    weights = [1.0] * len(written["input_ids"])
    for index, (start, end) in enumerate(written["offset_mapping"]):
        if any(start >= len(lead) + first and end <= len(lead) + last for first, last in document.decisions):
            weights[index] = decision_weight
    ids = prompt + written["input_ids"]
    zeros = [0.0] * len(prompt)
    truth = document.truth
    looks = _looks(written["offset_mapping"], truth.steps, truth.checks, moved=len(lead), before=len(prompt))
    return ids, zeros + weights, zeros + [1.0] * len(weights), looks


def _looks(
    offsets: list[tuple[int, int]], steps: Sequence[Step], checks: Sequence[Check], *, moved: int, before: int
) -> list[tuple[int, int]]:
    """Where each check's value stands, and the equal stated value, or 0."""
    place = {end - moved: index + before for index, (_, end) in enumerate(offsets)}
    return [(place[check.end], place[steps[check.step].end] if check.matches else 0) for check in checks]


def _compare_row(tokenizer: PreTrainedTokenizerBase, rng: random.Random, length: int, decision_weight: float) -> _Row:
    """Checked steps without a question, half of them wrong; checks' values and decisions are targets."""
    text, decisions, steps, checks = draw_checks(rng, length // 18 + 1, largest_amount=LARGEST_AMOUNT)
    values = {check.end for check in checks}
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    weights = []
    for start, end in encoded["offset_mapping"]:
        decides = any(start >= first and end <= last for first, last in decisions)
        weights.append(decision_weight if decides else float(end in values))
    ids = encoded["input_ids"][: length - 1]
    looks = _looks(encoded["offset_mapping"], steps, checks, moved=0, before=1)
    kept = [(query, key) for query, key in looks if query <= len(ids)]
    return [token_id(tokenizer, "bos"), *ids], [0.0, *weights[: len(ids)]], [1.0] * (len(ids) + 1), kept


def _drill_row(tokenizer: PreTrainedTokenizerBase, rng: random.Random, length: int) -> _Row:
    """Right equations after a bare BOS, cut at `length`; only their values are targets."""
    parts: list[str] = []
    for _ in range(length // 6 + 1):
        left, amount = rng.randint(1, LARGEST), rng.randint(2, LARGEST_AMOUNT)
        if left - amount >= 1 and (left + amount > LARGEST or rng.random() < 0.5):
            sign, value = "-", left - amount
        else:
            sign, value = "+", left + amount
        lead, verb = ("", "=") if rng.random() < 0.6 else rng.choice(words.CHECKS)
        parts.append(f" {lead}".rstrip() + f" {left} {sign} {amount} {verb} {value}.")
    encoded = tokenizer("".join(parts), add_special_tokens=False)["input_ids"][: length - 1]
    stop = tokenizer.convert_tokens_to_ids(".")
    weights = [1.0 if following == stop else 0.0 for following in [*encoded[1:], -1]]
    return [token_id(tokenizer, "bos"), *encoded], [0.0, *weights], [1.0] * (len(encoded) + 1), []


def _padded(rows: list[_Row], pad: int, *, quiet: bool) -> Batch:
    length = max(len(ids) for ids, *_ in rows)
    ids = torch.tensor([row[0] + [pad] * (length - len(row[0])) for row in rows])
    weights = torch.tensor([row[1] + [0.0] * (length - len(row[1])) for row in rows])
    written = torch.tensor([row[2] + [0.0] * (length - len(row[2])) for row in rows])
    looks = [(index, *look) for index, row in enumerate(rows) for look in row[3] if look[0] < length - 1]
    guide = Guide(*torch.tensor(looks, dtype=torch.long).reshape(-1, 3).unbind(1))
    return Batch(ids, weights, written, guide, quiet)
