"""Finished units of work at any place that fsspec can write to: a folder, a shared disk, an object store.

Workers write their units there themselves, so a unit that is done stays done even when the driver dies with it.
A unit is written under a temporary name and moved: its own name appears when it is whole.
"""

import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

from fsspec.core import url_to_fs

from backtracking.core.completions import Completions, load_part
from backtracking.core.errors import DamagedFileError, InputError
from backtracking.experiments.executors import Unit


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
            OSError: The place cannot be written to.
        """
        filesystem, path = url_to_fs(self.place(unit))
        draft = f"{path}.{uuid.uuid4().hex}.tmp"
        with tempfile.TemporaryDirectory(prefix="backtracking-") as folder:
            file = Path(folder) / "part.parquet"
            completions.save(file, origin=unit.origin)
            filesystem.makedirs(_parent(path), exist_ok=True)
            filesystem.pipe_file(draft, file.read_bytes())
        filesystem.mv(draft, path)

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


def _parent(path: str) -> str:
    return path.rpartition("/")[0]
