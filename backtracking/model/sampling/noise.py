"""Randomness that belongs to a token, not to a batch.

The noise of a token is a function of (seed, problem, sample, position, token id) alone: a
counter-based hash, not a stream. So a row is the same alone or in any batch, in any order and after
a resume, and the arms of an experiment share their noise: the same sample under two conditions
differs only where the conditions move the distribution.
"""

import hashlib
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

_MULTIPLIERS = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)  # of splitmix64, as signed numbers
STEP = -0x61C8864680B583EB
"""Between counters: 2 to the power of 64 over the golden ratio, as a signed number."""
MANTISSA_BITS = 53
"""Of a hash, as many as a double holds."""


def row_key(seed: int, problem_id: int | str, sample_id: int) -> int:
    """A 63-bit key of one sample of one problem, the same on every machine."""
    digest = hashlib.blake2b(f"{seed}|{problem_id}|{sample_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def gumbel(
    keys: Int[Tensor, " row"], positions: Int[Tensor, " row"], tokens: Int[Tensor, "row choice"]
) -> Float[Tensor, "row choice"]:
    """Standard Gumbel noise of each candidate token, in float64.

    Args:
        keys: One `row_key` per row.
        positions: Index of the token about to be sampled, counted from 0 in the completion.
        tokens: Candidate token ids.
    """
    counter = mix(keys + positions * STEP)
    bits = mix(counter[:, None] ^ mix(tokens * STEP))
    mantissa = (bits >> (64 - MANTISSA_BITS)) & ((1 << MANTISSA_BITS) - 1)
    uniform = (mantissa.double() + 0.5) * 2.0**-MANTISSA_BITS
    return -torch.log(-torch.log(uniform))


def mix(x: Any) -> Any:
    """The output function of splitmix64 (Steele, Lea and Flood 2014) on a 64-bit integer, or a tensor of them."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _MULTIPLIERS[0]
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _MULTIPLIERS[1]
    return x ^ ((x >> 31) & ((1 << 33) - 1))
