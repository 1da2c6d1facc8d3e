"""A snapshot: what a run left behind, with checksums, fit to travel.

    <snapshot>/snapshot.json   what it holds, where each file came from, what was left out and why
    <snapshot>/SHA256SUMS      for `sha256sum -c`
    <snapshot>/config.yaml ...  the files, under their own paths

Generations travel as Parquet while they are small enough; larger ones go into an archive beside the snapshot,
which is named in it. The same run gives the same snapshot, byte for byte. A run that holds a secret is refused.
"""

import gzip
import hashlib
import json
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from backtracking.core.atomic import write_text
from backtracking.core.errors import InputError, MissingFileError
from backtracking.workspace.archives import extract_files
from backtracking.workspace.scanned_files import refuse_secrets_in

FORMAT = 1
MAX_SIZE = 50 * 2**20
"""Bytes of generations that travel as files, if nothing else is said."""
DESCRIPTION, SUMS = "snapshot.json", "SHA256SUMS"
SMALL = ("tables", "figures")
"""Subfolders that always travel as files; any other is generations, and must fit."""
PASSING = (".tmp", ".lock", ".lock.json")
"""Endings of files that belong to a running process."""


@dataclass(frozen=True)
class Item:
    """One file."""

    path: str
    """Relative to the snapshot, with forward slashes; of an archive its name beside the snapshot."""
    size: int
    """Bytes."""
    sha256: str


@dataclass(frozen=True)
class Snapshot:
    """A snapshot on disk."""

    folder: Path
    kind: Literal["run", "project"]
    name: str
    """Id of the run, or name of the project's folder."""
    items: tuple[Item, ...]
    archive: Item | None
    """Generations too large to travel as files."""
    left_out: tuple[str, ...]
    """What is neither in the snapshot nor in the archive, and why."""

    @property
    def size(self) -> int:
        """Bytes of all files, without the archive."""
        return sum(item.size for item in self.items)


def snapshot_run(
    run: str | Path, out: str | Path, *, max_size: int = MAX_SIZE, without_completions: bool = False
) -> Snapshot:
    """Write the snapshot of a run folder to `out/<run id>`; one that is there is replaced.

    Args:
        run: The run's folder.
        out: Folder of snapshots.
        max_size: Bytes up to which generations travel as files; beyond, as `<run id>.completions.tar.gz` in `out`.
        without_completions: Leave generations out, as when they hold a secret; the tables stay.

    Raises:
        InputError: There is no run, or no room.
        SecretError: A file holds a secret; nothing is written.
    """
    source, target = Path(run), Path(out) / Path(run).resolve().name
    if not (source / "manifest.json").is_file():
        raise MissingFileError(f"{source} is no run: it has no manifest.json")
    files = {path.relative_to(source).as_posix(): path for path in _lasting(source)}
    bulk = {name: path for name, path in files.items() if _is_bulk(name)}
    left_out: tuple[str, ...] = ()
    if without_completions and bulk:
        files = {name: path for name, path in files.items() if name not in bulk}
        left_out = (f"{len(bulk)} files of generations, as asked; a run continued without them samples again",)
        bulk = {}
    remedy = "no snapshot was made; if it is in completions, leave them out with --without-completions, else remove it"
    refuse_secrets_in(files.values(), remedy=remedy)
    if sum(path.stat().st_size for path in bulk.values()) <= max_size:
        bulk = {}
    kept = {name: path for name, path in files.items() if name not in bulk}
    try:
        archive = _archive(bulk, target.with_name(f"{target.name}.completions.tar.gz")) if bulk else None
        return _write(target, "run", target.name, kept, archive, left_out)
    except OSError as error:
        raise InputError(f"cannot write the snapshot {target}: {error.strerror}; free space or give --out") from error


def snapshot_files(files: dict[str, Path], target: Path, *, name: str, left_out: Sequence[str] = ()) -> Snapshot:
    """Write the snapshot of a project from its files by their names.

    Raises:
        SecretError: A file holds a secret; nothing is written.
    """
    refuse_secrets_in(files.values(), remedy="no snapshot was made; remove it, or put it into .env")
    return _write(target, "project", name, files, None, tuple(left_out))


def read_snapshot(folder: str | Path) -> Snapshot:
    """A snapshot, after every file was checked against its size and checksum.

    Raises:
        InputError: It is no snapshot, or a file is missing, changed or added.
    """
    here = Path(folder)
    try:
        text = json.loads((here / DESCRIPTION).read_text(encoding="utf-8"))
        items = tuple(Item(**item) for item in text["files"])
        archive = None if text["archive"] is None else Item(**text["archive"])
        found = Snapshot(here, text["kind"], text["name"], items, archive, tuple(text["left_out"]))
    except FileNotFoundError as error:
        raise MissingFileError(f"{here} is no snapshot: it has no {DESCRIPTION}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{here / DESCRIPTION} is damaged ({error}); take another copy of the snapshot") from error
    if text.get("format") != FORMAT:
        raise InputError(f"{here} is a snapshot of format {text.get('format')}; this version reads {FORMAT}")
    for item in items:
        if not (here / item.path).resolve().is_relative_to(here.resolve()):
            raise InputError(f"{here / DESCRIPTION} lists {item.path!r}, which is no path inside it; do not use it")
        _require_same(here / item.path, item)
    present = {path.relative_to(here).as_posix() for path in here.rglob("*") if path.is_file()}
    added = sorted(present - {item.path for item in items} - {DESCRIPTION, SUMS})
    if added:
        raise InputError(f"{here} holds {added[0]}, which its snapshot does not list; take another copy")
    return found


def unpack(snapshot: Snapshot, target: Path, *, archive: Path | None = None) -> bool:
    """Copy a checked snapshot's files to a new folder, and its archive's if there is one.

    Args:
        snapshot: As `read_snapshot` gives it.
        target: Folder that is made.
        archive: Where the archive lies, if not beside the snapshot.

    Returns:
        Whether all generations of the snapshot came along.

    Raises:
        InputError: The archive given is missing or not the one that was made.
        OSError: There is no room; what was copied is left to the caller.
    """
    place = archive
    if snapshot.archive is not None:
        place = archive or snapshot.folder.parent / snapshot.archive.path
        if archive is not None or place.is_file():
            _require_same(place, snapshot.archive)
        else:
            place = None
    target.mkdir(parents=True)
    for item in snapshot.items:
        copy = target / item.path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(snapshot.folder / item.path, copy)
    if place is not None and snapshot.archive is not None:
        with tarfile.open(place) as packed:
            extract_files(packed, target)
    return snapshot.archive is None or place is not None


def _lasting(source: Path) -> Iterator[Path]:
    """Files of a run that are no running process's; in order."""
    for path in sorted(source.rglob("*")):
        if path.is_file() and not path.is_symlink() and not path.name.endswith(PASSING):
            yield path


def _is_bulk(name: str) -> bool:
    top, _, rest = name.partition("/")
    return bool(rest) and top not in SMALL


def _write(
    target: Path,
    kind: Literal["run", "project"],
    name: str,
    files: dict[str, Path],
    archive: Item | None,
    left_out: tuple[str, ...],
) -> Snapshot:
    """Build the snapshot beside its place, then put it there."""
    building = target.with_name(f".{target.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        items = tuple(_copied(path, building, inside) for inside, path in sorted(files.items()))
        content: dict[str, Any] = {"format": FORMAT, "kind": kind, "name": name}
        content |= {"files": [asdict(item) for item in items], "archive": None if archive is None else asdict(archive)}
        content["left_out"] = list(left_out)
        write_text(building / DESCRIPTION, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        write_text(building / SUMS, "".join(f"{item.sha256}  {item.path}\n" for item in items))
        if target.exists():
            read_description(target)
            shutil.rmtree(target)
        building.rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Snapshot(target, kind, name, items, archive, left_out)


def read_description(folder: Path) -> None:
    """Make sure that a folder is a snapshot before it is replaced.

    Raises:
        InputError: It is something else.
    """
    if not (folder / DESCRIPTION).is_file():
        raise InputError(f"{folder} is there and is no snapshot; give another --out, or move it away")


def _copied(path: Path, folder: Path, name: str) -> Item:
    copy = folder / name
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, copy)
    return Item(name, copy.stat().st_size, _sha256(copy))


def _archive(files: dict[str, Path], path: Path) -> Item:
    """An archive without times and owners, so that the same files give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    building = path.with_name(f".{path.name}.building")
    try:
        with (
            building.open("wb") as raw,
            gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for name, file in sorted(files.items()):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = file.stat().st_size, 0o644
                with file.open("rb") as content:
                    archive.addfile(entry, content)
        building.replace(path)
    finally:
        building.unlink(missing_ok=True)
    return Item(path.name, path.stat().st_size, _sha256(path))


def _require_same(path: Path, item: Item) -> None:
    if not path.is_file():
        raise MissingFileError(f"{path} is missing; take another copy of the snapshot")
    if path.stat().st_size != item.size or _sha256(path) != item.sha256:
        raise InputError(f"{path} is not what the snapshot says it is (size or checksum); take another copy")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
