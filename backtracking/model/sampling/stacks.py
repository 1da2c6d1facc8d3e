"""A shorter way through a whole model, for passes of one token per row on a CPU.

What transformers does around embedding, blocks and unembedding (masks, settings, records of outputs) takes as long as
two blocks where rows are few. A model is tried with stand-ins for its modules: if it does nothing but call them one
after another, that is what is done.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from backtracking.model.sampling.parts import LARGE, ROWS, Forward, alike, children, hooked, plainly
from backtracking.model.sampling.trials import inside, numbers

MODEL = ("model", "lm_head")
"""What transformers calls the parts of a causal language model,"""
STACK = ("embed_tokens", "layers", "norm", "rotary_emb")
"""and those of what is below its unembedding."""
_GIVEN = {"input_ids", "position_ids", "use_cache", "packed"}
"""What the engine gives to a model in a step; besides, `logits_to_keep` if it does not want all logits."""
_POSITIONS, _ANGLES, _CACHE = object(), object(), object()
"""Stand for what differs from pass to pass."""


def tried(model: nn.Module) -> tuple[Mapping[str, Any], bool] | None:
    """Whether it is `lm_head(norm(blocks(embed(ids))))`.

    Returns:
        What it hands to each block besides the residual stream, and whether it hands positions on by their name.
    """
    stack = model._modules["model"]
    if stack is None or set(stack._modules) != set(STACK) or "forward" in stack.__dict__:
        return None
    layers = stack._modules["layers"]
    if not isinstance(layers, nn.ModuleList):
        return None
    found: tuple[Mapping[str, Any], bool] | None = None
    for start, does in (
        (numbers(ROWS, 1, 8), lambda index: lambda x: torch.sin(x + index)),
        (numbers(ROWS, 1, 8) * LARGE, lambda index: lambda x: x * (-1) ** index + index),
    ):
        with _standing_in(model, stack, layers, start, does) as (seen, named, ids, positions, angles):
            options = {"input_ids": ids, "position_ids": positions, "use_cache": False, "packed": _CACHE}
            got, kept = model.forward(**options), model.forward(**options, logits_to_keep=torch.tensor([0, 0]))
        expected = start
        for index in range(len(layers) + 2):
            expected = does(index)(expected)
        if not alike(got.logits, expected) or not alike(kept.logits, expected.repeat(1, 2, 1)):
            return None
        if len(seen) != 2 * len(layers):
            return None
        known = {id(each): what for each, what in ((positions, _POSITIONS), (angles, _ANGLES), (_CACHE, _CACHE))}
        known |= {id(None): None, id(False): False}
        handed = [{name: known[id(value)] for name, value in each.items()} for each in seen]
        if any(each != handed[0] for each in handed) or found not in (None, (handed[0], named[0])):
            return None
        found = handed[0], named[0]
    return found


@contextmanager
def _standing_in(
    model: nn.Module, stack: nn.Module, layers: nn.ModuleList, start: Tensor, does: Callable[[int], Any]
) -> Iterator[tuple[list[dict[str, Any]], list[bool], Tensor, Tensor, Any]]:
    ids, positions = torch.tensor([[1], [0]]), torch.tensor([[3], [10**9]])
    seen: list[dict[str, Any]] = []
    by_name: list[bool] = []
    angles = numbers(ROWS, 1, 2), numbers(ROWS, 1, 2)

    def embed(given: Tensor) -> Tensor:
        assert given is ids
        return start.clone()

    def turn(hidden: Tensor, *given: Tensor, **named: Tensor) -> Any:
        assert torch.equal(hidden, start)
        assert named.keys() <= {"position_ids"}
        (asked,) = (*given, *named.values())
        assert asked is positions
        by_name.append(bool(named))
        return angles

    def block(index: int) -> Callable[..., Tensor]:
        def forward(hidden: Tensor, **named: Any) -> Tensor:
            seen.append(named)
            return does(index)(hidden)

        return forward

    count = len(layers)
    with ExitStack() as entered:
        entered.enter_context(inside(layers, **{str(index): block(index) for index in range(count)}))
        entered.enter_context(inside(stack, embed_tokens=embed, rotary_emb=turn, norm=does(count)))
        entered.enter_context(inside(model, model=stack.forward, lm_head=does(count + 1)))  # without its hooks
        yield seen, by_name, ids, positions, angles


def shortened(model: nn.Module, found: tuple[Mapping[str, Any], bool]) -> Forward:
    """The shorter forward; what it gives has `logits` and nothing else."""
    handed, by_name = found
    before, (stack, head) = model.forward, children(model, MODEL)
    embed, layers, norm, rotary = children(stack, STACK)
    assert isinstance(layers, nn.ModuleList)

    def forward(*given: Any, **named: Any) -> Any:
        keep = named.get("logits_to_keep")
        known = not given and named.keys() - {"logits_to_keep"} == _GIVEN and not named["use_cache"]
        known = known and named["input_ids"].shape[1] == 1 and (keep is None or isinstance(keep, Tensor))
        if not known or hooked(model) or hooked(stack):
            return before(*given, **named)
        hidden = embed(named["input_ids"])
        positions = named["position_ids"]
        angles = rotary(hidden, position_ids=positions) if by_name else rotary(hidden, positions)
        changing = {_POSITIONS: positions, _ANGLES: angles, _CACHE: named["packed"]}
        passed = {name: changing.get(value, value) for name, value in handed.items()}
        for block in layers:
            hidden = plainly(block)(hidden, **passed)
        hidden = plainly(norm)(hidden)
        return SimpleNamespace(logits=head(hidden if keep is None else hidden[:, keep]))

    return forward
