"""Completions: what a model wrote, with the ids it sampled and why it stopped.

Ids are kept and text is decoded from them, never the other way; `offsets` say where each token
begins in the text, so an onset found in the text is exact on the sampled ids.

A file carries a checksum of its rows and one of each of its pages: bits that flipped on a disk are noticed.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args, overload

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from backtracking.core.atomic import replacing
from backtracking.core.errors import DamagedFileError, InputError, MissingFileError
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
    finish_reason: FinishReason
    """`stop`: the model ended; `length`: cut at the limit; `degenerate`: cut while looping."""
    offsets: tuple[int, ...] = ()
    """For each sampled id the character at which its text begins; the stop token's is the end. Empty: not known."""
    receipts: tuple[Receipt, ...] = ()
    """What each intervention of the condition did to this row."""

    def __post_init__(self) -> None:
        """Keep ids as tuples; refuse a finish reason that is none, and offsets of other ids."""
        for name in ("prompt_ids", "ids", "offsets"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.finish_reason not in get_args(FinishReason):
            raise InputError(f"finish_reason is {self.finish_reason!r}; use {', '.join(get_args(FinishReason))}")
        if self.offsets and len(self.offsets) != len(self.ids):
            raise InputError(f"{len(self.offsets)} offsets cannot be those of {len(self.ids)} sampled ids")

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt proper, where the scope `decode` begins.

        Fewer than the prompt ids where a text was cut and continued: there the receipts say how many were prompt.
        Receipts that no such cut could have left say nothing.
        """
        most = len(self.prompt_ids)
        for receipt in self.receipts:
            if receipt.intervention.endswith("@prompt"):
                found = receipt.positions
            elif receipt.intervention.endswith("@decode"):
                found = most + len(self.ids) - 1 - receipt.positions
            else:
                continue
            return found if 1 <= found <= most else most
        return most

    def token_at(self, char: int) -> int:
        """Index among the sampled ids of the token that holds character `char` of the text.

        A character spread over several tokens (bytes of one letter) belongs to the first of them.

        Raises:
            IndexError: The text has no such character.
            InputError: The completion holds no offsets.
        """
        if not 0 <= char < len(self.text):
            raise IndexError(f"character {char} is outside a text of {len(self.text)} characters")
        last = bisect_right(self._offsets(), char) - 1
        while last > 0 and self.offsets[last - 1] == self.offsets[last]:
            last -= 1
        return last

    def token_text(self, index: int) -> str:
        """Text of the sampled id at `index`; empty for the stop token."""
        starts = self._offsets()
        end = starts[index + 1] if index + 1 < len(starts) else len(self.text)
        return self.text[starts[index] : end]

    def _offsets(self) -> tuple[int, ...]:
        if len(self.offsets) < len(self.ids):
            raise InputError("this completion holds no offsets, which say where each token begins in the text")
        return self.offsets

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


_CHECKSUM, _ORIGIN = b"rows_sha256", b"origin"
_DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, OverflowError, MemoryError)
"""What reading a file raises whose bytes are not those that were written."""


@dataclass(frozen=True)
class Origin:
    """Which work a file of completions is a part of."""

    plan: str
    """Digest of the rows, prompts and settings of the whole group."""
    weights: str | None
    """Digest of the model's weights; None for a model made in memory."""
    rows_at_once: int
    """Seats of the batch, which decide how the plan is cut into parts."""
    number: int
    """Which part it is, from 0."""
    shares: int = 1
    """Batches that each unit was decoded in; in bfloat16 the batches of a row decide how it is rounded."""


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

    def save(self, path: str | Path, *, origin: Origin | None = None) -> None:
        """Write a Parquet file with checksums; it appears whole or not at all.

        Raises:
            UnwritableFileError: The disk is full, or the folder cannot be written to.
        """
        records = []
        for row in self.rows:
            record = {field.name: getattr(row, field.name) for field in fields(Completion)}
            record["receipts"] = [asdict(receipt) for receipt in row.receipts]
            record["id_is_number"] = isinstance(row.problem_id, int)
            record["problem_id"] = str(row.problem_id)
            records.append(record)
        table = pa.Table.from_pylist(records, _SCHEMA)
        held = None if origin is None else json.dumps(asdict(origin))
        carried = {_CHECKSUM: _checksum(table.to_pylist(), held)} | ({} if held is None else {_ORIGIN: held.encode()})
        with replacing(Path(path)) as temporary:
            table = table.replace_schema_metadata(carried)
            pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)

    @classmethod
    def load(cls, path: str | Path) -> "Completions":
        """Read a file that `save` wrote.

        Raises:
            MissingFileError: There is no such file.
            DamagedFileError: It is not what was written.
        """
        return load_part(path)[0]


def load_part(path: str | Path) -> tuple[Completions, Origin | None]:
    """Read a file that `save` wrote, and which work it is a part of; None where the file does not say.

    Raises:
        MissingFileError: There is no such file.
        DamagedFileError: It is not what was written.
    """
    if not Path(path).is_file():
        raise MissingFileError(f"no completions at {path}")
    try:
        carried = pq.read_metadata(path).metadata or {}
        records = pq.read_table(path, schema=_SCHEMA, page_checksum_verification=True).to_pylist()
        held = carried[_ORIGIN].decode() if _ORIGIN in carried else None
        # files of earlier versions carry no checksum
        whole = _CHECKSUM not in carried or carried[_CHECKSUM] == _checksum(records, held)
        origin = None if held is None or not whole else Origin(**json.loads(held))
        rows = Completions(map(_completion, records)) if whole else Completions(())
    except _DAMAGE as error:
        raise _damaged(path, " ".join(str(error).split()) or type(error).__name__) from error
    if not whole:
        raise _damaged(path, "its rows are not those that were written")
    return rows, origin


def _damaged(path: str | Path, reason: str) -> DamagedFileError:
    remedy = "run the command that sampled it again: it sets the file aside and samples it anew"
    return DamagedFileError(path, reason, remedy)


def _checksum(records: Iterable[dict], origin: str | None) -> bytes:
    """SHA-256 of the rows and of what the file says of its origin."""
    digest = hashlib.sha256(repr(origin).encode())
    for record in records:
        digest.update(json.dumps(record, ensure_ascii=True).encode())
    return digest.hexdigest().encode()


def _completion(record: dict) -> Completion:
    number = record.pop("id_is_number")
    record["problem_id"] = int(record["problem_id"]) if number else record["problem_id"]
    for name in ("prompt_ids", "ids", "offsets"):
        record[name] = tuple(record[name])
    record["receipts"] = tuple(Receipt(**receipt) for receipt in record["receipts"])
    return Completion(**record)
