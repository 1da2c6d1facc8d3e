"""How many of PyTorch's threads a model is worth on a CPU: one, if it is small.

Threads meet at the end of every operation, and spin until all are there. Where an operation takes microseconds they
gain nothing by that, and where another process holds a core each meeting lasts until the system lets the other thread
run: beside one busy process on two cores a small unit of the embedded model takes 30 times as long (6 to 101) with two
threads as with one, and on an idle machine as long (`benchmarks/threads.py`). A scan, whose passes hold thousands of
tokens, keeps PyTorch's threads: on an idle machine they gain a fifth there.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from torch import get_num_threads, nn, set_num_threads

KEPT = 2**25
"""Bytes of weights that a processor keeps in its caches, about: threads read larger ones faster than one does."""


@contextmanager
def threads_for(module: nn.Module) -> Iterator[None]:
    """Hold PyTorch to one thread while a small model runs.

    The number belongs to the process: other threads have one as well meanwhile, and the last one to leave gives back
    what the first one found.
    """
    if get_num_threads() == 1 and not _held.holders or not _is_small(module):
        yield
        return
    _held.take()
    try:
        yield
    finally:
        _held.give_back()


def _is_small(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return all(each.is_cpu for each in parameters) and sum(each.nbytes for each in parameters) <= KEPT


class _Held:
    """Who holds PyTorch to one thread, and how many there were before."""

    def __init__(self) -> None:
        self.holders, self._before, self._lock = 0, 1, Lock()

    def take(self) -> None:
        with self._lock:
            if not self.holders:
                self._before = get_num_threads()
                set_num_threads(1)
            self.holders += 1

    def give_back(self) -> None:
        with self._lock:
            self.holders -= 1
            if not self.holders:
                set_num_threads(self._before)


_held = _Held()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_held.__init__)  # a lock may have been held by a thread that is not here
