"""How completions are put together for a capture: which make a shard, and how many tokens run at once."""

from collections.abc import Sequence

from backtracking.model.activations.positions import Chosen
from backtracking.model.activations.sidecar import Recipe
from backtracking.model.last_position import TOKENS_AT_ONCE
from backtracking.model.reasoner import HookedReasoner


def by_shard(chosen: Sequence[Chosen], rows: int) -> list[list[int]]:
    """Numbers of consecutive completions that make a shard of at most so many rows, but at least one completion."""
    shards: list[list[int]] = []
    held = 0
    for number, each in enumerate(chosen):
        if not shards or (held and held + len(each) > rows):
            shards.append([])
            held = 0
        shards[-1].append(number)
        held += len(each)
    return shards


def tokens_at_once(model: HookedReasoner, recipe: Recipe) -> int:
    """Tokens of one forward pass: what is kept of them is at most a quarter of a shard.

    On the CPU what the layers need for them, the widest tensors that live side by side, is at most an eighth of model
    and shard: the system's allocator holds about twice of what lives.
    """
    kept = recipe.shard_bytes // 4 // recipe.row_bytes
    if model.device.type == "cuda":
        return max(1, min(TOKENS_AT_ONCE["cuda"], kept))
    cfg = model.cfg
    wide = (4 * int(cfg.d_mlp or 4 * cfg.d_model) + 8 * int(cfg.d_model)) * max(model.dtype.itemsize, 4)
    weights = sum(parameter.nbytes for parameter in model.plain.module.parameters())
    return max(1, min(TOKENS_AT_ONCE["cpu"], kept, (weights + recipe.shard_bytes) // 8 // wide))
