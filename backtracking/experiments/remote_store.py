"""Finished units of work at any place that fsspec can write to: a folder, a shared disk, an object store.

Workers write their units there themselves, so a unit that is done stays done even when the driver dies with it.
A unit is written under a temporary name and moved: its own name appears when it is whole. The store is an extra: the
driver is given every unit too, so a store that fails is told of, and the run goes on.
"""

import logging
import tempfile
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fsspec.core import url_to_fs

from backtracking.core.completions import Completions, load_part
from backtracking.core.errors import DamagedFileError, InputError
from backtracking.experiments.executors import Say, Unit
from backtracking.experiments.ray_cluster import in_one_line


@dataclass(frozen=True)
class RemoteStore:
    """Units by run and name below a URL."""

    url: str
    """Such as `s3://bucket/sweeps`, `/mnt/shared/units` or `memory://units`."""

    def check(self) -> None:
        """See that the place can be written to.

        Raises:
            InputError: The protocol is unknown or its package missing, or nothing can be written there.
        """
        probe = f"{self.url.rstrip('/')}/.probe-{uuid.uuid4().hex}"
        try:
            filesystem, path = url_to_fs(probe)
            filesystem.makedirs(_parent(path), exist_ok=True)
            filesystem.pipe_file(path, b"")
            filesystem.rm_file(path)
        except (ImportError, ValueError, OSError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"the store {self.url!r} cannot be written to ({reason}); give another URL to --store"
            ) from error

    def save(self, unit: Unit, completions: Completions) -> None:
        """Write a unit; doing so again with the same rows changes nothing.

        Raises:
            OSError: The place cannot be written to; no draft is left there, where the place lets it be removed.
        """
        filesystem, path = url_to_fs(self.place(unit))
        draft = f"{path}.{uuid.uuid4().hex}.tmp"
        with tempfile.TemporaryDirectory(prefix="backtracking-") as folder:
            file = Path(folder) / "part.parquet"
            completions.save(file, origin=unit.origin)
            filesystem.makedirs(_parent(path), exist_ok=True)
            try:
                filesystem.pipe_file(draft, file.read_bytes())
                filesystem.mv(draft, path)
            finally:
                with suppress(OSError):  # moved as a rule, and then not there
                    filesystem.rm_file(draft)

    def load(self, unit: Unit) -> Completions | None:
        """The completions of a unit; None where it is not there, or what is there is not what was written.

        Raises:
            OSError: The place cannot be read.
        """
        filesystem, path = url_to_fs(self.place(unit))
        filesystem.invalidate_cache()
        if not filesystem.exists(path):
            return None
        with tempfile.TemporaryDirectory(prefix="backtracking-") as folder:
            file = Path(folder) / "part.parquet"
            file.write_bytes(filesystem.cat_file(path))
            try:
                found, origin = load_part(file)
            except DamagedFileError:
                return None
        return found if origin == unit.origin else None

    def place(self, unit: Unit) -> str:
        """Where a unit is, or will be."""
        return f"{self.url.rstrip('/')}/{unit.run_id}/{unit.name}.parquet"


@dataclass
class Keeping:
    """What a driver has to do with the store: what fails there costs a line to the user, and nothing else."""

    store: RemoteStore | None
    _told: set[str] = field(default_factory=set, init=False)

    def load(self, unit: Unit, say: Say) -> Completions | None:
        """The completions of a unit; None also where there is no store, or it cannot be read."""
        if self.store is None:
            return None
        try:
            return self.store.load(unit)
        except OSError as error:
            self._tell(self.store, "cannot be read; its units are sampled again", in_one_line(error), say)
            return None

    def saved(self, unkept: str | None, say: Say) -> None:
        """A worker has done a unit; `unkept` is why the store does not have it, None where it does."""
        if self.store is not None and unkept is not None:
            self._tell(self.store, "cannot be written to; the run goes on without it", unkept, say)

    def _tell(self, store: RemoteStore, what: str, reason: str, say: Say) -> None:
        """Say once that the store fails in this way, to the run's log and to the user."""
        if what in self._told:
            return
        self._told.add(what)
        say("store failed", level="warning", store=store.url, what=what, reason=reason)
        logging.getLogger("backtracking").warning("the store %s %s (%s)", store.url, what, reason)


def _parent(path: str) -> str:
    return path.rpartition("/")[0]
