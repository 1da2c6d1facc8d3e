"""From logits to the next token: temperature, nucleus, keyed noise."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from backtracking.model.sampling import step_choice
from backtracking.model.sampling.compiled import serves
from backtracking.model.sampling.noise import gumbel

FIRST_CANDIDATES = 16
AT_ONCE = 2**21
"""Logits worked on at a time: few enough to stay in the processor's cache."""


def choose(
    logits: Float[Tensor, "row vocab"],
    *,
    temperature: float,
    top_p: float,
    keys: Int[Tensor, " row"],
    positions: Int[Tensor, " row"],
) -> Int[Tensor, " row"]:
    """The next token of each row: greedy at temperature 0, else sampled by the Gumbel-max rule.

    Where one token alone holds the mass of the nucleus, it is chosen without further work.
    transformers' logits warpers are not used: they sort the whole vocabulary, which costs more than
    a layer of the model, and draw from a stream of noise that belongs to the batch.

    Args:
        logits: Of the next token; minus infinity forbids a token.
        temperature: Divides the logits.
        top_p: Mass of the nucleus.
        keys: `noise.row_key` of each row.
        positions: Index of the token in the completion, from 0.

    Raises:
        FloatingPointError: A row has NaN or no token that is allowed.
    """
    if temperature > 0 and serves(logits, torch.bfloat16):
        options = {"temperature": temperature, "top_p": top_p, "keys": keys, "positions": positions}
        tokens = step_choice.sampled(logits, **options)
        _check(bool((tokens != step_choice.BROKEN).all()))
        return tokens
    best, tokens = _in_parts(lambda part: part.max(dim=-1), logits)
    _check(bool(torch.isfinite(best).all()))
    if temperature == 0:
        return tokens
    (share,) = _in_parts(lambda part, most: (_shares(part, most, temperature).sum(dim=-1),), logits, best)
    open_rows = (share * top_p > 1).nonzero().flatten()
    if not len(open_rows):
        return tokens
    some = logits if len(open_rows) == len(logits) else logits[open_rows]
    total = best[open_rows].double() / temperature + share[open_rows].double().log()
    values, candidates = _nucleus(some, temperature, total, top_p)
    inside, place = torch.isfinite(values).nonzero(as_tuple=True)
    rows = open_rows[inside]
    noise = gumbel(keys[rows], positions[rows], candidates[inside, place][:, None])[:, 0]
    noisy = values.index_put((inside, place), values[inside, place] + noise)
    tokens[open_rows] = candidates.gather(1, noisy.argmax(dim=-1, keepdim=True)).squeeze(1)
    return tokens


def _check(finite: bool) -> None:
    if not finite:
        raise FloatingPointError("the logits are not finite: an intervention broke the model, or it is broken itself")


def nucleus(
    logits: Float[Tensor, "row vocab"], top_p: float
) -> tuple[Float[Tensor, "row choice"], Int[Tensor, "row choice"]]:
    """The fewest most probable tokens that hold the mass `top_p`, as in Hugging Face's warper.

    Of tokens with equal logits the one with the smaller id counts as more probable. Only as many
    candidates are sorted as hold the mass, which is checked row by row.

    Args:
        logits: Divided by the temperature.
        top_p: Mass of the nucleus.

    Returns:
        Log-probabilities in float64, minus infinity outside the nucleus, and the tokens they belong to.
    """
    return _nucleus(logits, 1.0, logits.logsumexp(dim=-1).double(), top_p)


def _nucleus(logits: Tensor, temperature: float, total: Float[Tensor, " row"], top_p: float) -> tuple[Tensor, Tensor]:
    """The nucleus at a temperature, given the logarithm of the sum of all shares."""
    vocabulary = logits.shape[-1]
    if top_p >= 1:
        logprobs = logits.double() / temperature - total[:, None]
        return logprobs, torch.arange(vocabulary, device=logits.device).expand_as(logits)
    candidates = min(FIRST_CANDIDATES, vocabulary)
    values, tokens, settled = _most_probable(logits, temperature, total, candidates, top_p)
    while not bool(settled.all()):
        candidates = min(8 * candidates, vocabulary)
        left = (~settled).nonzero().flatten()
        wider = candidates - values.shape[1]
        values = torch.nn.functional.pad(values, (0, wider), value=float("-inf"))
        tokens = torch.nn.functional.pad(tokens, (0, wider))
        found = _most_probable(logits[left], temperature, total[left], candidates, top_p)
        values[left], tokens[left], settled[left] = found
    return values, tokens


def _most_probable(
    logits: Tensor, temperature: float, total: Tensor, candidates: int, top_p: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The nucleus among the most probable candidates, and for which rows it is sure to be whole.

    It is sure where the mass is reached before the least of the candidates, whose equals may have
    been left out.
    """
    values, tokens = _in_parts(lambda part: part.topk(candidates, dim=-1), logits)
    tokens, order = tokens.sort(dim=-1)
    values, again = values.gather(1, order).sort(dim=-1, descending=True, stable=True)
    tokens = tokens.gather(1, again)
    logprobs = values.double() / temperature - total[:, None]
    mass = logprobs.exp()
    before = mass.cumsum(dim=-1) - mass
    inside = before < top_p
    if candidates == logits.shape[-1]:
        settled = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    else:
        settled = ~(inside & (values == values[:, -1:])).any(dim=-1)
    return logprobs.masked_fill(~inside, float("-inf")), tokens, settled


def _shares(logits: Tensor, most: Tensor, temperature: float) -> Tensor:
    """Unnormalised probabilities: 1 for the most probable token."""
    return (logits - most[:, None]).float().div_(temperature).exp_()


def _in_parts(what: Callable[..., Sequence[Tensor]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """The results for all rows, computed on a CPU for as many rows at a time as its cache holds."""
    rows, vocabulary = tensors[0].shape
    most = max(1, AT_ONCE // vocabulary) if tensors[0].device.type == "cpu" else rows
    if rows <= most:
        return tuple(what(*tensors))
    parts = [what(*(tensor[start : start + most] for tensor in tensors)) for start in range(0, rows, most)]
    return tuple(torch.cat(each) for each in zip(*parts, strict=True))
