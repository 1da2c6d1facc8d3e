"""The secret guard over files: text, notebooks, tables, archives, and what is packed into them."""

import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from backtracking.core.errors import InputError
from backtracking.workspace.known_values import KnownValue, known_values
from backtracking.workspace.secrets import Found, SecretError, find_secrets

PIECE = 8 * 2**20
"""Characters looked at together, so that a large file does not fill the memory."""
OVERLAP = 2**15
Stream = Any
"""A binary stream that can be read from its beginning again: a file, or a member of an archive."""
DEPTH = 4
"""An archive in an archive in an archive is opened; one deeper is refused."""


@dataclass(frozen=True)
class FileFinding:
    """A secret in a file."""

    file: str
    """Its path; of a member of an archive `archive!member`; of a Parquet file `file[column]`."""
    found: Found
    """In a Parquet file the line is the row, from 1."""

    def __str__(self) -> str:
        """File, line and kind; never the value."""
        return f"{self.file}:{self.found.line}: {self.found.kind}"


def scan_files(paths: Iterable[str | Path], *, known: tuple[KnownValue, ...] | None = None) -> tuple[FileFinding, ...]:
    """Every secret in the files, and in all files below the folders.

    Read are text in UTF-8 and UTF-16, notebooks with their outputs, Parquet, gzip, zip (so .npz), tar and zstandard
    archives; of any other file the bytes. Compressed images and PDF are looked at only as bytes.

    Raises:
        InputError: A file is not there or cannot be read.
    """
    values = known_values() if known is None else known
    found: list[FileFinding] = []
    for path in paths:
        for file in _files(Path(path)):
            try:
                with file.open("rb") as stream:
                    found += _scan(stream, str(file), values, DEPTH)
            except OSError as error:
                raise InputError(f"cannot look for secrets in {file}: {error.strerror or error}") from error
    return tuple(found)


def refuse_secrets_in(paths: Iterable[str | Path], *, remedy: str) -> None:
    """Raise if a file holds a secret.

    Raises:
        SecretError: Names file, line and kind of the first few, never a value.
    """
    found = scan_files(paths)
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise SecretError(f"{'; '.join(map(str, found[:3]))}{more}; {remedy}")


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.is_file() and ".git" not in file.parts)
    elif path.is_file():
        yield path
    else:
        raise InputError(f"cannot look for secrets in {path}: there is no such file")


def _scan(stream: Stream, name: str, known: tuple[KnownValue, ...], depth: int) -> Iterator[FileFinding]:
    yield from _found_in(name, [Path(name.rpartition("!")[2]).name], known, by_row=False)
    head = stream.read(512)
    stream.seek(0)
    opener = _opener(head)
    if opener is None:
        yield from _scan_text(stream, name, known, _encoding(head))
        return
    if depth == 0:
        raise InputError(f"{name} is packed too deep to be looked through; unpack it")
    try:
        yield from opener(stream, name, known, depth - 1)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, pa.ArrowInvalid, gzip.BadGzipFile):
        stream.seek(0)  # it only begins like an archive, or is damaged: its bytes are looked at
        yield from _scan_text(stream, name, known, "latin-1")


def _opener(head: bytes) -> Any:
    if head.startswith(b"PAR1"):
        return _scan_parquet
    if head.startswith(b"\x1f\x8b"):
        return _scan_gzip
    if head.startswith(b"PK\x03\x04"):
        return _scan_zip
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return _scan_zstd
    if head[257:262] == b"ustar":
        return _scan_tar
    return None


def _encoding(head: bytes) -> str:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    return "latin-1" if b"\0" in head else "utf-8"


def _scan_text(stream: Stream, name: str, known: tuple[KnownValue, ...], encoding: str) -> Iterator[FileFinding]:
    text = io.TextIOWrapper(stream, encoding=encoding, errors="replace", newline="")
    try:
        yield from _pieces(text, name, known)
    finally:
        text.detach()  # or it would close the stream under its reader


def _pieces(text: io.TextIOWrapper, name: str, known: tuple[KnownValue, ...]) -> Iterator[FileFinding]:
    held, line, column, seen = "", 0, 0, set[tuple[int, int]]()
    while piece := text.read(PIECE):
        held += piece
        for found in find_secrets(held, known=known):
            shift = column if found.line == 1 else 0
            place = (found.line + line, found.column + shift)
            if place not in seen:
                seen.add(place)
                yield FileFinding(name, Found(found.kind, *place, found.end + shift))
        gone, held = held[:-OVERLAP], held[-OVERLAP:]
        line += gone.count("\n")
        column = len(gone) - gone.rfind("\n") - 1 if "\n" in gone else column + len(gone)


def _scan_gzip(stream: Stream, name: str, known: tuple[KnownValue, ...], depth: int) -> Iterator[FileFinding]:
    with gzip.GzipFile(fileobj=stream, mode="rb") as inner:
        yield from _scan(inner, f"{name}!{Path(name).stem}", known, depth)


def _scan_zstd(stream: Stream, name: str, known: tuple[KnownValue, ...], depth: int) -> Iterator[FileFinding]:
    with pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd") as inner:
        yield from _scan(io.BytesIO(inner.read()), f"{name}!{Path(name).stem}", known, depth)


def _scan_zip(stream: Stream, name: str, known: tuple[KnownValue, ...], depth: int) -> Iterator[FileFinding]:
    with zipfile.ZipFile(stream) as archive:
        yield from _found_in(f"{name} (comment)", [archive.comment.decode("utf-8", "replace")], known, by_row=False)
        for member in archive.infolist():
            if member.flag_bits & 1:
                raise InputError(f"{name}!{member.filename} is encrypted and cannot be looked through; leave it out")
            if not member.is_dir():
                with archive.open(member) as inner:
                    yield from _scan(inner, f"{name}!{member.filename}", known, depth)


def _scan_tar(stream: Stream, name: str, known: tuple[KnownValue, ...], depth: int) -> Iterator[FileFinding]:
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for member in archive:
            inner = archive.extractfile(member) if member.isfile() else None
            if inner is not None:
                yield from _scan(inner, f"{name}!{member.name}", known, depth)


def _scan_parquet(stream: Stream, name: str, known: tuple[KnownValue, ...], _depth: int) -> Iterator[FileFinding]:
    file = pq.ParquetFile(stream)
    for key, value in (file.schema_arrow.metadata or {}).items():
        text = f"{key.decode('utf-8', 'replace')} = {value.decode('utf-8', 'replace')}"
        yield from _found_in(f"{name}[metadata]", [text], known, by_row=False)
    first = 0
    for batch in file.iter_batches():
        for column, values in zip(batch.schema.names, batch.columns, strict=True):
            if _holds_text(values.type):
                rows = ["\n".join(_texts(value)) for value in values.to_pylist()]
                yield from _found_in(f"{name}[{column}]", rows, known, by_row=True, first=first)
        first += batch.num_rows


def _holds_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_text(kind.value_type)
    if kind.num_fields:
        return any(_holds_text(kind.field(index).type) for index in range(kind.num_fields))
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(is_text(kind) for is_text in text)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, bytes):
        yield value.decode("utf-8", "replace")
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield f"{name}: {' '.join(_texts(inner))}"
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _found_in(
    name: str, texts: list[str], known: tuple[KnownValue, ...], *, by_row: bool, first: int = 0
) -> Iterator[FileFinding]:
    """Findings of texts looked at together, so that thousands of rows cost no more than one text."""
    starts = [0]
    for text in texts:
        starts.append(starts[-1] + text.count("\n") + 1)
    for found in find_secrets("\n".join(texts), known=known):
        line = found.line - 1
        row = next(index for index in range(len(texts)) if starts[index + 1] > line)
        number = first + row + 1 if by_row else found.line
        yield FileFinding(name, Found(found.kind, number, found.column, found.end))
