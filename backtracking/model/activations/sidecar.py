"""The sidecar of an activation store: what was captured from which model, and what each file holds."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from backtracking.core.atomic import write_text
from backtracking.core.errors import InputError, MissingFileError
from backtracking.core.sites import Site

SIDECAR = "store.json"
JOURNAL = "shards.jsonl"
"""While a store is being written: one line per shard that is whole."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Recipe(_Frozen):
    """All that decides what a store holds: two stores of one recipe hold the same bytes on one machine."""

    made: Literal["teacher-forced", "while sampling"]
    model: str
    revision: str | None
    """Commit of a model from the Hub."""
    weights_hash: str
    model_dtype: str
    device: str
    sites: tuple[str, ...]
    widths: tuple[int, ...]
    """Numbers per position of each site."""
    dtype: str
    """Number format of the stored activations."""
    dataset: str
    positions: str
    interventions: dict[str, str]
    """Of each condition; what a condition did not have applied to it is said in `note`."""
    note: str
    source: dict[str, Any]
    """The completions, or how they were sampled."""
    shard_bytes: int
    batch: str
    """How rows were put together in forward passes, on which rounding depends."""

    @property
    def config_hash(self) -> str:
        """SHA-256 over all of it."""
        return _digest(self.model_dump(mode="json"))

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, all sites together."""
        return sum(self.widths) * DTYPES[self.dtype].itemsize


class File(_Frozen):
    """A file of a shard."""

    name: str
    """Relative to the store's folder."""
    bytes: int
    sha256: str


class Shard(_Frozen):
    """Consecutive rows of the store: one tensor file per site, and their index."""

    number: int
    unit: int | None
    """While sampling: the unit of work it belongs to."""
    rows: int
    index: File
    tensors: dict[str, File]
    """By site."""
    missing: dict[str, int]
    """Positions that were asked for and do not exist, by reason."""


class Sidecar(_Frozen):
    """What `store.json` holds."""

    format: Literal[1] = 1
    complete: bool
    config_hash: str
    n_tokens: int
    """Rows: positions kept, of all completions."""
    completions: int
    """Completions asked for."""
    missing: dict[str, int]
    recipe: Recipe
    shards: tuple[Shard, ...]
    sampled: File | None
    """The completions that were sampled meanwhile."""
    versions: dict[str, str]
    seal: str = ""
    """SHA-256 over everything else in this file."""

    def sealed(self) -> "Sidecar":
        """The same with its seal."""
        return self.model_copy(update={"seal": _digest(self.model_dump(mode="json", exclude={"seal"}))})

    def write(self, folder: Path) -> None:
        """Write it into the folder of the store; it appears whole or not at all."""
        write_text(folder / SIDECAR, json.dumps(self.sealed().model_dump(mode="json"), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Sidecar":
        """Read it from the folder of a store.

        Raises:
            InputError: There is none, or it is damaged.
        """
        path = folder / SIDECAR
        if not path.is_file():
            raise MissingFileError(f"no activation store at {folder}: it holds no {SIDECAR}")
        try:
            found = cls.model_validate_json(path.read_bytes())
        except (ValidationError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is damaged ({str(error).splitlines()[0]}); capture the store again") from error
        if found.seal != found.sealed().seal or found.config_hash != found.recipe.config_hash:
            raise InputError(f"{path} is damaged: its content does not match its seal; capture the store again")
        return found


def difference(one: Recipe, other: Recipe) -> str:
    """The first thing in which two recipes differ, in words."""
    for name in Recipe.model_fields:
        before, after = getattr(one, name), getattr(other, name)
        if before != after:
            return f"{name} was {_short(before)} and is now {_short(after)}"
    return "nothing"


def parsed(sites: tuple[str, ...]) -> tuple[Site, ...]:
    """The sites of a recipe as values."""
    return tuple(map(Site.parse, sites))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
