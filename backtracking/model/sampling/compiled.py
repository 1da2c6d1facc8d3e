"""Loops over the rows of a step, compiled by Numba for the processor: what PyTorch has no fast operation for.

Numba needs no compiler on the machine; it keeps what it has compiled in the user's cache (or `NUMBA_CACHE_DIR`).
"""

import hashlib
import inspect
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import njit
from numba.core import config

LANES = 16
"""Numbers in the widest register."""
LEAST = np.float32(-87.0)
"""Of less than this, e to its power is not a normal number."""
_SOURCES = (
    *("compiled.py", "vectors.py", "registers.py", "products.py"),
    *("noise.py", "step_attention.py", "context_attention.py", "step_choice.py", "fused.py"),
)
_DISABLED: bool = getattr(config, "DISABLE_JIT")  # noqa: B009 - its names are made when it is imported
_WORTH = 2**18
"""Numbers to go through that are worth a thread of their own."""
_FAST = {"reassoc", "contract", "arcp", "nsz", "afn"}  # without the assumption that nothing is NaN or infinite
LOG2_E = np.float32(1.4426950408889634)
LN_2 = (np.float32(0.693359375), np.float32(-2.12194440e-4))  # in two parts, whose products are exact enough
# Of (e^x - 1 - x) / x^2 where |x| <= ln(2) / 2: expf.c of S. Moshier's Cephes.
EXP = tuple(map(np.float32, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 0.16666665459, 0.5)))


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled at its first call for the types it is given."""
    function = inspect.unwrap(function)  # of what a check of types at run time has put around it
    options: dict[str, Any] = {"fastmath": _FAST, "nogil": True}
    settings: Any = config  # whose names are made when it is imported
    before = settings.CACHE_DIR
    settings.CACHE_DIR = _folder(before)
    try:
        return njit(**options, cache=True)(function)
    except RuntimeError:  # there is no folder to keep it in
        return njit(**options)(function)
    finally:
        settings.CACHE_DIR = before


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled as a part of those that call it: handing over an array costs more than a short loop."""
    return njit(fastmath=_FAST, nogil=True, forceinline=True)(inspect.unwrap(function))


def _folder(base: str) -> str:
    """Where what is compiled from these sources is kept.

    Numba looks at the file of a function alone, not at those of the functions that it calls.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name in _SOURCES:
        digest.update(Path(__file__).with_name(name).read_bytes())
    cache = base or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return str(Path(cache).expanduser() / "backtracking" / f"loops-{digest.hexdigest()}")


def serves(tensor: torch.Tensor, *kinds: torch.dtype) -> bool:
    """Whether these loops take a tensor of that kind: on the CPU, in float32 or one of `kinds`, without gradients.

    Where compiling is switched off (`NUMBA_DISABLE_JIT`) they take none.
    """
    if _DISABLED or not tensor.is_cpu or (tensor.dtype is not torch.float32 and tensor.dtype not in kinds):
        return False
    return not (tensor.requires_grad and torch.is_grad_enabled())


def bits(tensor: torch.Tensor) -> np.ndarray:
    """The memory of a tensor as an array: of bfloat16, which NumPy does not have, its bits."""
    return (tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor).numpy()


def tensor_of(numbers: np.ndarray) -> torch.Tensor:
    """The same memory as a tensor; see `bits`."""
    found = torch.from_numpy(numbers)
    return found.view(torch.bfloat16) if numbers.dtype == np.uint16 else found


def over_rows(kernel: Callable[..., None], rows: int, work: int, *arguments: Any) -> None:
    """Call `kernel(first, last, *arguments)` for all rows: at once, or in as many parts as PyTorch has threads.

    Args:
        kernel: Does some of the rows; each row comes out the same, whichever are done together.
        rows: How many there are.
        work: Numbers it goes through, about.
        arguments: What else it takes.
    """
    parts = min(work // _WORTH, rows)
    if parts < 2 or (parts := min(parts, torch.get_num_threads())) < 2:
        kernel(0, rows, *arguments)
        return
    ends = [rows * part // parts for part in range(parts + 1)]
    list(
        _pool(os.getpid(), torch.get_num_threads()).map(
            lambda part: kernel(ends[part], ends[part + 1], *arguments), range(parts)
        )
    )


@lru_cache(maxsize=1)
def _pool(_process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of this process: a forked one needs its own."""
    return ThreadPoolExecutor(threads)
