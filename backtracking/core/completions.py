"""Completions: what a model wrote, with the ids it sampled and why it stopped.

Ids are kept and text is decoded from them, never the other way; `offsets` say where each token
begins in the text, so an onset found in the text is exact on the sampled ids.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, overload

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from backtracking.core.atomic import replacing
from backtracking.core.errors import InputError, MissingFileError
from backtracking.core.receipts import Receipt

FinishReason = Literal["stop", "length", "degenerate"]


@dataclass(frozen=True)
class Completion:
    """One sampled continuation of one prompt under one condition."""

    problem_id: int | str
    sample_id: int
    """Number of the sample among those of its problem, from 0."""
    variant: str
    condition: str
    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    """The sampled token ids, the stop token included."""
    text: str
    """The sampled text without the stop token; other special tokens are written out."""
    offsets: tuple[int, ...]
    """For each sampled id the character at which its text begins; the stop token's is the end."""
    finish_reason: FinishReason
    """`stop`: the model ended; `length`: cut at the limit; `degenerate`: cut while looping."""
    receipts: tuple[Receipt, ...] = ()
    """What each intervention of the condition did to this row."""

    def token_at(self, char: int) -> int:
        """Index among the sampled ids of the token that holds character `char` of the text.

        A character spread over several tokens (bytes of one letter) belongs to the first of them.

        Raises:
            IndexError: The text has no such character.
        """
        if not 0 <= char < len(self.text):
            raise IndexError(f"character {char} is outside a text of {len(self.text)} characters")
        last = bisect_right(self.offsets, char) - 1
        while last > 0 and self.offsets[last - 1] == self.offsets[last]:
            last -= 1
        return last

    def token_text(self, index: int) -> str:
        """Text of the sampled id at `index`; empty for the stop token."""
        end = self.offsets[index + 1] if index + 1 < len(self.offsets) else len(self.text)
        return self.text[self.offsets[index] : end]

    def _repr_html_(self) -> str:
        """For notebooks: what it is, and its text with every trigger marked."""
        from backtracking.core.markup import completion_html

        return completion_html(self)


_RECEIPT = pa.struct([("intervention", pa.string()), ("positions", pa.int64()), ("change", pa.float64())])
_SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("sample_id", pa.int32()),
        ("variant", pa.string()),
        ("condition", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("ids", pa.list_(pa.int32())),
        ("text", pa.string()),
        ("offsets", pa.list_(pa.int32())),
        ("finish_reason", pa.string()),
        ("receipts", pa.list_(_RECEIPT)),
        ("id_is_number", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class Completions(Sequence[Completion]):
    """A frozen sequence of completions that knows how to become a table or a file."""

    rows: tuple[Completion, ...]

    def __init__(self, rows: Iterable[Completion]) -> None:
        """Take any iterable of completions."""
        object.__setattr__(self, "rows", tuple(rows))

    def __len__(self) -> int:
        """Return the number of completions."""
        return len(self.rows)

    def __iter__(self) -> Iterator[Completion]:
        """Iterate over the completions in the order of the plan."""
        return iter(self.rows)

    @overload
    def __getitem__(self, index: int) -> Completion: ...
    @overload
    def __getitem__(self, index: slice) -> "Completions": ...
    def __getitem__(self, index: int | slice) -> "Completion | Completions":
        """Return one completion, or a slice of them as Completions."""
        return Completions(self.rows[index]) if isinstance(index, slice) else self.rows[index]

    def __add__(self, other: "Completions") -> "Completions":
        """Return these completions followed by the others."""
        return Completions(self.rows + other.rows)

    def of(self, condition: str) -> "Completions":
        """Return the completions of one condition."""
        return Completions(row for row in self.rows if row.condition == condition)

    def _repr_html_(self) -> str:
        """For notebooks: the first completions, each folded."""
        from backtracking.core.markup import completions_html

        return completions_html(self)

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per completion, one column per field of `Completion`."""
        names = [field.name for field in fields(Completion)]
        return pd.DataFrame([[getattr(row, name) for name in names] for row in self.rows], columns=names)

    def save(self, path: str | Path) -> None:
        """Write a Parquet file; it appears whole or not at all."""
        records = []
        for row in self.rows:
            record = {field.name: getattr(row, field.name) for field in fields(Completion)}
            record["receipts"] = [asdict(receipt) for receipt in row.receipts]
            record["id_is_number"] = isinstance(row.problem_id, int)
            record["problem_id"] = str(row.problem_id)
            records.append(record)
        with replacing(Path(path)) as temporary:
            pq.write_table(pa.Table.from_pylist(records, _SCHEMA), temporary, compression="zstd")

    @classmethod
    def load(cls, path: str | Path) -> "Completions":
        """Read a file that `save` wrote.

        Raises:
            InputError: There is no such file, or it is not whole.
        """
        if not Path(path).is_file():
            raise MissingFileError(f"no completions at {path}")
        try:
            table = pq.read_table(path, schema=_SCHEMA)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{path} is damaged ({error}); remove it and run again") from error
        return cls(_completion(record) for record in table.to_pylist())


def _completion(record: dict) -> Completion:
    number = record.pop("id_is_number")
    record["problem_id"] = int(record["problem_id"]) if number else record["problem_id"]
    for name in ("prompt_ids", "ids", "offsets"):
        record[name] = tuple(record[name])
    record["receipts"] = tuple(Receipt(**receipt) for receipt in record["receipts"])
    return Completion(**record)
