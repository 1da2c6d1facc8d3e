"""Logits of the next token under many conditions: one prefill per context, then one packed step.

An ablation scan asks the same of every context under every layer's ablation. The context is run
once; the step that follows holds one row per condition, and all read the same cache. Contexts that are
beginnings of one another, as those of the events of one completion are, are run once together.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from backtracking.core.errors import InputError, ReceiptError
from backtracking.core.interventions import At, Ban, Condition, Intervention, Window
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling import fused
from backtracking.model.sampling.attention import use_packed_attention
from backtracking.model.sampling.edits import Edits, Spec, Tally
from backtracking.model.sampling.packed_cache import PackedCache
from backtracking.model.sampling.passes import Decode, Seating
from backtracking.model.sampling.prefixes import TOKENS_AT_ONCE, Prefix, Prefixes, forward

ROWS_AT_ONCE = {"cpu": 512, "cuda": 8192}
UNEVEN = 4
"""Rows that attention may pad to for each row there is."""
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
        InputError: A context that is too short or too long, a ban, or a window.
        ReceiptError: An intervention touched other positions than it should have.
    """
    lengths = [len(context) - 1 for context in contexts] if prompts is None else list(prompts)
    _check(model, contexts, conditions, lengths)
    use_packed_attention(model.plain.module)
    kind = "cuda" if model.device.type == "cuda" else "cpu"
    fed = [max(1, len(context) - prompt) for context, prompt in zip(contexts, lengths, strict=True)]
    fed = [number if number <= FED_AT_MOST else 1 for number in fed]
    specs = [condition.interventions for condition in conditions]
    rows = [
        _Context(index, tuple(context), prompt, steps)
        for index, (context, prompt, steps) in enumerate(zip(contexts, lengths, fed, strict=True))
    ]
    if not _turns_by_length(model):
        rows = _with_longer_ones(rows, specs)
    for batch in _batches(rows, most=max(1, ROWS_AT_ONCE[kind] // len(specs)), tokens=2 * TOKENS_AT_ONCE[kind]):
        yield from zip([each.index for each in batch], _score(model, batch, specs), strict=True)


@dataclass(frozen=True)
class _Context:
    """Tokens, how many of them are the prompt, and how many are fed one by one after the rest."""

    index: int
    ids: tuple[int, ...]
    prompt: int
    fed: int
    longer: tuple[int, ...] = ()
    """Tokens of another context that begin with those of this that are run at once, and are run instead."""

    @property
    def run(self) -> tuple[int, ...]:
        """Those of its tokens that are run at once."""
        return self.ids[: -self.fed]

    @property
    def whole(self) -> tuple[int, ...]:
        """What is run at once for it and for others."""
        return self.longer or self.run


def _with_longer_ones(contexts: Sequence[_Context], specs: Sequence[Spec]) -> list[_Context]:
    """Each context with a longer one that begins with it, where there is one that feeds as many tokens.

    Contexts into which a condition reaches are left alone: under it each has keys and values of its own.
    """
    found: list[_Context] = []
    behind: dict[int, tuple[int, ...]] = {}
    for each in sorted(contexts, key=lambda each: each.run, reverse=True):
        if any(_alone(each, spec).spec for spec in specs):
            found.append(each)
            continue
        # In the order of their tokens, those that begin with this one come right behind it.
        longer = behind.get(each.fed, ())
        if longer[: len(each.run)] != each.run:
            longer = behind[each.fed] = each.run
        found.append(replace(each, longer=longer))
    return found


def _batches(contexts: Sequence[_Context], *, most: int, tokens: int) -> Iterator[list[_Context]]:
    """Contexts that feed as many tokens, in batches of so many at most and of so many tokens run at once, about.

    A batch in which one run serves many contexts and the others few is cut too: attention pads them to like numbers.
    """
    batch: list[_Context] = []
    served: Counter[tuple[int, ...]] = Counter()
    for each in sorted(contexts, key=lambda each: (each.fed, len(each.whole), each.whole, len(each.ids))):
        together = served + Counter([each.whole])
        uneven = len(together) * max(together.values()) > UNEVEN * (len(batch) + 1)
        full = len(batch) == most or len(together) * len(each.whole) > tokens or uneven
        if batch and (full or batch[0].fed != each.fed):
            yield batch
            batch, together = [], Counter([each.whole])
        batch.append(each)
        served = together
    if batch:
        yield batch


def _turns_by_length(model: HookedReasoner) -> bool:
    """Whether rotary embeddings depend on how long the text is: then a shorter one has keys of its own."""
    config = model.plain.module.config
    said = str([getattr(config, name, None) for name in ("rope_parameters", "rope_scaling")])
    return "longrope" in said or "dynamic" in said


def _score(
    model: HookedReasoner, contexts: Sequence[_Context], conditions: Sequence[Spec]
) -> Float[Tensor, "context condition vocab"]:
    device, steps = model.device, contexts[0].fed
    pairs = [(context, spec) for context in contexts for spec in conditions]
    prefixes = [_prefix_of(each, spec) for each, spec in pairs]
    specs = {
        spec: index for index, spec in enumerate(dict.fromkeys([*(prefix.spec for prefix in prefixes), *conditions]))
    }
    edits = Edits(model, list(specs))
    distinct = list(dict.fromkeys(prefixes))
    cache = PackedCache(
        seats=len(pairs), entries=len(distinct), width=max(len(prefix.ids) for prefix in distinct), columns=steps
    )
    with fused.installed(model.plain.module), edits.installed():
        held = Prefixes(model, edits, specs, cache, sorted(prefixes, key=lambda prefix: len(prefix.ids)))
        while not all(held.has(prefix) for prefix in distinct):
            held.run_next()
        entries = torch.tensor([held.entry(prefix) for prefix in prefixes], device=device)
        lengths = torch.tensor([len(each.run) for each, _ in pairs], device=device)
        own = torch.tensor([specs[spec] for _, spec in pairs], device=device)
        prompts = torch.tensor([each.prompt for each, _ in pairs], device=device)
        tokens = torch.tensor([each.ids[-steps:] for each, _ in pairs], device=device)
        seating = Seating.of(entries, lengths, torch.zeros_like(lengths))
        none, last = torch.zeros(0, dtype=torch.long, device=device), None
        edits.count_from_zero(len(pairs))
        for step in range(steps):
            positions = lengths + step
            edits.bind(own, positions[:, None], prompts)
            keep = none if step + 1 < steps else last
            logits = forward(
                model, tokens[:, step : step + 1], positions[:, None], Decode(cache, seating, positions), keep=keep
            )
            cache.filled += 1
        counted = edits.counted(torch.arange(len(pairs), device=device), own.tolist())
    for prefix, (each, spec), tally in zip(prefixes, pairs, counted, strict=True):
        _check_receipts(held.tally(prefix), tally, each.ids, each.prompt, spec)
    return logits[:, -1].float().unflatten(0, (len(contexts), len(conditions)))


def _prefix_of(context: _Context, spec: Spec) -> Prefix:
    """What is run at once for a context under a condition: with others, unless the condition reaches into it."""
    alone = _alone(context, spec)
    return alone if alone.spec else Prefix.of(context.whole, ())


def _alone(context: _Context, spec: Spec) -> Prefix:
    return Prefix.of(context.run, spec, min(context.prompt, len(context.run)))


def _check_receipts(
    before: dict[str, Tally], after: dict[str, Tally], ids: tuple[int, ...], prompt: int, spec: Spec
) -> None:
    none = Tally(0, 0.0)
    for intervention in spec:
        name = str(intervention)
        found = (before.get(name, none) + after.get(name, none)).positions
        if found != (wanted := _wanted(intervention, len(ids), prompt)):
            raise ReceiptError(f"{name} touched {found} positions of a context of {len(ids)} tokens, not {wanted}")


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
