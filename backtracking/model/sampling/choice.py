"""From logits to the next token: temperature, nucleus, keyed noise."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from backtracking.model.sampling.noise import gumbel

FIRST_CANDIDATES = 64


def choose(
    logits: Float[Tensor, "row vocab"],
    *,
    temperature: float,
    top_p: float,
    keys: Int[Tensor, " row"],
    positions: Int[Tensor, " row"],
) -> Int[Tensor, " row"]:
    """The next token of each row: greedy at temperature 0, else sampled by the Gumbel-max rule.

    Args:
        logits: Of the next token; minus infinity forbids a token.
        temperature: Divides the logits.
        top_p: Mass of the nucleus.
        keys: `noise.row_key` of each row.
        positions: Index of the token in the completion, from 0.

    Raises:
        FloatingPointError: A row has NaN or no token that is allowed.
    """
    if not torch.isfinite(logits.amax(dim=-1)).all():
        raise FloatingPointError("the logits are not finite: the intervention broke the model")
    if temperature == 0:
        return logits.argmax(dim=-1)
    logprobs = torch.log_softmax(logits.double() / temperature, dim=-1)
    values, tokens = nucleus(logprobs, top_p)
    noisy = values + gumbel(keys, positions, tokens)
    return tokens.gather(1, noisy.argmax(dim=-1, keepdim=True)).squeeze(1)


def nucleus(
    logprobs: Float[Tensor, "row vocab"], top_p: float
) -> tuple[Float[Tensor, "row choice"], Int[Tensor, "row choice"]]:
    """The fewest most probable tokens that hold the mass `top_p`, as in Hugging Face's warper.

    Only as many candidates are sorted as hold the mass in every row, which is checked.

    Returns:
        Log-probabilities, minus infinity outside the nucleus, and the tokens they belong to.
    """
    vocabulary = logprobs.shape[-1]
    if top_p >= 1:
        return logprobs, torch.arange(vocabulary, device=logprobs.device).expand_as(logprobs)
    candidates = min(FIRST_CANDIDATES, vocabulary)
    while True:
        values, tokens = logprobs.topk(candidates, dim=-1)
        cumulative = values.exp().cumsum(dim=-1)
        if candidates == vocabulary or bool((cumulative[:, -1] >= top_p).all()):
            break
        candidates = min(8 * candidates, vocabulary)
    before = cumulative - values.exp()
    return values.masked_fill(before >= top_p, float("-inf")), tokens
