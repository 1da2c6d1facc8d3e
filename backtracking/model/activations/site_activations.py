"""The activations at one site of a store: tensors mapped from disk, sliced without loading them."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import Dataset

from backtracking.core.errors import InputError, MissingFileError
from backtracking.core.sites import Site


class SiteActivations(Dataset):
    """The activations at one site, `row width`, on disk until they are indexed.

    `[int]` gives one row, `[slice]`, `[list]`, an index tensor or array gives rows, a mask the rows where it is true.
    It is a `torch.utils.data.Dataset` whose items are rows.
    """

    def __init__(self, site: Site, paths: Sequence[Path], sizes: Sequence[int], width: int, dtype: torch.dtype) -> None:
        self.site, self.width, self.dtype = site, width, dtype
        self._paths, self._ends = tuple(paths), np.array(list(accumulate(sizes)), dtype=np.int64)
        self._mapped: dict[int, Tensor] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and numbers per row."""
        return len(self), self.width

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._ends[-1])

    def __getstate__(self) -> dict[str, Any]:
        """A worker process maps the files anew."""
        return self.__dict__ | {"_mapped": {}}

    def __getitem__(self, rows: Any) -> Float[Tensor, "*row width"]:
        """Return a copy of the chosen rows, in the order in which they are chosen."""
        if isinstance(rows, int | np.integer):
            if not -len(self) <= rows < len(self):
                raise IndexError(f"row {rows} is outside the {len(self)} rows of {self.site}")
            return self._take(np.array([int(rows) % len(self)]))[0]
        if isinstance(rows, slice):
            return self._take(np.arange(*rows.indices(len(self))))
        wanted = np.asarray(rows.cpu() if isinstance(rows, Tensor) else rows)
        if wanted.dtype == bool:
            if wanted.shape != (len(self),):
                raise IndexError(f"a mask of {len(wanted)} does not fit the {len(self)} rows of {self.site}")
            return self._take(wanted.nonzero()[0])
        wanted = wanted.astype(np.int64)
        if wanted.size and not (-len(self) <= wanted.min() and wanted.max() < len(self)):
            raise IndexError(
                f"rows {wanted.min()} to {wanted.max()} are not all in the {len(self)} rows of {self.site}"
            )
        return self._take(wanted % max(len(self), 1))

    def __getitems__(self, rows: list[int]) -> list[Tensor]:
        """Several rows at once, as a DataLoader asks for them."""
        return list(self[rows])

    def shard(self, number: int) -> Float[Tensor, "row width"]:
        """One shard as it is mapped from disk: nothing is read until it is used. Do not write to it.

        Raises:
            InputError: The file is missing or damaged.
        """
        if number not in self._mapped:
            path = self._paths[number]
            if not path.is_file():
                raise MissingFileError(f"the store lacks its file {path}; capture it again")
            try:
                with safe_open(path, "pt") as opened:
                    self._mapped[number] = opened.get_tensor(str(self.site))
            except (SafetensorError, OSError) as error:
                raise InputError(f"{path} is damaged ({error}); capture the store again") from error
        return self._mapped[number]

    def shards(self) -> Iterator[Float[Tensor, "row width"]]:
        """The mapped shards in order."""
        return (self.shard(number) for number in range(len(self._paths)))

    def _take(self, rows: np.ndarray) -> Tensor:
        found = torch.empty(len(rows), self.width, dtype=self.dtype)
        shards = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(shards).tolist():
            mine = np.flatnonzero(shards == number)
            inside = rows[mine] - (self._ends[number - 1] if number else 0)
            found[torch.from_numpy(mine)] = self.shard(number)[torch.from_numpy(inside)]
        return found
