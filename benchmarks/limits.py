"""What this machine could do at best: measured arithmetic and memory bandwidth, and the least time they allow.

A decode step of R rows must multiply R vectors with every weight matrix, and read the weights and the rows' key-value
cache. Its least time is the larger of (a) the multiplications at the rate that PyTorch reaches on the model's own
shapes with R rows and (b) those bytes at the bandwidth of reading an array larger than the caches. Each prompt is
counted once, at the arithmetic rate of 256 rows, with one unembedding. Left out, so the limit is below what is
possible: attention's own arithmetic, norms, sampling, interventions.

PyTorch's rate is that of the quicker one of two arrangements: `torch.nn.functional.linear`, and the product with the
weights as the left matrix, which is up to twice as quick in bfloat16 (see `linears` of the engine). `by_linear` is the
limit by the first alone, which was taken before the second was known.

That limit has every step as full as the best one, which no batch has that runs to its end: a row's tokens come one
after another, so the last steps are those of the longest rows alone. `in_sequence` is the least time of the steps that
this work has if all its rows start at once, each with the rows that are left; it is told beside the limit, and the
share of the limit is that of the first.

A shared machine is now quicker and now slower, so its rates are measured before each repetition of the engine, and the
share is taken within the repetition.
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from backtracking.core.completions import Completion

ARRAY_BYTES = 1 << 29
PROMPT_ROWS = 256


@dataclass(frozen=True)
class Shapes:
    """What a forward pass of the model multiplies and reads."""

    matrices: tuple[tuple[int, int], ...]
    """Output and input width of each weight matrix, the unembedding last."""
    bytes_per_weight: int
    cache_bytes: int
    """Of the key-value cache, per row and position."""

    @property
    def weights(self) -> int:
        """Entries of all matrices: multiply-adds per token."""
        return sum(wide * narrow for wide, narrow in self.matrices)


def shapes_of(module: PreTrainedModel) -> Shapes:
    """Read the shapes off a plain Hugging Face module; a tied unembedding counts once, as it is read once."""
    config: Any = module.config
    inside = [
        tuple(parameter.shape)
        for name, parameter in module.named_parameters()
        if parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
    ]
    unembedding = (config.vocab_size, config.hidden_size)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = module.dtype.itemsize
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * width * size
    return Shapes((*inside, unembedding), size, cache)


@dataclass(frozen=True)
class Machine:
    """What the machine can do at a moment."""

    bandwidth: float
    """Bytes per second."""
    rates: Mapping[int, Mapping[str, float]]
    """Floating-point operations per second over all matrices, by rows and arrangement."""

    @classmethod
    def now(cls, module: PreTrainedModel, rows: int) -> "Machine":
        """Measure it, on a model's shapes, for up to that many rows."""
        shapes = shapes_of(module)
        return cls(
            read_bandwidth(),
            {count: rates(shapes, count, module.dtype) for count in sorted({*_counts(rows), PROMPT_ROWS})},
        )


def limits(
    module: PreTrainedModel, done: Sequence[Completion], machines: Sequence[Machine], seconds: Sequence[float]
) -> dict[str, Any]:
    """The least time for these completions, and its share of the time taken: that of the median repetition.

    Args:
        module: The model.
        done: What every repetition sampled.
        machines: What the machine could do before each repetition.
        seconds: What each took.
    """
    each = [_limits(shapes_of(module), done, *one) for one in zip(machines, seconds, strict=True)]
    shares = [one["share_of_limit"] for one in each]
    ordered = sorted(each, key=lambda one: one["share_of_limit"])
    return {
        **ordered[(len(each) - 1) // 2],
        "share_by_repetition": shares,
        "share": {"median": statistics.median(shares), "min": min(shares), "max": max(shares)},
    }


def _limits(shapes: Shapes, done: Sequence[Completion], machine: Machine, seconds: float) -> dict[str, Any]:
    """The least time for these completions at several row counts, and its share of the time taken."""
    bandwidth, measured, counts = machine.bandwidth, machine.rates, _counts(len(done))
    prompts = {completion.problem_id: len(completion.prompt_ids) for completion in done}
    wide, narrow = shapes.matrices[-1]
    multiplied = (shapes.weights - wide * narrow) * sum(prompts.values()) + wide * narrow * len(prompts)

    def least(rate: Callable[[Mapping[str, float]], float]) -> tuple[float, list[dict[str, Any]]]:
        at = [_at(shapes, done, rows, rate(measured[rows]), bandwidth) for rows in counts]
        return 2 * multiplied / rate(measured[PROMPT_ROWS]), at

    def shortest(at: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return min(at, key=lambda entry: entry["seconds"])

    prefill, at = least(lambda found: max(found.values()))
    linear_prefill, linear_at = least(lambda found: found["linear"])
    best, of_linear = shortest(at), linear_prefill + shortest(linear_at)["seconds"]
    return {
        "shapes": {**asdict(shapes), "matrices": _counted(shapes.matrices), "weights": shapes.weights},
        "bandwidth_bytes_per_second": bandwidth,
        "prefill_seconds": prefill,
        "decode": at,
        "best_rows": best["rows"],
        "bound_by": best["bound_by"],
        "limit_seconds": prefill + best["seconds"],
        "engine_seconds": seconds,
        "share_of_limit": (prefill + best["seconds"]) / seconds,
        "flops_by_arrangement": measured,
        "by_linear": {"limit_seconds": of_linear, "share_of_limit": of_linear / seconds},
        "in_sequence": in_sequence(shapes, done, measured, bandwidth, prefill=prefill, seconds=seconds),
        "rule": "per row count: max(arithmetic, memory); the least over row counts, plus the prompts once each",
    }


def _counts(rows: int) -> list[int]:
    """The powers of two below that, and that."""
    return [*(2**exponent for exponent in range(20) if 2**exponent < rows), rows]


def in_sequence(
    shapes: Shapes,
    done: Sequence[Completion],
    measured: Mapping[int, Mapping[str, float]],
    bandwidth: float,
    *,
    prefill: float,
    seconds: float,
) -> dict[str, Any]:
    """The least time if all rows start at once, step after step with the rows that are left."""
    fed = np.array([len(completion.ids) - 1 for completion in done])
    prompts = np.array([len(completion.prompt_ids) for completion in done])
    steps = {rows: 2 * shapes.weights * rows / max(measured[rows].values()) for rows in sorted(measured)}
    least = 0.0
    for step in range(int(fed.max())):
        left = fed > step
        arithmetic = float(np.interp(left.sum(), list(steps), list(steps.values())))
        positions = int((prompts[left] + step + 1).sum())
        memory = (shapes.weights * shapes.bytes_per_weight + positions * shapes.cache_bytes) / bandwidth
        least += max(arithmetic, memory)
    return {
        "seconds_of_a_step_by_rows": steps,
        "limit_seconds": prefill + least,
        "share_of_limit": (prefill + least) / seconds,
    }


def rates(shapes: Shapes, rows: int, dtype: torch.dtype) -> dict[str, float]:
    """Floating-point operations per second over all the model's matrices, in turn, by how the product is arranged."""
    inputs = {narrow: torch.randn(rows, narrow, dtype=dtype) for _, narrow in shapes.matrices}
    weights = [torch.randn(shape, dtype=dtype) for shape in shapes.matrices]
    arrangements: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "linear": torch.nn.functional.linear,
        "weights on the left": lambda given, weight: torch.mm(weight, given.t()),
    }

    def multiply_all(multiply: Callable[[Tensor, Tensor], Tensor]) -> None:
        for weight in weights:
            multiply(inputs[weight.shape[1]], weight)

    with torch.inference_mode():
        return {
            name: 2 * shapes.weights * rows / _least_seconds(lambda multiply=multiply: multiply_all(multiply))
            for name, multiply in arrangements.items()
        }


def read_bandwidth() -> float:
    """Bytes per second of summing an array larger than the caches, with all threads."""
    array = torch.ones(ARRAY_BYTES // 8, dtype=torch.int64)
    return ARRAY_BYTES / _least_seconds(lambda: array.sum())


def _at(shapes: Shapes, done: Sequence[Completion], rows: int, rate: float, bandwidth: float) -> dict[str, Any]:
    fed = sum(len(completion.ids) - 1 for completion in done)  # the last token is sampled, not fed
    steps = fed / rows
    positions = sum(
        sum(range(len(completion.prompt_ids) + 1, len(completion.prompt_ids) + len(completion.ids)))
        for completion in done
    )
    arithmetic = 2 * shapes.weights * fed / rate
    memory = (steps * shapes.weights * shapes.bytes_per_weight + positions * shapes.cache_bytes) / bandwidth
    return {
        "rows": rows,
        "steps": steps,
        "linear_gflops": rate / 1e9,
        "arithmetic_seconds": arithmetic,
        "memory_seconds": memory,
        "bound_by": "arithmetic" if arithmetic >= memory else "memory",
        "seconds": max(arithmetic, memory),
    }


def _least_seconds(work: Callable[[], object], budget: float = 0.5) -> float:
    """Time of the quickest of as many runs as fit the budget, three at least."""
    work()
    times: list[float] = []
    while len(times) < 3 or sum(times) < budget:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _counted(matrices: Sequence[tuple[int, int]]) -> dict[str, int]:
    return {f"{wide} x {narrow}": count for (wide, narrow), count in Counter(matrices).items()}
