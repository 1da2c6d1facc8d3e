"""Writing a store: shards appear whole, in order, beside the work of the model.

The size of every file is known before its first row, so rows are written straight to their place on disk, and no
shard is ever held in memory. A file is read back for its checksum while the disk takes it and the next shard is
copied. Only when both are done does it get its name and does the journal say that the shard exists.
"""

import importlib.metadata
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from backtracking.core.errors import InputError
from backtracking.model.activations.files import described
from backtracking.model.activations.journal import UNITS, note, recover
from backtracking.model.activations.lanes import Lanes
from backtracking.model.activations.positions import Missing
from backtracking.model.activations.shard_writer import Plan, ShardWriter
from backtracking.model.activations.sidecar import JOURNAL, SIDECAR, Recipe, Shard, Sidecar, difference

WAITING = 2**26
"""Bytes that may wait to be written at most; never more than a quarter of a shard."""
_PACKAGES = ("torch", "transformers", "transformer-lens", "safetensors", "backtracking")


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
        self._lanes = Lanes(waiting=min(WAITING, recipe.shard_bytes // 4))
        self._writing: list[ShardWriter] = []

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        """Finish what has been handed over; after an error, stop where it is safe to continue."""
        settled = False
        try:
            if kind is None:
                self._lanes.settle()
                settled = True
        finally:
            self._lanes.close(cancel=not settled)
            for shard in self._writing:
                shard.abandon()

    def shard(self, index: pa.Table, missing: Missing, *, unit: int | None = None) -> ShardWriter:
        """Begin the next shard, whose rows the index describes."""
        plan = Plan(self._begun, index, missing, unit)
        self._begun += 1
        shard = ShardWriter(self.folder, self.recipe, plan, self._lanes, self._note)
        self._writing = [*(each for each in self._writing if not each.written), shard]
        return shard

    def unit_path(self, unit: int) -> Path:
        """Where the completions of a unit of work are kept until the store is complete."""
        return self.folder / UNITS / f"{unit:05d}.parquet"

    def settle(self) -> None:
        """Wait until every shard handed over is whole.

        Raises:
            OSError: The disk did not take something.
        """
        self._lanes.settle()

    def finish(self, sampled: str | None = None) -> None:
        """Wait for the last shard and write the sidecar; `sampled` is the file of the completions made meanwhile.

        Raises:
            OSError: The disk did not take something.
        """
        self._lanes.settle()
        if not self.complete:
            file = None if sampled is None else described(self.folder / sampled, sampled)
            self._sidecar(complete=True).model_copy(update={"sampled": file}).write(self.folder)
            self._tidy()
            self.complete = True

    def _note(self, shard: Shard) -> None:
        note(self.folder, shard)
        self.shards.append(shard)

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
                return recover(self.folder, unit_is_whole=lambda unit: self.unit_path(unit).is_file())
            self._tidy()  # a kill between the sidecar and this leaves them behind
            return list(found.shards)
        if self.folder.exists() and any(self.folder.iterdir()):
            raise InputError(f"{self.folder} holds files that are no activation store; give a new or an empty folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.shards = []
        self._sidecar(complete=False).write(self.folder)
        return []

    def _tidy(self) -> None:
        """Remove what only an unfinished store needs."""
        (self.folder / JOURNAL).unlink(missing_ok=True)
        shutil.rmtree(self.folder / UNITS, ignore_errors=True)

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


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
