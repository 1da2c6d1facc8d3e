"""One thread at a time runs a model under interventions.

Hooks and replaced parts belong to a model, not to a thread: two threads would act on each other's rows. The second one
waits for the first, and begins nothing meanwhile: a process forked by the first has a copy of every lock that the
second holds at that moment, and nobody in it gives them back.
"""

import os
from contextlib import ContextDecorator
from threading import RLock

from backtracking.core.errors import InputError


class Alone(ContextDecorator):
    """A lock that a thread may take again, and that is of no use in a process forked while another thread held it.

    As a decorator it is held while the function runs.
    """

    def __init__(self) -> None:
        """Free, in this process and in those it forks."""
        self._lock, self._orphaned = RLock(), False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._look)

    def __enter__(self) -> None:
        """Wait for the others.

        Raises:
            InputError: The thread to wait for is not in this process.
        """
        if self._orphaned:
            raise InputError(
                "this process was forked while another thread sampled or scored, whose interventions are still on its "
                "models; fork before, or start processes by multiprocessing's spawn"
            )
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        """Let the next one in."""
        self._lock.release()

    def _look(self) -> None:
        if self._lock.acquire(blocking=False):  # it was free, or held by the thread that forked
            self._lock.release()
        else:
            self._orphaned = True


alone = Alone()
"""Held while something is in place on a model."""
