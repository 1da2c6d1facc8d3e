"""The choice of the next token on a CPU, row by row: see `choice.choose`, which it gives the tokens of."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from backtracking.model.sampling import noise
from backtracking.model.sampling.compiled import LANES, bits, compiled, over_rows
from backtracking.model.sampling.registers import largest, read, shares

_CHUNK = 1024
"""Logits whose shares are added in float32, before the sum goes on in float64."""
_STRETCH = 256
"""Logits looked over at once for those that are high enough."""
_GAP = 2.0
"""How far below the best logit candidates are looked for at first, in units of the temperature."""
_WIDEST = 512.0
"""Further below, nothing has a probability."""
_COLDEST = 1e-30
"""At this temperature only tokens with equal logits are left to choose from."""
BROKEN = -1
"""In place of a token."""
_STEP, _BITS, _SMALLEST = noise.STEP, noise.MANTISSA_BITS, 2.0**-noise.MANTISSA_BITS
_mix, _LANES = compiled(noise.mix), np.uint64(LANES)


def sampled(
    logits: Float[Tensor, "row vocab"],
    *,
    temperature: float,
    top_p: float,
    keys: Int[Tensor, " row"],
    positions: Int[Tensor, " row"],
) -> Int[Tensor, " row"]:
    """The next token of each row; -1 where a row has NaN or no token that is allowed.

    Args:
        logits: On the CPU, float32 or bfloat16.
        temperature: Above 0.
        top_p: Mass of the nucleus.
        keys: `noise.row_key` of each row.
        positions: Index of the token in the completion.
    """
    tokens = torch.empty(len(logits), dtype=torch.long, device="cpu")
    arrays = [np.ascontiguousarray(bits(part)) for part in (logits, keys, positions, tokens)]
    over_rows(_sample, len(logits), logits.numel(), max(float(temperature), _COLDEST), float(top_p), *arrays)
    return tokens


@compiled
def _shares(logits: Any, best: Any, temperature: float) -> float:
    """The sum of all unnormalised probabilities, 1 being that of the best token."""
    total, warmth = 0.0, np.float32(1 / temperature)
    for start in range(0, len(logits), _CHUNK):
        part = logits[start : start + _CHUNK]
        vectors = np.uint64(len(part)) // _LANES
        total += shares(part, vectors, best, warmth)
        for i in range(vectors * _LANES, np.uint64(len(part))):
            total += math.exp((read(part, i) - best) * warmth)
    return total


@compiled
def _above(logits: Any, least: float, found: Any) -> int:
    """Put the tokens with at least that logit into a list; how many they are."""
    count = 0
    for start in range(0, len(logits), _STRETCH):
        part = logits[start : start + _STRETCH]
        if largest(part) >= least:  # of most stretches nobody is
            for place in range(len(part)):
                if read(part, place) >= least:
                    found[count] = start + place
                    count += 1
    return count


@compiled
def _nucleus(logits: Any, best: Any, temperature: float, log_share: float, top_p: float, found: Any) -> int:
    """Put the tokens of the nucleus into a list; how many they are.

    Candidates are the tokens near the best one, more and more of them until they hold the mass; only they are sorted.
    """
    if top_p >= 1:
        return _above(logits, -np.inf, found)
    gap, count, mass = _GAP, 0, 0.0
    while mass < top_p and gap <= _WIDEST:
        count, mass = _above(logits, float(best) - gap * temperature, found), 0.0
        for place in range(count):
            mass += math.exp((float(read(logits, found[place])) - best) / temperature - log_share)
        gap *= 2
    values = np.empty(count, np.float64)
    for place in range(count):
        values[place] = -float(read(logits, found[place]))
    order = np.argsort(values, kind="mergesort")  # which is stable: of equal ones that with the smaller id is first
    ordered, before, inside = found[:count].copy(), 0.0, 0
    while inside < count and before < top_p:
        found[inside] = ordered[order[inside]]
        before += math.exp((float(read(logits, found[inside])) - best) / temperature - log_share)
        inside += 1
    return inside


@compiled
def _sample(
    first: int,
    last: int,
    temperature: float,
    top_p: float,
    logits: Any,
    keys: Any,
    positions: Any,
    tokens: Any,
) -> None:
    vocabulary = logits.shape[1]
    found = np.empty(vocabulary, np.int64)
    for row in range(first, last):
        best = largest(logits[row])
        share = _shares(logits[row], best, temperature)
        if not share >= 1:  # which is so of what is not a number
            tokens[row] = BROKEN
            continue
        if share * top_p <= 1:  # one token alone holds the mass
            _above(logits[row], best, found)
            tokens[row] = found[0]
            continue
        log_share = math.log(share)
        count = _nucleus(logits[row], best, temperature, log_share, top_p, found)
        counter, highest = _mix(keys[row] + positions[row] * _STEP), -np.inf
        for place in range(count):
            token = found[place]
            hashed = _mix(counter ^ _mix(token * _STEP))
            uniform = (float((hashed >> (64 - _BITS)) & ((1 << _BITS) - 1)) + 0.5) * _SMALLEST
            noisy = (float(read(logits[row], token)) - best) / temperature - log_share - math.log(-math.log(uniform))
            if noisy > highest:
                highest, tokens[row] = noisy, token
