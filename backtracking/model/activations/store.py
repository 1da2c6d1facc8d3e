"""Reading a store: the activations of its sites, the table of what each row is, and whether its files are whole."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from backtracking.core.completions import Completions
from backtracking.core.errors import InputError, UnknownSiteError
from backtracking.core.sites import Site
from backtracking.model.activations.index import read_index
from backtracking.model.activations.sidecar import DTYPES, File, Sidecar
from backtracking.model.activations.site_activations import SiteActivations


@dataclass(frozen=True)
class Verified:
    """What a check of a store found whole."""

    files: int
    bytes: int


@dataclass(frozen=True)
class StoreBatch:
    """Consecutive rows of a store."""

    rows: pd.DataFrame
    """What each row is; its index is the row number."""
    activations: dict[Site, Float[Tensor, "row width"]]


class ActivationStore:
    """Activations on disk. `store[site]` are those of a site, `store.rows` says what each row is.

    Attributes:
        path: The folder.
        sidecar: What was captured, from which model, and what each file holds.
    """

    def __init__(self, path: Path, sidecar: Sidecar) -> None:
        """Use `open`."""
        self.path, self.sidecar = path, sidecar

    @classmethod
    def open(cls, path: str | Path) -> "ActivationStore":
        """Open a store; nothing but its sidecar is read.

        Raises:
            InputError: There is none, it is damaged, or it is not complete.
        """
        sidecar = Sidecar.read(Path(path))
        if not sidecar.complete:
            raise InputError(f"the activation store at {path} is not complete; run the capture again, it will continue")
        return cls(Path(path), sidecar)

    def __repr__(self) -> str:
        """Return one line: where it is and what it holds."""
        recipe = self.sidecar.recipe
        sites = ", ".join(recipe.sites)
        what = f"{len(self)} positions ({recipe.positions}) x {sites} of {recipe.model}"
        return f"ActivationStore({str(self.path)!r}: {what})"

    def __len__(self) -> int:
        """Return the number of rows: kept positions of all completions."""
        return self.sidecar.n_tokens

    @property
    def sites(self) -> tuple[Site, ...]:
        """What was captured."""
        return tuple(map(Site.parse, self.sidecar.recipe.sites))

    @cached_property
    def rows(self) -> pd.DataFrame:
        """What each row is: completion (its number), problem, sample, variant, condition, position, token, onset."""
        return read_index([self.path / shard.index.name for shard in self.sidecar.shards])

    def __getitem__(self, site: str | Site) -> SiteActivations:
        """Return the activations at a site.

        Raises:
            UnknownSiteError: The store does not hold it.
        """
        name, recipe = str(Site.parse(site)), self.sidecar.recipe
        if name not in recipe.sites:
            raise UnknownSiteError(f"the store at {self.path} holds {', '.join(recipe.sites)}, not {name}")
        if name not in self._opened:
            shards = self.sidecar.shards
            self._opened[name] = SiteActivations(
                Site.parse(site),
                [self.path / shard.tensors[name].name for shard in shards],
                [shard.rows for shard in shards],
                recipe.widths[recipe.sites.index(name)],
                DTYPES[recipe.dtype],
            )
        return self._opened[name]

    def batches(self, size: int, *, sites: Sequence[str | Site] | None = None) -> Iterator[StoreBatch]:
        """All rows in order, `size` at a time; the last batch may be shorter.

        Raises:
            InputError: A size below 1.
        """
        if size < 1:
            raise InputError(f"a batch of {size} rows holds nothing; give at least 1")
        chosen = self.sites if sites is None else tuple(map(Site.parse, sites))
        for start in range(0, len(self), size):
            rows = self.rows.iloc[start : start + size]
            yield StoreBatch(rows, {site: self[site][start : start + size] for site in chosen})

    def to_dataset(self, *, sites: Sequence[str | Site] | None = None) -> Any:
        """A `datasets.Dataset` with the columns of `rows` and one column of vectors per site.

        float32 and float16 stay where they are, mapped from disk; bfloat16, which Arrow does not have, becomes
        float32 in memory.
        """
        from datasets import Dataset as Table
        from datasets.table import InMemoryTable

        columns: dict[str, Any] = {}
        for name, values in self.rows.items():
            plain = values.astype(object if values.dtype == object else str) if values.dtype == "category" else values
            columns[str(name)] = pa.chunked_array([pa.Array.from_pandas(plain)])
        for site in self.sites if sites is None else map(Site.parse, sites):
            columns[str(site)] = pa.chunked_array([_arrow(shard) for shard in self[site].shards()])
        return Table(InMemoryTable(pa.table(columns)))

    def verify(self) -> Verified:
        """Read every file and compare it with its checksum.

        Raises:
            InputError: Files are missing or changed; each is named with its shard.
        """
        files = {"completions": self.sidecar.sampled} if self.sidecar.sampled else {}
        for shard in self.sidecar.shards:
            for what, file in [("index", shard.index), *shard.tensors.items()]:
                files[f"shard {shard.number}, {what}"] = file
        wrong = {what: _wrong(self.path / file.name, file) for what, file in files.items()}
        bad = [f"{files[what].name} ({what}) {why}" for what, why in wrong.items() if why is not None]
        if bad:
            raise InputError(f"the activation store at {self.path} is damaged: {'; '.join(bad)}; capture it again")
        return Verified(len(files), sum(file.bytes for file in files.values()))

    @cached_property
    def completions(self) -> Completions:
        """What was sampled while the store was made; `rows.completion` is the number among them.

        Raises:
            InputError: The store was made of completions that existed.
        """
        if self.sidecar.sampled is None:
            raise InputError(f"the store at {self.path} was made of completions that existed; it keeps no copy of them")
        return Completions.load(self.path / self.sidecar.sampled.name)

    @cached_property
    def _opened(self) -> dict[str, SiteActivations]:
        return {}


def _wrong(path: Path, file: File) -> str | None:
    """What is wrong with a file, in words."""
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != file.bytes:
        return f"has {path.stat().st_size} bytes instead of {file.bytes}"
    with path.open("rb") as opened:
        same = hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256
    return None if same else "does not match its checksum"


def _arrow(shard: Float[Tensor, "row width"]) -> pa.Array:
    values = shard.float() if shard.dtype == torch.bfloat16 else shard
    return pa.FixedSizeListArray.from_arrays(pa.array(values.numpy().reshape(-1)), shard.shape[1])
