"""A unit of work in shares, each decoded by a process of its own with one thread.

On a CPU the matrix products of a step are too small for threads to divide: with two threads they wait for each other
more than they gain. Whole rows divide without waiting. The processes are forked, as PyTorch's own loader of data does,
so they share the weights' memory and start in milliseconds; they use one thread each, since the threads of the parent
do not survive a fork. How many shares a unit has is a part of the plan, and does not depend on who decodes them.
"""

import ctypes
import gc
import math
import multiprocessing
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from backtracking.core.completions import Completions
from backtracking.core.errors import InputError, ReceiptError
from backtracking.core.settings import Settings
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling import loops, packed_engine
from backtracking.model.sampling.alone import alone
from backtracking.model.sampling.plan import Row

LEAST_ROWS = 32
"""Rows of a share: fewer do not pay for a process."""
LEAST_TOKENS = 24
"""Tokens of a row, likewise."""
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux
_ENDINGS = (signal.SIGINT, signal.SIGTERM)


def shares_for(model: HookedReasoner, settings: Settings, *, seats: int) -> int:
    """Into how many shares to cut a unit: as many as PyTorch has threads, on a CPU under Linux, else one.

    Args:
        model: The reasoner.
        settings: How tokens are sampled.
        seats: Rows decoded together, over all shares.
    """
    if not _may_fork(model) or settings.max_new_tokens < LEAST_TOKENS:
        return 1
    return max(1, min(torch.get_num_threads(), seats // LEAST_ROWS))


@alone
def run_in_shares(
    model: HookedReasoner,
    rows: Sequence[Row],
    settings: Settings,
    *,
    seats: int | None = None,
    shares: int = 1,
) -> Completions:
    """Sample every row of a unit: all shares at once where processes can be forked, else one after another.

    Args:
        model: The reasoner.
        rows: What to sample.
        settings: How.
        seats: Rows decoded at once, over all shares; all of them if not given.
        shares: How many; fewer where a share would have fewer than `LEAST_ROWS` rows.

    Raises:
        RuntimeError: A process failed, or was killed, as where memory runs out.
        InputError: See `run_unit`, as for `ReceiptError`.
    """
    count = min(shares, len(rows) // LEAST_ROWS)
    if count < 2:
        return packed_engine.run_unit(model, rows, settings, seats=seats)
    cut = cut_rows(rows, count)
    each = math.ceil(min(seats or len(rows), len(rows)) / count)
    parts = [[rows[index] for index in share] for share in cut]
    if _may_fork(model) and torch.get_num_threads() > 1:
        found = _run_all(model, parts, settings, each)
    else:
        found = [packed_engine.run_unit(model, part, settings, seats=each) for part in parts]
    done = {index: row for share, part in zip(cut, found, strict=True) for index, row in zip(share, part, strict=True)}
    return Completions(done[index] for index in range(len(rows)))


def _may_fork(model: HookedReasoner) -> bool:
    """Whether this process may have children here, and they this model."""
    here = sys.platform == "linux" and not multiprocessing.current_process().daemon
    return here and model.device.type == "cpu"


def cut_rows(rows: Sequence[Row], shares: int) -> list[list[int]]:
    """Indices of the rows of each share, in order: like numbers of rows, and rows of one prompt together.

    A prompt with more rows than a share is cut.
    """
    most = math.ceil(len(rows) / shares)
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(row.prompt_ids, []).append(index)
    pieces = [group[start : start + most] for group in groups.values() for start in range(0, len(group), most)]
    cut: list[list[int]] = [[] for _ in range(shares)]
    for piece in sorted(pieces, key=len, reverse=True):
        min(cut, key=len).extend(piece)
    return [sorted(share) for share in cut]


def _run_all(
    model: HookedReasoner, parts: Sequence[Sequence[Row]], settings: Settings, seats: int
) -> list[Completions]:
    loops.prepare(model.dtype)
    with _children() as children:
        gc.freeze()  # else a child's collector writes to every object, and so copies the memory they lie in
        try:
            for part in parts:
                _start(children, model, part, settings, seats)
        finally:
            gc.unfreeze()
        found: dict[Connection, Completions] = {}
        while len(found) < len(children):
            for end in wait([child.end for child in children if child.end not in found]):
                assert isinstance(end, Connection)
                found[end] = _received(next(child for child in children if child.end is end))
        return [found[child.end] for child in children]


@dataclass(frozen=True)
class _Child:
    """A process, and where what it found is received."""

    process: BaseProcess
    end: Connection


@contextmanager
def _children() -> Iterator[list[_Child]]:
    """Processes that do not outlive the block, however it ends."""
    children: list[_Child] = []
    try:
        yield children
    except BaseException:
        for child in children:
            child.process.kill()
        raise
    finally:
        for child in children:
            child.process.join()
            child.end.close()


def _start(children: list[_Child], model: HookedReasoner, rows: Sequence[Row], settings: Settings, seats: int) -> None:
    """Fork a child that decodes those rows; an interrupt waits until the child is on the list."""
    context = multiprocessing.get_context("fork")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)
    try:
        here, there = context.Pipe(duplex=False)
        child = context.Process(target=_decode, args=(there, os.getpid(), model, rows, settings, seats), daemon=True)
        with warnings.catch_warnings():  # Python 3.12 warns of locks that other threads hold: the child takes none
            warnings.simplefilter("ignore", DeprecationWarning)
            child.start()
        children.append(_Child(child, here))
        there.close()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _decode(
    end: Connection, parent: int, model: HookedReasoner, rows: Sequence[Row], settings: Settings, seats: int
) -> None:
    """What a child does: decode its share, and send it or the error back."""
    ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends its children
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDINGS)
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        found: Completions | Exception = packed_engine.run_unit(model, rows, settings, seats=seats)
    except (InputError, ReceiptError, FloatingPointError) as error:
        found = error
    except BaseException:  # noqa: BLE001 - the parent raises it; not every error can be sent as it is
        found = RuntimeError(f"a process that decoded a part of the batch failed:\n{traceback.format_exc()}")
    end.send(found)
    end.close()


def _received(child: _Child) -> Completions:
    try:
        found = child.end.recv()
    except EOFError:
        child.process.join()
        raise RuntimeError(
            f"a process that decoded a part of the batch was ended by signal {-(child.process.exitcode or 0)}, as "
            "happens where memory runs out: end other programs, sample fewer rows at once (rows=..., "
            "generation.batch_size), or set OMP_NUM_THREADS=1, to decode one part after another in one process"
        ) from None
    if isinstance(found, Exception):
        raise found
    return found
