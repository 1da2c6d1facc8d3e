"""Parts of a forward pass on a CPU in float32, each as one compiled loop instead of six or more small operations.

With a handful of rows a step is mostly the cost of starting operations. A gain with its receipt is one loop, and two
parts that most architectures share are replaced while the engine runs: root-mean-square norms and rotary embeddings.
Which modules have those is not read from a table of architectures: a part is run on numbers of ours, and replaced where
it gives what the definition gives. Hooks see what they saw before.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from backtracking.model.sampling.compiled import compiled, over_rows, serves

ROTARY = "apply_rotary_pos_emb"
"""What transformers' modules call the function."""
_EPSILON = ("variance_epsilon", "eps")
"""And the number that a norm adds."""
_ONE, _NONE = np.float32(1), np.float32(0)
_tried: WeakKeyDictionary[nn.Module, dict[tuple[float, int, Any], bool]] = WeakKeyDictionary()
"""Whether a module was found to be such a norm, by its epsilon, its width and its class's forward."""


@contextmanager
def installed(module: nn.Module) -> Iterator[list[str]]:
    """Replace the parts of a model inside the block, which one thread at a time enters; says which."""
    norms: list[tuple[nn.Module, str, Any]] = []
    sources: list[tuple[Any, str, Any]] = []
    try:
        for name, part in module.named_modules():
            if (epsilon := _epsilon_of(part)) is not None:
                norms.append((part, name, part.__dict__.get("forward")))
                part.forward = _normalizing(part, epsilon)
        for name in sorted({type(part).__module__ for part in module.modules()}):
            source = sys.modules.get(name)
            function: Callable[..., Any] | None = getattr(source, ROTARY, None)
            if function is not None and _is_rotary(function):
                setattr(source, ROTARY, _rotating(function))
                sources.append((source, name, function))
        yield [name for _, name, _ in norms] + [name for _, name, _ in sources]
    finally:
        for part, _, own in norms:
            part.__dict__.pop("forward", None)
            if own is not None:
                part.forward = own
        for source, _, function in sources:
            setattr(source, ROTARY, function)


def rms_norm(residual: Float[Tensor, "*rows d"], weight: np.ndarray, epsilon: np.float32) -> Float[Tensor, "*rows d"]:
    """Each row over the root of its mean square (and epsilon), times the weights; on the CPU, in float32."""
    rows = np.ascontiguousarray(residual.numpy())
    found = np.empty(rows.shape, np.float32)
    width = rows.shape[-1]
    over_rows(
        _normalize, rows.size // width, rows.size, rows.reshape(-1, width), weight, epsilon, found.reshape(-1, width)
    )
    return torch.from_numpy(found)


def rotated(
    heads: Float[Tensor, "row head 1 d_head"], cos: Float[Tensor, "row 1 d_head"], sin: Float[Tensor, "row 1 d_head"]
) -> Float[Tensor, "row head 1 d_head"]:
    """Each head turned by the angles of its row, its first half against its second; on the CPU, in float32."""
    given, cosines, sines = (np.ascontiguousarray(part.numpy()) for part in (heads, cos, sin))
    found = np.empty_like(given)
    over_rows(_rotate, len(given), given.size, given, cosines, sines, found)
    return torch.from_numpy(found)


def scaled(
    activation: Float[Tensor, "row pos d"],
    gain: Float[Tensor, "row pos width"],
    growth: Float[Tensor, "row pos"],
    *,
    head: Int[Tensor, " row"] | None,
    heads: int,
    change: Float[Tensor, " seat"],
) -> Float[Tensor, "row pos d"]:
    """`activation * gain`; on the CPU, in float32.

    Args:
        activation: What passes a site.
        gain: One number per position, or one for each of its numbers.
        growth: What to multiply the norm of the site's part of the activation by,
        head: which is all of it, or one head of each row.
        heads: How many there are.
        change: Receives the sum of that over the positions of each row.
    """
    given = np.ascontiguousarray(activation.numpy())
    found = np.empty_like(given)
    which = np.zeros(len(given), np.int64) if head is None else head.numpy()
    part = given.shape[2] // (1 if head is None else heads)
    over_rows(_scale, len(given), given.size, given, gain.numpy(), growth.numpy(), which, part, change.numpy(), found)
    return torch.from_numpy(found)


@compiled
def _scale(
    first: int, last: int, given: Any, gain: Any, growth: Any, head: Any, part: int, change: Any, found: Any
) -> None:
    wide = gain.shape[2] > 1
    for row in range(first, last):
        for position in range(given.shape[1]):
            numbers, into, factors = given[row, position], found[row, position], gain[row, position]
            square = _NONE
            for i in range(head[row] * part, (head[row] + 1) * part):
                square += numbers[i] * numbers[i]
            change[row] += np.sqrt(square) * growth[row, position]
            if wide:
                for i in range(len(numbers)):
                    into[i] = numbers[i] * factors[i]
            else:
                factor = factors[0]
                for i in range(len(numbers)):
                    into[i] = numbers[i] * factor


@compiled
def _normalize(first: int, last: int, rows: Any, weight: Any, epsilon: Any, found: Any) -> None:
    width = np.float32(rows.shape[1])
    for row in range(first, last):
        given, into, total = rows[row], found[row], _NONE
        for i in range(len(weight)):
            total += given[i] * given[i]
        scale = _ONE / np.sqrt(total / width + epsilon)
        for i in range(len(weight)):
            into[i] = given[i] * scale * weight[i]


@compiled
def _rotate(first: int, last: int, heads: Any, cosines: Any, sines: Any, found: Any) -> None:
    half = heads.shape[3] // 2
    for row in range(first, last):
        cos, sin = cosines[row, 0], sines[row, 0]
        for head in range(heads.shape[1]):
            one, two = heads[row, head, 0][:half], heads[row, head, 0][half:]
            into = found[row, head, 0]
            for i in range(half):
                into[i] = one[i] * cos[i] - two[i] * sin[i]
            for i in range(half):
                into[half + i] = two[i] * cos[half + i] + one[i] * sin[half + i]


def _normalizing(norm: nn.Module, epsilon: float) -> Callable[..., Tensor]:
    weight = norm.weight
    assert isinstance(weight, Tensor)
    before, array, added = norm.forward, weight.detach().numpy(), np.float32(epsilon)

    def forward(*given: Tensor, **named: Tensor) -> Tensor:
        (residual,) = (*given, *named.values())
        if serves(residual) and serves(weight) and residual.shape[-1] == len(array):
            return rms_norm(residual, array, added)
        return before(residual)

    return forward


def _rotating(before: Callable[..., Any]) -> Callable[..., Any]:
    def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, *others: Any, **named: Any) -> Any:
        one_each = query.shape[2] == key.shape[2] == 1 and cos.shape == sin.shape == (len(query), 1, query.shape[3])
        one_each = one_each and query.shape[3] % 2 == 0 and query.shape[3] == key.shape[3] and len(query) == len(key)
        served = one_each and all(serves(each) for each in (query, key, cos, sin))
        if others or named or not served:
            return before(query, key, cos, sin, *others, **named)
        return rotated(query, cos, sin), rotated(key, cos, sin)

    return rotate


@torch.inference_mode()
def _epsilon_of(norm: nn.Module) -> float | None:
    """The epsilon of a root-mean-square norm, if this module is shown to be one."""
    weight = getattr(norm, "weight", None)
    epsilon = next((value for name in _EPSILON if isinstance(value := getattr(norm, name, None), float)), None)
    if epsilon is None or not isinstance(weight, nn.Parameter) or weight.ndim != 1 or not serves(weight):
        return None
    alone = sum(1 for _ in norm.parameters()) == 1 and next(norm.children(), None) is None
    if not alone or len(inspect.signature(norm.forward).parameters) != 1:
        return None
    if "forward" in norm.__dict__:  # somebody has replaced it, and may again
        return epsilon if _is_norm(norm, epsilon) else None
    case, shown = (epsilon, len(weight), type(norm).forward), _tried.setdefault(norm, {})
    if case not in shown:
        shown[case] = _is_norm(norm, epsilon)
    return epsilon if shown[case] else None


def _is_norm(norm: nn.Module, epsilon: float) -> bool:
    """Whether it divides each row by the root of its mean square (and epsilon), and multiplies with the weights.

    It is tried with other weights than its own, under which it might look like one: if they are 0, say.
    """
    own = norm._parameters.get("weight")
    if own is None:  # it is computed
        return False
    rows, weight = _numbers(4, len(own)), _numbers(len(own) + 1)[1:]
    norm._parameters["weight"] = nn.Parameter(weight, requires_grad=False)
    try:
        found = norm.forward(rows)
    finally:
        norm._parameters["weight"] = own
    expected = rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + epsilon) * weight
    return torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


@cache
@torch.inference_mode()
def _is_rotary(function: Callable[..., Any]) -> bool:
    """Whether that is the function that turns the first half of each head against the second."""
    if list(inspect.signature(function).parameters)[:4] != ["q", "k", "cos", "sin"]:
        return False
    query, key, cos, sin = _numbers(3, 2, 1, 8), _numbers(3, 1, 1, 8) + 2, _numbers(3, 1, 8), _numbers(3, 1, 8) + 1
    try:
        found = function(query, key, cos, sin)
    except (TypeError, RuntimeError):  # it takes something else
        return False
    if not isinstance(found, tuple) or len(found) != 2:
        return False
    for given, turned in zip((query, key), found, strict=True):
        one, two = given[..., :4], given[..., 4:]
        expected = given * cos[:, None] + torch.cat([-two, one], -1) * sin[:, None]
        if turned.shape != given.shape or not torch.allclose(turned, expected, rtol=1e-5, atol=1e-6):
            return False
    return True


def _numbers(*shape: int) -> Tensor:
    """Numbers of that shape, all different."""
    return torch.linspace(-3, 2, int(np.prod(shape)), dtype=torch.float32, device="cpu").sin().view(shape)
