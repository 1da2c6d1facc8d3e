"""Files of a store: their names, the head of a safetensors file, checksums, and what puts them on the disk."""

import hashlib
import json
import mmap
import os
import re
from pathlib import Path

from backtracking.model.activations.sidecar import DTYPES, File, Recipe

_FORMATS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_WINDOW = 2**22
"""Bytes that are mapped at once to take a checksum; a multiple of every system's page."""


def tensor_file(recipe: Recipe, site: str, rows: int, number: int) -> str:
    """`{model}_{layer}_{dataset}_{n_tokens}` as in the seeds, the layer with its component, and the shard's number.

    The tokens are those in the file.
    """
    model = recipe.model.rstrip("/").rsplit("/", 1)[-1]
    return f"{_slug(model)}_{site}_{_slug(recipe.dataset)}_{rows}_{number:05d}.safetensors"


def index_file(number: int) -> str:
    """Where the rows of a shard are described."""
    return f"rows/{number:05d}.parquet"


def header(name: str, dtype: str, shape: tuple[int, int], metadata: dict[str, str]) -> bytes:
    """The beginning of a safetensors file that holds one tensor, whose bytes follow."""
    size = shape[0] * shape[1] * DTYPES[dtype].itemsize
    tensor = {"dtype": _FORMATS[dtype], "shape": list(shape), "data_offsets": [0, size]}
    text = json.dumps({"__metadata__": metadata, name: tensor}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def temporary(path: Path) -> Path:
    """The name of a file until its shard is whole; what a kill leaves under it is removed on continuing."""
    return path.with_name(f".{path.name}.tmp")


def flush(path: Path) -> None:
    """Wait until the bytes of a file are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def described(path: Path, name: str) -> File:
    """Size and SHA-256 of what can be read at `path`, under the name that it has or will have.

    The file is mapped window by window and each is digested in one call: the interpreter's lock is asked for once per
    window, not once per small read, so that a busy model does not hold the checksum up, nor the checksum the model.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for start in range(0, size, _WINDOW):
            length = min(_WINDOW, size - start)
            with mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ, offset=start) as window:
                digest.update(window)
    return File(name=name, bytes=size, sha256=digest.hexdigest())


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-.") or "unnamed"
