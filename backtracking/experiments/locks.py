"""One process at a time works on a run.

The lock is the operating system's (through filelock), so it ends with its process, however that ends. Beside it
`.lock.json` says who holds it: number, machine, since when. Some network file systems keep such locks to one
machine; there the note itself counts: a holder on another machine that gave a sign of life within `FRESH` seconds,
by the file system's own clock, is taken to be at work.
"""

import errno
import json
import os
import socket
import weakref
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from backtracking.core.atomic import write_text, writing
from backtracking.core.errors import InputError

LOCK, HOLDER = ".lock", ".lock.json"
FRESH = 1800.0
"""Seconds without a sign of life after which a holder on another machine is taken to be gone."""
_NETWORK = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "fuse", "9p", "afs", "glusterfs", "virtiofs")
_UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


@dataclass(frozen=True)
class Holder:
    """The process that works on a run."""

    pid: int
    host: str
    started: str
    """When it took the run, by its own clock; only ever shown."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.started}"

    @property
    def is_here(self) -> bool:
        """Whether it runs, or ran, on this machine."""
        return self.host == socket.gethostname()


class RunLock:
    """A run that this process holds, until `release`, the end of this value or the end of the process."""

    def __init__(self, folder: Path, lock: FileLock, taken_over: Holder | None) -> None:
        """Hold a lock that has been acquired."""
        self.folder = folder
        self.taken_over = taken_over
        """The dead process that held it before and did not end well; None as a rule."""
        self.release = weakref.finalize(self, _end, folder, lock, os.getpid())
        """Let other processes work on the run, unless this one holds it once more."""

    def beat(self) -> None:
        """Give a sign of life."""
        with writing(self.folder / HOLDER):
            (self.folder / HOLDER).touch()


def _end(folder: Path, lock: FileLock, process: int) -> None:
    if os.getpid() != process:  # a forked child does not hold it
        return
    last = lock.lock_counter <= 1
    if last:
        with suppress(OSError):  # on a folder that has become unwritable the note stays, and is seen to be old
            (folder / HOLDER).unlink(missing_ok=True)
    lock.release()


def take(folder: Path, *, now: str) -> RunLock:
    """Take a run for this process.

    Args:
        folder: Of the run; it exists.
        now: The time, to be shown to others.

    Raises:
        InputError: Another process works on it.
        UnwritableFileError: The folder cannot be written to.
    """
    lock = FileLock(folder / LOCK, timeout=0, is_singleton=True, thread_local=False)
    with writing(folder / LOCK):
        try:
            authority = _acquire(lock) and not _is_shared(folder)
        except Timeout as error:
            raise _in_use(folder, _holder(folder), "wait for it, or end it") from error
    before = _holder(folder)  # not earlier: a holder that has ended since took its note away
    mine = Holder(os.getpid(), socket.gethostname(), now)
    if before is not None and not authority:
        if _may_live(folder, before):
            lock.release()
            raise _in_use(folder, before, f"if it is gone, delete {folder / HOLDER}")
        before = _holder(folder)  # None if it ended well meanwhile
    if before is None or before.pid != mine.pid or not before.is_here:
        write_text(folder / HOLDER, json.dumps(asdict(mine)) + "\n")
    gone = before is not None and (before.pid != mine.pid or not before.is_here)
    return RunLock(folder, lock, before if gone else None)


def _acquire(lock: FileLock) -> bool:
    """Whether the operating system gave the lock; False where the file system knows none."""
    try:
        lock.acquire()
    except Timeout:
        raise
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return False
    return True


def _in_use(folder: Path, holder: Holder | None, remedy: str) -> InputError:
    who = "another process" if holder is None else str(holder)
    return InputError(f"the run {folder.name} is in use by {who}; {remedy}, or give another run_id")


def _holder(folder: Path) -> Holder | None:
    """Who says that they hold the run; None where nobody does, or the note cannot be read."""
    try:
        return Holder(**json.loads((folder / HOLDER).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _may_live(folder: Path, holder: Holder) -> bool:
    """Whether a holder may be at work though its lock is not seen here."""
    if holder.is_here:
        return holder.pid != os.getpid() and psutil.pid_exists(holder.pid)
    probe = folder / LOCK
    with writing(probe):
        probe.touch()
        clock = probe.stat().st_mtime
    try:
        return clock - (folder / HOLDER).stat().st_mtime < FRESH
    except FileNotFoundError:  # it has ended since its note was read
        return False


def _is_shared(folder: Path) -> bool:
    """Whether the folder lies on a file system that several machines may have."""
    place = folder.resolve()
    mounts = [m for m in psutil.disk_partitions(all=True) if place.is_relative_to(m.mountpoint)]
    nearest = max(mounts, key=lambda mount: len(mount.mountpoint), default=None)
    return nearest is not None and nearest.fstype.startswith(_NETWORK)
