"""Traces: what the model's next-token distribution said at every sampled token of a completion.

A completion is run again over its own ids, under the interventions that its receipts name, and each sampled
token is read one position earlier, where it was chosen. Probabilities are the model's own, at temperature 1 and
before any ban: under a ban they say how likely the forbidden tokens would have been.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from backtracking.core.completions import Completion
from backtracking.core.errors import InputError, ReceiptError
from backtracking.core.interventions import Ban, SiteIntervention, parse_intervention
from backtracking.core.onsets import DEFAULT_LEXICON, Lexicon, find_onsets
from backtracking.core.sites import Site
from backtracking.measures.logit_lens import LensError, lens_logits
from backtracking.model.last_position import last_logits_only
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.self_check import LOOSE, TOLERANCE
from backtracking.model.tokens import tokens_that_begin

BEFORE, AFTER = 8, 3
"""Tokens around an onset at which the lens is read, the onset's own besides."""
_VALUES_AT_ONCE = 2**26


@dataclass(frozen=True)
class Trace:
    """One completion, token by token; index i is the distribution that sampled id i was drawn from."""

    key: str
    """`trace_key` of the completion."""
    trigger_log_prob: Float[np.ndarray, " token"]
    """Of all tokens together that begin a strict trigger, in nats."""
    token_log_prob: Float[np.ndarray, " token"]
    """Of the sampled token itself, in nats."""
    lens_tokens: Int[np.ndarray, " read"]
    """Indices of the tokens at which the lens was read: those around every trigger of the text."""
    lens: Float[np.ndarray, "read layer"]
    """Log-probability of the triggers as the residual stream after each layer has it; the last is the model's."""


def trace_key(completion: Completion) -> str:
    """Names what a trace depends on: the interventions, the prompt's ids and the sampled ids."""
    parts = (*(receipt.intervention for receipt in completion.receipts), completion.prompt_ids, completion.ids)
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogatepass")).hexdigest()


def can_be_traced(completion: Completion) -> bool:
    """Whether its interventions can be read back from its receipts; vectors given as numbers cannot."""
    try:
        _interventions(completion)
    except InputError:
        return False
    return True


def measure_traces(
    model: HookedReasoner,
    completions: Sequence[Completion],
    *,
    lexicon: Lexicon = DEFAULT_LEXICON,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Trace, ...]:
    """Trigger probability at every token, and the lens by layer around every trigger.

    Args:
        model: The reasoner that wrote the completions.
        completions: Of any condition; each is run under its own interventions.
        lexicon: The triggers; tokens that begin a strict one are measured.
        progress: Told how many completions are done.

    Raises:
        InputError: A completion without ids, longer than the context or with ids the model does not have, or
            under an intervention that text cannot give back.
        ReceiptError: An intervention touched other positions than while sampling.
        LensError: The last layer of the lens is not the model's logits.
    """
    chosen = torch.tensor(tokens_that_begin(model.tokenizer, lexicon.strict), device=model.device)
    traces = []
    for done, completion in enumerate(completions, 1):
        traces.append(_trace(model, completion, chosen, lexicon))
        if progress is not None:
            progress("measuring traces", done, len(completions))
    return tuple(traces)


def _trace(model: HookedReasoner, completion: Completion, triggers: Int[Tensor, " trigger"], lexicon: Lexicon) -> Trace:
    resid = _replayed(model, completion)
    sampled = torch.tensor(completion.ids, device=model.device)
    read = _around_onsets(completion, lexicon)
    together, own = _read(model, resid[-1:], triggers, sampled)
    layers, _ = _read(model, resid[:, read], triggers, sampled[read])
    return Trace(
        key=trace_key(completion),
        trigger_log_prob=together[0],
        token_log_prob=own[0],
        lens_tokens=np.array(read, dtype=np.int64),
        lens=layers.T,
    )


def _interventions(completion: Completion) -> tuple[SiteIntervention, ...]:
    parsed = [parse_intervention(receipt.intervention) for receipt in completion.receipts]
    return tuple(each for each in parsed if not isinstance(each, Ban))


def _replayed(model: HookedReasoner, completion: Completion) -> Float[Tensor, "layer token d_model"]:
    """Residual streams after each layer where each sampled id was chosen."""
    prompt, ids = completion.prompt_ids, completion.ids
    fed = [*prompt, *ids[:-1]]
    where = f"problem {completion.problem_id!r}, sample {completion.sample_id} of {completion.condition!r}"
    if not ids or not prompt or len(fed) > model.context:
        raise InputError(
            f"{where} has {len(prompt)} prompt and {len(ids)} sampled tokens; {model.name} takes 1 to {model.context}"
        )
    if not all(0 <= token < model.cfg.d_vocab for token in (*prompt, *ids)):
        raise InputError(f"{where} has ids that {model.name} does not have; give the model that wrote it")
    names = [Site("resid_post", layer).hook_name for layer in range(model.cfg.n_layers)]
    with model.intervening([_interventions(completion)], prompt_lengths=[completion.prompt_tokens]) as state:
        logits, cache = model.run_with_cache(fed, names_filter=names, **last_logits_only(model))
    touched = {receipt.intervention: receipt.positions for receipt in completion.receipts}
    for receipt in state.receipts()[0]:
        if receipt.positions != touched[receipt.intervention]:
            raise ReceiptError(
                f"{where}: run again, {receipt.intervention} touched {receipt.positions} positions, "
                f"but {touched[receipt.intervention]} while sampling; its trace cannot be trusted"
            )
    resid = torch.stack([cache[name].reshape(len(fed), -1) for name in names])[:, len(prompt) - 1 :]
    off = float((lens_logits(model, resid[-1:, -1:])[0, 0] - logits[0, -1].float()).abs().max())
    if not off <= TOLERANCE.get(model.dtype, LOOSE):
        raise LensError(f"the last layer of the lens differs from the logits of {model.name} by {off:.3g}")
    return resid


def _read(
    model: HookedReasoner,
    resid: Float[Tensor, "layer token d_model"],
    triggers: Int[Tensor, " trigger"],
    sampled: Int[Tensor, " token"],
) -> tuple[Float[np.ndarray, "layer token"], Float[np.ndarray, "layer token"]]:
    """Log-probability of the triggers together, and of each sampled token, at every layer."""
    layers, tokens = resid.shape[:2]
    together, own = np.empty((2, layers, tokens))
    at_once = max(1, _VALUES_AT_ONCE // (layers * int(model.cfg.d_vocab)))
    for start in range(0, tokens, at_once):
        part = slice(start, start + at_once)
        log_probs = lens_logits(model, resid[:, part]).double().log_softmax(-1)
        together[:, part] = log_probs[..., triggers].logsumexp(-1).cpu().numpy()
        picked = log_probs.gather(-1, sampled[part].expand(layers, -1)[..., None])[..., 0]
        own[:, part] = picked.cpu().numpy()
    return together, own


def _around_onsets(completion: Completion, lexicon: Lexicon) -> list[int]:
    near: set[int] = set()
    for onset in find_onsets(completion.text, lexicon=lexicon):
        token = completion.token_at(onset.char)
        near |= set(range(max(0, token - BEFORE), min(len(completion.ids), token + AFTER + 1)))
    return sorted(near)
