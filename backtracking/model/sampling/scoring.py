"""Logits of the next token under many conditions: one prefill per context, then one packed step.

An ablation scan asks the same of every context under every layer's ablation. The context is run
once; the step that follows holds one row per condition, and all read the same cache. Contexts that are
beginnings of one another, as those of the events of one completion are, are run once together; those that
begin alike, as completions of one prompt do, share what they begin with. Rows of one context are one row
until their conditions act.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from backtracking.core.errors import InputError, ReceiptError
from backtracking.core.interventions import At, Ban, Condition, Intervention, Window
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling.alone import alone
from backtracking.model.sampling.attention import use_packed_attention
from backtracking.model.sampling.context_runs import planned, run_contexts
from backtracking.model.sampling.edits import Edits, Spec, Tally
from backtracking.model.sampling.joining import Joining, blocks_of, first_blocks
from backtracking.model.sampling.packed_cache import PackedCache
from backtracking.model.sampling.passes import Decode
from backtracking.model.sampling.prefixes import forward
from backtracking.model.sampling.refusals import check_length, check_one_device
from backtracking.model.sampling.replaced import Replaced
from backtracking.model.sampling.scored_contexts import Reaching, Scored, batches, with_longer_ones
from backtracking.model.sampling.seating import Seating

ROWS_AT_ONCE = {"cpu": 1024, "cuda": 8192}
"""Contexts times conditions."""
LOGITS_AT_ONCE = {"cpu": 2**26, "cuda": 2**29}
"""Rows times vocabulary."""
KEPT = {"cpu": 8192, "cuda": 131072}
"""Tokens whose keys and values are kept at once, if those of one context are not more."""
_NONE = Tally(0, 0.0)
FED_AT_MOST = 16
"""Sampled tokens of a context that are fed one by one, all conditions together; more of them are run at once
with the prompt, once for each condition that reaches into them."""


@torch.inference_mode()
def next_logits(
    model: HookedReasoner,
    contexts: Sequence[Sequence[int]],
    conditions: Sequence[Condition],
    *,
    prompts: Sequence[int] | None = None,
) -> Iterator[tuple[int, Float[Tensor, "condition vocab"]]]:
    """For each context the logits after its last token, under every condition.

    Args:
        model: The reasoner.
        contexts: Token ids, at least two each.
        conditions: What is done; a ban is refused, since it does not change logits but their use.
        prompts: How many tokens of each context are its prompt, which decides what the scopes `prompt`
            and `decode` cover. All but the last token if not given: `decode` is then the position
            whose logits are returned, and nothing else.

    Yields:
        Index of the context, and its logits in float32, one row per condition. Contexts come in the order in
        which they are run.

    Raises:
        InputError: A context that is too short or too long, a ban, a window, or a model on several devices.
        ReceiptError: An intervention touched other positions than it should have.
    """
    with alone:
        lengths = [len(context) - 1 for context in contexts] if prompts is None else list(prompts)
        _check(model, contexts, conditions, lengths)
        use_packed_attention(model.plain.module)
        kind = "cuda" if model.device.type == "cuda" else "cpu"
        fed = [max(1, len(context) - prompt) for context, prompt in zip(contexts, lengths, strict=True)]
        fed = [number if number <= FED_AT_MOST else 1 for number in fed]
        specs = [condition.interventions for condition in conditions]
        reaching = Reaching(specs)
        rows = [
            Scored(index, tuple(context), prompt, steps, reaching.into(len(context) - steps, prompt))
            for index, (context, prompt, steps) in enumerate(zip(contexts, lengths, fed, strict=True))
        ]
        scoring = _Scoring.of(model, specs, [spec for each in rows for spec in each.inside])
    at_once = min(ROWS_AT_ONCE[kind], LOGITS_AT_ONCE[kind] // int(model.cfg.d_vocab)) // len(conditions)
    for batch in batches(with_longer_ones(rows), most=max(1, at_once), tokens=KEPT[kind]):
        yield from zip([each.index for each in batch], scoring.logits(batch), strict=True)


@dataclass(frozen=True)
class _Scoring:
    """The conditions, compiled."""

    model: HookedReasoner
    conditions: Sequence[Spec]
    specs: Mapping[Spec, int]
    """Number of every condition, and of every part of one that reaches into what is run at once."""
    edits: Edits
    blocks: Sequence[nn.Module]
    first: Sequence[int]
    """Block in which each of them first acts."""

    @classmethod
    def of(cls, model: HookedReasoner, conditions: Sequence[Spec], inside: Sequence[Spec]) -> "_Scoring":
        """Compile them."""
        specs = {spec: index for index, spec in enumerate(dict.fromkeys([*inside, *conditions]))}
        edits, blocks = Edits(model, list(specs)), blocks_of(model)
        return cls(model, conditions, specs, edits, blocks, first_blocks(edits, blocks))

    @cached_property
    def numbers(self) -> list[int]:
        """Of the conditions."""
        return [self.specs[spec] for spec in self.conditions]

    def logits(self, contexts: Sequence[Scored]) -> Iterator[Float[Tensor, "condition vocab"]]:
        """Run the contexts, and the tokens that are fed after them under every condition; for each in turn its own."""
        with alone:
            joining = Joining.of(
                [context for context in range(len(contexts)) for _ in self.numbers],
                [self.first[number] for _ in contexts for number in self.numbers],
                len(self.blocks),
            )
            plan = planned([prefix for each in contexts for prefix in each.prefixes])
            kept = {run.prefix: run.entry for runs in plan for run in runs}
            everyone = [
                (each, condition, entry) for each in contexts for condition, entry in enumerate(each.entries(kept))
            ]
            rows = [everyone[row] for row in joining.order]
            cache = PackedCache(
                seats=len(rows),
                entries=len(kept),
                width=max(len(prefix.ids) for prefix in kept),
                columns=contexts[0].fed,
                lasting=contexts[0].fed > 1,
            )
            with Replaced.of(self.model.plain.module).installed(), self.edits.installed():
                before = run_contexts(self.model, self.edits, self.specs, cache, plan)
                with joining.installed(self.blocks, self.model.device):
                    logits, after = self._fed(rows, cache)
        for (each, condition, entry), tally in zip(rows, after, strict=True):
            self._check_receipts(each, condition, before[entry], tally)
        places = torch.tensor(joining.order, device=logits.device).argsort().view(len(contexts), len(self.numbers))
        for of_context in places:
            yield logits[of_context].float()

    def _fed(
        self, rows: Sequence[tuple[Scored, int, int]], cache: PackedCache
    ) -> tuple[Float[Tensor, "row vocab"], list[dict[str, Tally]]]:
        """Feed each row's last tokens; the logits after them, and what was done to them."""
        device, edits, steps = self.model.device, self.edits, cache.columns
        entries = torch.tensor([entry for _, _, entry in rows], device=device)
        lengths = torch.tensor([len(each.run) for each, _, _ in rows], device=device)
        own = torch.tensor([self.numbers[condition] for _, condition, _ in rows], device=device)
        prompts = torch.tensor([each.prompt for each, _, _ in rows], device=device)
        tokens = torch.tensor([each.ids[-steps:] for each, _, _ in rows], device=device)
        seating = Seating.of(entries, lengths, torch.zeros_like(lengths))
        logits, nothing = torch.zeros(0), torch.zeros(0, dtype=torch.long, device=device)
        edits.count_from_zero(len(rows))
        for step in range(steps):
            positions = lengths + step
            edits.bind(own, positions[:, None], prompts)
            keep = nothing if step + 1 < steps else None
            passing = Decode(cache, seating, positions)
            logits = forward(self.model, tokens[:, step : step + 1], positions[:, None], passing, keep=keep)
            cache.filled += 1
        return logits[:, -1], edits.counted(torch.arange(len(rows), device=device), own.tolist())

    def _check_receipts(
        self, each: Scored, condition: int, before: Mapping[str, Tally], after: Mapping[str, Tally]
    ) -> None:
        for name, intervention in self._named[condition]:
            touched = before.get(name, _NONE).positions + after.get(name, _NONE).positions
            if touched != (wanted := _wanted(intervention, len(each.ids), each.prompt)):
                raise ReceiptError(f"{name} touched {touched} positions of {len(each.ids)} tokens, not {wanted}")

    @cached_property
    def _named(self) -> list[list[tuple[str, Intervention]]]:
        return [[(str(intervention), intervention) for intervention in spec] for spec in self.conditions]


def _wanted(intervention: Intervention, length: int, prompt: int) -> int:
    """Positions of the context it has to touch."""
    scope = None if isinstance(intervention, Ban) else intervention.scope
    if isinstance(scope, At):
        return sum(position < length for position in scope.positions)
    return {"all": length, "prompt": prompt, "decode": length - prompt}[str(scope)]


def _check(
    model: HookedReasoner, contexts: Sequence[Sequence[int]], conditions: Sequence[Condition], prompts: Sequence[int]
) -> None:
    if not conditions or not contexts:
        raise InputError("there are no contexts or no conditions to score")
    for condition in conditions:
        for intervention in condition.interventions:
            if isinstance(intervention, Ban) or isinstance(intervention.scope, Window):
                raise InputError(
                    f"{intervention} cannot be scored: use sites with the scopes all, prompt, decode or at"
                )
    for context, prompt in zip(contexts, prompts, strict=True):
        if not 2 <= len(context) <= model.context:
            raise InputError(f"a context has {len(context)} tokens; {model.name} takes 2 to {model.context}")
        if not 1 <= prompt <= len(context):
            raise InputError(f"a prompt of {prompt} tokens does not fit a context of {len(context)}")
    check_one_device(model)
    remedy = "score shorter contexts, or one at a time with model.intervening(...) and model.logits(...)"
    check_length(model, max(map(len, contexts)), "a context", remedy)
