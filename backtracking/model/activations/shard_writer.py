"""Writing one shard: a temporary file per site, rows put to their place in any order, names when all is on the disk."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from backtracking.core.atomic import flush_folder
from backtracking.model.activations.files import described, flush, header, index_file, temporary, tensor_file
from backtracking.model.activations.lanes import Lanes
from backtracking.model.activations.positions import Missing
from backtracking.model.activations.sidecar import DTYPES, Recipe, Shard


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of one site within a shard."""

    site: str
    first: int
    values: Tensor


@dataclass(frozen=True)
class Plan:
    """What a shard will be."""

    number: int
    index: pa.Table
    missing: Missing
    unit: int | None


class ShardWriter:
    """One shard while it is written.

    Attributes:
        written: All rows are in its files, and these are closed.
    """

    def __init__(self, folder: Path, recipe: Recipe, plan: Plan, lanes: Lanes, note: Callable[[Shard], None]) -> None:
        """Begin; `note` is told when the shard is whole."""
        self._folder, self._recipe, self._plan, self._lanes, self._note = folder, recipe, plan, lanes, note
        self._widths = dict(zip(recipe.sites, recipe.widths, strict=True))
        rows = plan.index.num_rows
        self._names = {site: tensor_file(recipe, site, rows, plan.number) for site in recipe.sites}
        self._open: dict[str, tuple[int, int]] = {}
        self.written = False

    def put(self, rows: Sequence[Rows]) -> None:
        """Hand rows over to be written; they must not be changed afterwards."""
        self._lanes.write(lambda: self._write(rows), holds=sum(part.values.nbytes for part in rows))

    def close(self) -> None:
        """All rows have been put."""
        self._lanes.write(self._end, holds=0)

    def abandon(self) -> None:
        """Close the files of a shard that will not be whole; no thread may be at work on it."""
        while self._open:
            os.close(self._open.popitem()[1][0])

    def _write(self, rows: Sequence[Rows]) -> None:
        for part in rows:
            file, start = self._opened(part.site)
            at = start + part.first * self._widths[part.site] * DTYPES[self._recipe.dtype].itemsize
            left = part.values.contiguous().flatten().view(torch.uint8).numpy().data
            while left:
                written = os.pwrite(file, left, at)
                left, at = left[written:], at + written

    def _opened(self, site: str) -> tuple[int, int]:
        """The open file of a site and where its data begin."""
        if site not in self._open:
            metadata = {"model": self._recipe.model, "site": site, "config_hash": self._recipe.config_hash}
            head = header(site, self._recipe.dtype, (self._plan.index.num_rows, self._widths[site]), metadata)
            path = temporary(self._folder / self._names[site])
            file = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o644)
            self._open[site] = (file, len(head))
            os.pwrite(file, head, 0)
        return self._open[site]

    def _end(self) -> None:
        """Close the files; from here on the disk and the checksums work on them while the next shard is written."""
        index = index_file(self._plan.number)
        (self._folder / index).parent.mkdir(exist_ok=True)
        pq.write_table(self._plan.index, temporary(self._folder / index), compression="zstd")
        for site in self._names:
            self._opened(site)  # a shard without rows has a header too
        self.abandon()
        self.written = True
        names = [index, *self._names.values()]
        paths = [temporary(self._folder / name) for name in names]
        flushed = [self._lanes.flush(partial(flush, path)) for path in paths]
        files = [self._lanes.digest(partial(described, path, name)) for path, name in zip(paths, names, strict=True)]

        def seal() -> None:
            for future in flushed:
                future.result()
            found = [future.result() for future in files]
            for path, name in zip(paths, names, strict=True):
                path.replace(self._folder / name)
            for folder in {(self._folder / name).parent for name in names}:
                flush_folder(folder)
            self._note(
                Shard(
                    number=self._plan.number,
                    unit=self._plan.unit,
                    rows=self._plan.index.num_rows,
                    index=found[0],
                    tensors=dict(zip(self._names, found[1:], strict=True)),
                    missing=asdict(self._plan.missing),
                )
            )

        self._lanes.seal(seal)
