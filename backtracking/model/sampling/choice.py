"""From logits to the next token: temperature, nucleus, keyed noise."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from backtracking.core.errors import NotFiniteError
from backtracking.model.sampling import step_choice
from backtracking.model.sampling.compiled import serves
from backtracking.model.sampling.noise import gumbel

FIRST_CANDIDATES = 16
CACHED, AT_ONCE = 2**21, 2**25
"""Logits worked on at a time: on a CPU few enough to stay in its cache, elsewhere few beside the memory."""
WIDE, PER_CANDIDATE = 4, 16
"""By how many times fewer for the rows of a wide nucleus; a candidate takes as much memory as so many logits."""


def choose(
    logits: Float[Tensor, "row vocab"],
    *,
    temperature: float,
    top_p: float,
    keys: Int[Tensor, " row"],
    positions: Int[Tensor, " row"],
) -> Int[Tensor, " row"]:
    """The next token of each row: greedy at temperature 0, else sampled by the Gumbel-max rule.

    transformers' logits warpers are not used: they sort the whole vocabulary, which costs more than
    a layer of the model, and draw from a stream of noise that belongs to the batch.

    Args:
        logits: Of the next token; minus infinity forbids a token.
        temperature: Divides the logits.
        top_p: Mass of the nucleus.
        keys: `noise.row_key` of each row.
        positions: Index of the token in the completion, from 0.

    Raises:
        NotFiniteError: A row has NaN or no token that is allowed.
    """
    if temperature > 0 and serves(logits, torch.bfloat16):
        options = {"temperature": temperature, "top_p": top_p, "keys": keys, "positions": positions}
        tokens = step_choice.sampled(logits, **options)
        _check(bool((tokens != step_choice.BROKEN).all()))
        return tokens
    vocabulary = logits.shape[-1]
    candidates = min(FIRST_CANDIDATES, vocabulary) if top_p < 1 else vocabulary

    def first(some: Tensor, keys: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        best, tokens = some.max(dim=-1)
        if temperature == 0:
            return best, tokens
        share = _shares(some, best, temperature).sum(dim=-1).double()
        alone = share * top_p <= 1  # one token alone holds the mass
        if top_p >= 1:
            return best, tokens, share, alone
        drawn, settled = _drawn(some, best, share, temperature, top_p, candidates, keys, positions)
        return best, torch.where(alone, tokens, drawn), share, settled | alone

    best, tokens, *others = _in_parts(first, logits.device, vocabulary, logits, keys, positions)
    _check(bool(torch.isfinite(best).all()))
    if temperature == 0:
        return tokens
    share, settled = others
    left = (~settled).nonzero().flatten()
    while len(left):
        candidates = min(8 * candidates, vocabulary)

        def wider(rows: Tensor, candidates: int = candidates) -> tuple[Tensor, Tensor]:
            given = best[rows], share[rows], temperature, top_p, candidates, keys[rows], positions[rows]
            return _drawn(logits[rows], *given)

        size = (vocabulary + PER_CANDIDATE * candidates) * (WIDE if top_p < 1 else 1)
        tokens[left], settled = _in_parts(wider, logits.device, size, left)
        left = left[~settled]
    return tokens


def _check(finite: bool) -> None:
    if not finite:
        raise NotFiniteError("the logits are not finite: an intervention broke the model, or it is broken itself")


def _drawn(
    logits: Tensor,
    best: Tensor,
    share: Tensor,
    temperature: float,
    top_p: float,
    candidates: int,
    keys: Tensor,
    positions: Tensor,
) -> tuple[Tensor, Tensor]:
    """The token that each row takes of its nucleus, and whether that nucleus is sure to be whole."""
    values, tokens, settled = nucleus(logits, best, share, temperature=temperature, top_p=top_p, candidates=candidates)
    noisy = torch.where(values.isinf(), values, values + gumbel(keys, positions, tokens))
    return tokens.gather(1, noisy.argmax(dim=-1, keepdim=True)).squeeze(1), settled


def nucleus(
    logits: Float[Tensor, "row vocab"],
    best: Float[Tensor, " row"],
    share: Float[Tensor, " row"],
    *,
    temperature: float,
    top_p: float,
    candidates: int,
) -> tuple[Float[Tensor, "row choice"], Int[Tensor, "row choice"], Bool[Tensor, " row"]]:
    """The fewest most probable tokens that hold the mass `top_p`, as in Hugging Face's warper.

    Of tokens with equal logits the one with the smaller id counts as more probable.

    Args:
        logits: Of the next token.
        best: The greatest of each row.
        share: The sum of all probabilities over that of the most probable token, in float64.
        temperature: Divides the logits.
        top_p: Mass of the nucleus.
        candidates: The most probable tokens that are looked at.

    Returns:
        Log-probabilities in float64, minus infinity outside the nucleus; the tokens they belong to; for which rows it
        is sure to be whole: the mass is reached before the least of the candidates, whose equals may have been left
        out.
    """
    everything = candidates == logits.shape[-1]
    whole = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    if everything and top_p >= 1:
        values, tokens = logits, torch.arange(candidates, device=logits.device).expand_as(logits)
    else:
        values, tokens = logits.topk(candidates, dim=-1)
        tokens, order = tokens.sort(dim=-1)
        values, again = values.gather(1, order).sort(dim=-1, descending=True, stable=True)
        tokens = tokens.gather(1, again)
    logprobs = (values.double() - best.double()[:, None]).div_(temperature).sub_(share.log()[:, None])
    if everything and top_p >= 1:
        return logprobs, tokens, whole
    mass = logprobs.exp()
    outside = mass.cumsum(dim=-1) - mass >= top_p
    settled = whole if everything else ~(~outside & (values == values[:, -1:])).any(dim=-1)
    return logprobs.masked_fill_(outside, float("-inf")), tokens, settled


def _shares(logits: Tensor, most: Tensor, temperature: float) -> Tensor:
    """Unnormalised probabilities: 1 for the most probable token."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    return (logits - most.to(wide)[:, None]).div_(temperature).exp_()


def _in_parts(
    what: Callable[..., Sequence[Tensor]], device: torch.device, size: int, *tensors: Tensor
) -> tuple[Tensor, ...]:
    """The results for all rows, as many at a time as the memory for a row, `size` logits, allows."""
    most = max(1, (CACHED if device.type == "cpu" else AT_ONCE) // size)
    parts = [what(*part) for part in zip(*(tensor.split(most) for tensor in tensors), strict=True)]
    return tuple(torch.cat(each) for each in zip(*parts, strict=True)) if len(parts) > 1 else tuple(parts[0])
