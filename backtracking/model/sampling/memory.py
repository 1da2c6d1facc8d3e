"""How much memory a packed batch takes, known before it starts."""

from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch

from backtracking.core.errors import InputError
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling.choice import AT_ONCE, PER_CANDIDATE
from backtracking.model.sampling.compiled import LANES
from backtracking.model.sampling.packed_cache import BLOCK
from backtracking.model.sampling.prefixes import AHEAD, prompt_tokens_at_once

RESERVE = 0.1
"""Share of the free memory that is left to everything else."""
LIBRARIES = 2**25
"""Bytes that matrix kernels and the allocator keep for themselves, about, however small the batch."""
GIB = 2**30


@dataclass(frozen=True)
class MemoryPlan:
    """What a batch of that many rows needs beside the model's weights, in bytes."""

    rows: int
    """Rows decoded together."""
    asked: int
    """Rows that were asked for."""
    sampled: int
    """Keys and values of what the rows add."""
    prefixes: int
    """Keys and values of the prompts."""
    workspace: int
    """Logits or the activations of one layer, and what libraries keep."""
    free: int
    """Memory that was free."""
    captured: int = 0
    """Activations that are kept of rows being decoded."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.sampled + self.prefixes + self.workspace + self.captured

    def __str__(self) -> str:
        """Return one line, in GiB."""
        short = "" if self.rows == self.asked else f" ({self.asked} do not fit)"
        kept = f", activations {self.captured / GIB:.2f}" if self.captured else ""
        return (
            f"{self.rows} rows at once{short}: {self.total / GIB:.2f} GiB beside the weights (sampled tokens "
            f"{self.sampled / GIB:.2f}, prompts {self.prefixes / GIB:.2f}, workspace {self.workspace / GIB:.2f}"
            f"{kept}); "
            f"{self.free / GIB:.1f} GiB free"
        )


def plan_memory(
    model: HookedReasoner,
    *,
    rows: int,
    prefixes: int,
    prompt: int,
    new: int,
    free: int | None = None,
    captured: int = 0,
    workspaces: int = 1,
) -> MemoryPlan:
    """The most rows, up to `rows`, that fit into the free memory.

    Args:
        model: The reasoner.
        rows: Rows that should be decoded together.
        prefixes: Distinct prompts among all rows (times the interventions that reach into them).
        prompt: Tokens of the longest prompt.
        new: Tokens sampled at most.
        free: Bytes that may be used; what is free now if not given.
        captured: Bytes of activations kept of each row.
        workspaces: How many there are: a CUDA graph has its own beside that of single operations.

    Raises:
        InputError: Not even one row fits.
    """
    available = _free(model.device) if free is None else free
    usable = int(available * (1 - RESERVE))
    for count in _fewer(rows):
        plan = _plan(model, count, rows, min(prefixes, count + AHEAD), prompt, new, available)
        plan = replace(plan, captured=count * captured, workspace=workspaces * plan.workspace)
        if plan.total <= usable:
            return plan
    raise InputError(
        f"not even one row fits: {_plan(model, 1, rows, 1, prompt, new, available)}; "
        "lower max_new_tokens, load the model in bfloat16, or use a machine with more memory"
    )


def _plan(model: HookedReasoner, rows: int, asked: int, prefixes: int, prompt: int, new: int, free: int) -> MemoryPlan:
    cfg = model.cfg
    size = model.dtype.itemsize
    kv_heads = int(getattr(cfg, "n_key_value_heads", None) or cfg.n_heads)
    per_token = 2 * int(cfg.n_layers) * kv_heads * int(cfg.d_head) * size
    prompt, columns = -(-prompt // LANES) * LANES, -(-new // BLOCK) * BLOCK
    of = _of_loops if model.device.type == "cpu" else _of_operations
    return MemoryPlan(
        rows=rows,
        asked=asked,
        sampled=rows * columns * per_token,
        prefixes=prefixes * prompt * per_token,
        workspace=of(model, rows, prefixes, prompt, columns, per_token // int(cfg.n_layers)) + LIBRARIES,
        free=free,
    )


def _of_loops(model: HookedReasoner, rows: int, _prefixes: int, prompt: int, columns: int, kept: int) -> int:
    """What a step takes on a CPU, most of it done in compiled loops; `kept` is of a token in a layer's cache."""
    cfg, size = model.cfg, model.dtype.itemsize
    scores = rows * int(cfg.n_heads) * (prompt + columns) * (2 * 4 + 2 * size)
    wide = rows * (4 * int(cfg.d_mlp or 4 * cfg.d_model) + 8 * int(cfg.d_model)) * max(size, 4)
    logits = rows * int(cfg.d_vocab) * (size + 1)
    return max(scores + rows * columns * kept, wide, logits)


def _of_operations(model: HookedReasoner, rows: int, prefixes: int, prompt: int, columns: int, kept: int) -> int:
    """What is held at once where every operation leaves its result in memory, as on a GPU."""
    cfg, size, wide = model.cfg, model.dtype.itemsize, max(model.dtype.itemsize, 4)
    config: Any = model.plain.module.config.get_text_config()
    d_model, d_mlp = int(cfg.d_model), int(cfg.d_mlp or 4 * cfg.d_model)
    together = min(max(1, prompt_tokens_at_once(model.device) // prompt), prefixes)
    experts = int(getattr(config, "num_experts_per_tok", None) or 0)
    mlp = max(3 * d_mlp, experts * (4 * d_model + 3 * int(getattr(config, "moe_intermediate_size", None) or d_mlp)))
    token = max((mlp + 4 * d_model) * size, 4 * d_model * (size + wide))  # of an MLP, or of a norm
    window, cap = getattr(config, "sliding_window", None), getattr(config, "attn_logit_softcapping", None)
    squared = cap is not None or (window is not None and window < prompt)  # then scores of a prompt are written down
    within = together * int(cfg.n_heads) * prompt**2 * (2 * wide + size) if squared else 0
    prefill = together * prompt * token + within
    scores = rows * int(cfg.n_heads) * (prompt + columns) * (2 * wide + 2 * size)
    growth = rows * max(columns - BLOCK, 0) * kept  # a layer's room as it was, beside the wider one
    everything = rows * int(cfg.d_vocab)
    capped = everything * size if getattr(config, "final_logit_softcapping", None) is not None else 0
    choosing = min(everything * (1 + PER_CANDIDATE), AT_ONCE) * wide
    logits = (everything + prefixes * int(cfg.d_vocab)) * size + max(capped, choosing)
    return max(prefill, rows * token, scores, growth, logits)


def _fewer(rows: int) -> list[int]:
    counts = [rows]
    while counts[-1] > 1:
        counts.append(max(1, counts[-1] * 3 // 4))
    return counts


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(psutil.virtual_memory().available)
