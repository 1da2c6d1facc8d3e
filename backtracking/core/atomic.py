"""Writing a file so that a reader sees the old content or the new, never half of either.

The new content lies under a temporary name until it is on the disk, and only then takes the place of the old;
the folder is flushed too, so that a machine that loses power keeps one or the other. A process that is killed
leaves its temporary file behind; `remove_leftovers` clears those of processes that are gone.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from backtracking.core.errors import InputError, UnwritableFileError

_LEFTOVER = re.compile(r"\..+\.(\d+)\.tmp")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place when the block ends well.

    When the block raises, the temporary file is removed and `path` is as it was.

    Raises:
        UnwritableFileError: The disk is full, or the folder cannot be written to.
    """
    temporary = temporary_name(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
            flush_folder(path.parent)
    finally:
        with suppress(OSError):  # on a folder that cannot be written to there is nothing to remove
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write `path` into one line with a remedy.

    Raises:
        UnwritableFileError: The block could not write.
    """
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise UnwritableFileError(
            f"cannot write {path}: {reason}; make room or give the right to write there, then run the same command "
            "again: what was finished is kept"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8; a lone surrogate is written as a backslash escape."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def temporary_name(path: Path) -> Path:
    """Where this process writes what will become `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def flush_folder(folder: Path) -> None:
    """Put the names in a folder on the disk; systems that cannot open a folder do so by themselves."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def leftovers(folder: Path) -> list[Path]:
    """Temporary files and folders in `folder` whose process is gone."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = _LEFTOVER.fullmatch(path.name)
        if match is not None and not psutil.pid_exists(int(match[1])):
            found.append(path)
    return found


def remove_leftovers(folder: Path) -> int:
    """Remove the temporary files of dead processes in `folder` and one level below; how many there were."""
    places = [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir())] if folder.is_dir() else []
    files = [path for place in places for path in leftovers(place) if path.is_file()]
    for path in files:
        path.unlink(missing_ok=True)
    return len(files)
