"""Writing a store: shards appear whole, in order, beside the work of the model.

The size of every file is known before its first row, so rows are written straight to their place on disk, and no
shard is ever held in memory. One thread writes; others read each finished file back, take its checksum and give it its
name. Only then does the journal say that the shard exists.
"""

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import ValidationError
from torch import Tensor

from backtracking.core.errors import InputError
from backtracking.model.activations.positions import Missing
from backtracking.model.activations.sidecar import (
    DTYPES,
    JOURNAL,
    SIDECAR,
    File,
    Recipe,
    Shard,
    Sidecar,
    difference,
)

UNITS = "units"
WAITING = 2**26
"""Bytes that may wait to be written before the model has to."""
_FORMATS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_PACKAGES = ("torch", "transformers", "transformer-lens", "safetensors", "backtracking")


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of one site within a shard."""

    site: str
    first: int
    values: Tensor


class StoreWriter:
    """Writes the shards of a store, from where an earlier attempt stopped."""

    def __init__(self, folder: str | Path, recipe: Recipe, *, completions: int) -> None:
        """Begin a store in a folder, or continue the one of the same recipe there.

        While sampling, a unit of work is whole once its completions are in `units`; shards of others are made anew.

        Raises:
            InputError: The folder holds a store of another recipe, or other files.
        """
        self.folder, self.recipe, self.completions = Path(folder), recipe, completions
        self.complete = False
        self.shards = self._begin()
        self._begun = len(self.shards)
        self._pool, self._sealing, self.settling = ThreadPoolExecutor(1), ThreadPoolExecutor(1), ThreadPoolExecutor(2)
        self._pending: deque[tuple[Future, int]] = deque()
        self._waiting = 0

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        """Finish what has been handed over; after an error, stop where it is safe to continue."""
        if kind is None:
            self._wait(0)
        for pool in (self._pool, self._sealing, self.settling):
            pool.shutdown(wait=True, cancel_futures=kind is not None)

    def shard(self, index: pa.Table, missing: Missing, *, unit: int | None = None) -> "ShardWriter":
        """Begin the next shard, whose rows the index describes."""
        self._begun += 1
        return ShardWriter(self, self._begun - 1, index, missing, unit)

    def unit_path(self, unit: int) -> Path:
        """Where the completions of a unit of work are kept until the store is complete."""
        return self.folder / UNITS / f"{unit:05d}.parquet"

    def settle(self) -> None:
        """Wait until every shard handed over is whole.

        Raises:
            OSError: The disk did not take something.
        """
        self._wait(0)

    def finish(self, sampled: str | None = None) -> None:
        """Wait for the last shard and write the sidecar; `sampled` is the file of the completions made meanwhile.

        Raises:
            OSError: The disk did not take something.
        """
        self._wait(0)
        if not self.complete:
            file = None if sampled is None else _file(self.folder, sampled)
            self._sidecar(complete=True).model_copy(update={"sampled": file}).write(self.folder)
            (self.folder / JOURNAL).unlink(missing_ok=True)
            shutil.rmtree(self.folder / UNITS, ignore_errors=True)
            self.complete = True

    def submit(self, job: Any, size: int) -> None:
        """Let the writing thread do a job that holds `size` bytes, once there is room for it to wait."""
        self._wait(WAITING - size)
        self._waiting += size
        self._pending.append((self._pool.submit(job), size))

    def seal(self, job: Any) -> None:
        """Let the sealing thread do a job; called by the writing thread, whose jobs end before it does."""
        self._pending.append((self._sealing.submit(job), 0))

    def note(self, shard: Shard) -> None:
        """Say in the journal that a shard is whole."""
        with (self.folder / JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(shard.model_dump_json() + "\n")
            journal.flush()
            os.fsync(journal.fileno())
        self.shards.append(shard)

    def _wait(self, most: int) -> None:
        """Wait until at most that many bytes are waiting; at 0 until everything is done."""
        while self._pending and (self._waiting > max(most, 0) or most <= 0 or self._pending[0][0].done()):
            future, size = self._pending.popleft()
            future.result()
            self._waiting -= size

    def _begin(self) -> list[Shard]:
        if (self.folder / SIDECAR).is_file():
            found = Sidecar.read(self.folder)
            if found.recipe != self.recipe:
                raise InputError(
                    f"{self.folder} holds another activation store: {difference(found.recipe, self.recipe)}; "
                    "give another folder, or remove that one"
                )
            self.complete = found.complete
            if not found.complete:
                return self._recover()
            # A kill between the sidecar and these leaves them behind.
            (self.folder / JOURNAL).unlink(missing_ok=True)
            shutil.rmtree(self.folder / UNITS, ignore_errors=True)
            return list(found.shards)
        if self.folder.exists() and any(self.folder.iterdir()):
            raise InputError(f"{self.folder} holds files that are no activation store; give a new or an empty folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.shards = []
        self._sidecar(complete=False).write(self.folder)
        return []

    def _recover(self) -> list[Shard]:
        """The shards that are whole; what was begun after them is removed."""
        journal = self.folder / JOURNAL
        shards: list[Shard] = []
        for line in journal.read_bytes().splitlines(keepends=True) if journal.is_file() else []:
            try:
                shard = Shard.model_validate_json(line)
            except ValidationError:
                break  # the line at which the writing was killed
            files = [shard.index, *shard.tensors.values()]
            sizes = [(self.folder / f.name).stat().st_size if (self.folder / f.name).is_file() else None for f in files]
            if shard.unit is not None and not self.unit_path(shard.unit).is_file():
                break
            if not line.endswith(b"\n") or shard.number != len(shards) or sizes != [f.bytes for f in files]:
                break
            shards.append(shard)
        kept = {f.name for shard in shards for f in (shard.index, *shard.tensors.values())}
        for path in sorted(self.folder.rglob("*")):
            name = str(path.relative_to(self.folder))
            if path.is_file() and name not in kept and name not in (SIDECAR, JOURNAL) and not name.startswith(UNITS):
                path.unlink()
        journal.write_text("".join(shard.model_dump_json() + "\n" for shard in shards), encoding="utf-8")
        return shards

    def _sidecar(self, *, complete: bool) -> Sidecar:
        missing = Missing()
        for shard in self.shards:
            missing += Missing(**shard.missing)
        return Sidecar(
            complete=complete,
            config_hash=self.recipe.config_hash,
            n_tokens=sum(shard.rows for shard in self.shards),
            completions=self.completions,
            missing=asdict(missing),
            recipe=self.recipe,
            shards=tuple(self.shards),
            sampled=None,
            versions=_versions(),
        )


class ShardWriter:
    """One shard while it is written: a temporary file per site, rows put to their place in any order."""

    def __init__(self, store: StoreWriter, number: int, index: pa.Table, missing: Missing, unit: int | None) -> None:
        self._store, self._number, self._index, self._missing, self._unit = store, number, index, missing, unit
        recipe = store.recipe
        self._widths = dict(zip(recipe.sites, recipe.widths, strict=True))
        self._item = DTYPES[recipe.dtype].itemsize
        self._names = {site: file_name(recipe, site, index.num_rows, number) for site in recipe.sites}
        self._open: dict[str, tuple[int, int]] = {}

    def put(self, rows: Sequence[Rows]) -> None:
        """Hand rows over to be written; they must not be changed afterwards."""
        self._store.submit(lambda: self._write(rows), sum(part.values.nbytes for part in rows))

    def close(self) -> None:
        """All rows have been put."""
        self._store.submit(lambda: self._store.seal(self._seal), 0)

    def _write(self, rows: Sequence[Rows]) -> None:
        for part in rows:
            file, start = self._opened(part.site)
            at = start + part.first * self._widths[part.site] * self._item
            left = part.values.contiguous().flatten().view(torch.uint8).numpy().data
            while left:
                written = os.pwrite(file, left, at)
                left, at = left[written:], at + written

    def _opened(self, site: str) -> tuple[int, int]:
        """The open file of a site and where its data begin."""
        if site not in self._open:
            recipe = self._store.recipe
            metadata = {"model": recipe.model, "site": site, "config_hash": recipe.config_hash}
            shape = (self._index.num_rows, self._widths[site])
            head = header(site, recipe.dtype, shape, metadata)
            file = os.open(
                _temporary(self._store.folder / self._names[site]), os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o644
            )
            os.pwrite(file, head, 0)
            self._open[site] = (file, len(head))
        return self._open[site]

    def _seal(self) -> None:
        """Name the files, with their checksums, and note the shard."""
        folder = self._store.folder
        name = f"rows/{self._number:05d}.parquet"
        (folder / "rows").mkdir(exist_ok=True)
        pq.write_table(self._index, _temporary(folder / name), compression="zstd")
        for site in self._store.recipe.sites:
            self._opened(site)  # a shard without rows has a header too
            os.close(self._open.pop(site)[0])
        # One file is read back while another waits for the disk.
        index, *files = self._store.settling.map(lambda each: _settle(folder, each), [name, *self._names.values()])
        shard = Shard(
            number=self._number,
            unit=self._unit,
            rows=self._index.num_rows,
            index=index,
            tensors=dict(zip(self._names, files, strict=True)),
            missing=asdict(self._missing),
        )
        self._store.note(shard)


def file_name(recipe: Recipe, site: str, rows: int, number: int) -> str:
    """`{model}_{layer}_{dataset}_{n_tokens}` as in the seeds, the layer with its component, and the shard's number.

    The tokens are those in the file.
    """
    model = recipe.model.rstrip("/").rsplit("/", 1)[-1]
    return f"{_slug(model)}_{site}_{_slug(recipe.dataset)}_{rows}_{number:05d}.safetensors"


def header(name: str, dtype: str, shape: tuple[int, int], metadata: dict[str, str]) -> bytes:
    """The beginning of a safetensors file that holds one tensor, whose bytes follow."""
    size = shape[0] * shape[1] * DTYPES[dtype].itemsize
    tensor = {"dtype": _FORMATS[dtype], "shape": list(shape), "data_offsets": [0, size]}
    text = json.dumps({"__metadata__": metadata, name: tensor}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _settle(folder: Path, name: str) -> File:
    """Give a written file its name once it is on disk; its checksum is of what can be read back."""
    temporary = _temporary(folder / name)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(folder / name)
    return _file(folder, name)


def _file(folder: Path, name: str) -> File:
    with (folder / name).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return File(name=name, bytes=os.fstat(file.fileno()).st_size, sha256=digest)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-.") or "unnamed"


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
