"""The threads behind a store: what is slow about writing happens beside the model, in lanes that overlap.

One lane copies rows into files, one waits for the disk, two take checksums, and one makes shards whole in their order.
So the disk is at work while the next shard is copied and the last one is digested.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Result = TypeVar("_Result")


class Lanes:
    """Threads that do the jobs of one store; after one job has failed no other is done."""

    def __init__(self, *, waiting: int) -> None:
        """Start with nothing to do; at most `waiting` bytes may wait to be written before the model has to.

        What is larger waits alone.
        """
        self._writing, self._disk, self._sealing = (ThreadPoolExecutor(1) for _ in range(3))
        self._checksums = ThreadPoolExecutor(2)
        self._writes: deque[tuple[Future[None], int]] = deque()
        self._seals: deque[Future[None]] = deque()
        self._most, self._waiting = waiting, 0
        self._error: BaseException | None = None

    def write(self, job: Callable[[], None], *, holds: int) -> None:
        """Copy rows that hold so many bytes, in the order of the calls, once there is room for them to wait.

        Raises:
            OSError: An earlier job failed.
        """
        while self._writes and (self._writes[0][0].done() or self._waiting + holds > self._most):
            self._take()
        while self._seals and self._seals[0].done():
            self._seals.popleft().result()
        self._waiting += holds
        self._writes.append((self._writing.submit(self._unless_broken, job), holds))

    def seal(self, job: Callable[[], None]) -> None:
        """Make a shard whole, in the order of the calls; called by jobs of `write`."""
        self._seals.append(self._sealing.submit(self._unless_broken, job))

    def flush(self, job: Callable[[], None]) -> Future[None]:
        """Wait for the disk."""
        return self._disk.submit(job)

    def digest(self, job: Callable[[], _Result]) -> Future[_Result]:
        """Take a checksum."""
        return self._checksums.submit(job)

    def settle(self) -> None:
        """Wait until everything is done.

        Raises:
            OSError: A job failed; also when that has been raised before.
        """
        while self._writes:
            self._take()
        while self._seals:
            self._seals.popleft().result()
        if self._error is not None:
            raise self._error

    def close(self, *, cancel: bool) -> None:
        """End the threads, with what they are doing; what still waits is done too, or cancelled."""
        for pool in (self._writing, self._disk, self._checksums, self._sealing):
            pool.shutdown(wait=True, cancel_futures=cancel)

    def _take(self) -> None:
        future, size = self._writes.popleft()
        self._waiting -= size
        future.result()

    def _unless_broken(self, job: Callable[[], None]) -> None:
        """A shard with rows that could not be written must not be sealed, nor one after it."""
        if self._error is not None:
            raise self._error
        try:
            job()
        except BaseException as error:
            self._error = error
            raise
