"""The guard looks into notebooks, tables and archives, and into archives in archives."""

import gzip
import io
import json
import tarfile
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from backtracking.core.errors import InputError
from backtracking.workspace import scanned_files
from backtracking.workspace.scanned_files import scan_files
from backtracking.workspace.secrets import SecretError

TOKEN = "hf_" + "aB3d" * 9


def _zip(name: str, content: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return held.getvalue()


def _tar(name: str, content: bytes) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return held.getvalue()


def _zstd(content: bytes) -> bytes:
    held = pa.BufferOutputStream()
    with pa.CompressedOutputStream(held, "zstd") as stream:
        stream.write(content)
    return held.getvalue().to_pybytes()


LINES = f"one\ntwo\nthree {TOKEN}\n".encode()
FILES = {
    "a.txt": LINES,
    "a.txt.gz": gzip.compress(LINES),
    "a.zip": _zip("in/a.txt", LINES),
    "a.tar": _tar("in/a.txt", LINES),
    "a.tar.gz": gzip.compress(_tar("in/a.txt", LINES)),
    "a.tar.zst": _zstd(_tar("in/a.txt", LINES)),
    "b.zip": _zip("a.tar.gz", gzip.compress(_tar("in/a.txt", LINES))),
    "wide.txt": LINES.decode().encode("utf-16"),
    "raw.bin": b"\0\1\2\n\n" + LINES.split(b"\n")[2] + bytes(range(256)),
    "broken.gz": gzip.compress(b"x" * 10)[:9] + b"\n\n" + LINES.split(b"\n")[2],
}


@pytest.mark.parametrize("name", FILES)
def test_a_secret_in_a_file_is_named_by_file_and_line(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name])
    (found,) = scan_files([tmp_path])
    assert str(found).startswith(f"{tmp_path / name}")
    assert str(found).endswith(":3: hf token")
    assert TOKEN not in repr(found)


def test_parquet_is_read_by_column_and_row(tmp_path):
    frame = pd.DataFrame(
        {"n": [1, 2, 3], "text": ["a\nb", "c", f"d {TOKEN}"], "deep": [[{"x": ["y"]}], [], [{"x": [TOKEN]}]]}
    )
    frame.to_parquet(tmp_path / "t.parquet")
    assert [str(found).rpartition("/")[2] for found in scan_files([tmp_path / "t.parquet"])] == [
        "t.parquet[text]:3: hf token", "t.parquet[deep]:3: hf token",
    ]  # fmt: skip
    np.savez(tmp_path / "t.npz", names=np.array([TOKEN.encode()]))
    assert scan_files([tmp_path / "t.npz"])


def test_outputs_of_a_notebook_count(tmp_path):
    output = {"output_type": "stream", "name": "stdout", "text": ["logged in\n", f"\x1b[1m{TOKEN}\x1b[0m\n"]}
    cell = {"cell_type": "code", "source": [], "outputs": [output], "metadata": {}, "execution_count": 1}
    (tmp_path / "n.ipynb").write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4}, indent=1))
    (found,) = scan_files([tmp_path])
    assert found.found.kind == "hf token"


def test_a_name_of_a_file_may_hold_a_secret_too(tmp_path):
    (tmp_path / f"{TOKEN}.txt").write_text("empty")
    assert [found.found.kind for found in scan_files([tmp_path])] == ["hf token"]


def test_a_large_file_is_read_in_pieces_and_no_line_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(scanned_files, "PIECE", 50_000)
    lines = [f"line {number} " + "x" * 90 for number in range(3000)]
    places = {1, 497, 498, 499, 500, 501, 1500, 2999}
    for place in places:
        lines[place - 1] += TOKEN
    (tmp_path / "long.txt").write_text("\n".join(lines))
    assert {found.found.line for found in scan_files([tmp_path])} == places
    (tmp_path / "long.txt").write_text("y" * 123_456 + " " + TOKEN + " " + "z" * 99_999)
    assert [found.found.column for found in scan_files([tmp_path])] == [123_458]


def test_what_cannot_be_looked_through_is_refused_and_not_passed(tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        scan_files([tmp_path / "absent"])
    content = LINES
    for _ in range(6):
        content = gzip.compress(content)
    (tmp_path / "deep.gz").write_bytes(content)
    with pytest.raises(InputError, match="packed too deep"):
        scan_files([tmp_path])
    with pytest.raises(SecretError, match=r"a.txt:3: hf token; stop$"):
        (tmp_path / "a.txt").write_bytes(LINES)
        scanned_files.refuse_secrets_in([tmp_path / "a.txt"], remedy="stop")
