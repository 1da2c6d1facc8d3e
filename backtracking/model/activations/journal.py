"""The journal of a store that is being written: one line per shard that is whole, by which it is continued."""

import os
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from backtracking.model.activations.sidecar import JOURNAL, SIDECAR, Shard

UNITS = "units"
"""Folder of the completions of each unit of work, while sampling."""


def note(folder: Path, shard: Shard) -> None:
    """Say that a shard is whole."""
    with (folder / JOURNAL).open("a", encoding="utf-8") as journal:
        journal.write(shard.model_dump_json() + "\n")
        journal.flush()
        os.fsync(journal.fileno())


def recover(folder: Path, *, unit_is_whole: Callable[[int], bool]) -> list[Shard]:
    """The shards that are whole; what was begun after them is removed."""
    journal = folder / JOURNAL
    shards: list[Shard] = []
    for line in journal.read_bytes().splitlines(keepends=True) if journal.is_file() else []:
        try:
            shard = Shard.model_validate_json(line)
        except ValidationError:
            break  # the line at which the writing was killed
        if shard.unit is not None and not unit_is_whole(shard.unit):
            break
        if not line.endswith(b"\n") or shard.number != len(shards) or not _is_there(folder, shard):
            break
        shards.append(shard)
    kept = {f.name for shard in shards for f in (shard.index, *shard.tensors.values())}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and name not in kept and name not in (SIDECAR, JOURNAL) and not name.startswith(UNITS):
            path.unlink()
    journal.write_text("".join(shard.model_dump_json() + "\n" for shard in shards), encoding="utf-8")
    return shards


def _is_there(folder: Path, shard: Shard) -> bool:
    paths = [(folder / file.name, file.bytes) for file in (shard.index, *shard.tensors.values())]
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)
