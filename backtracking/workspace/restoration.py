"""A run brought back from a git remote or a snapshot, checked, and ready to be continued."""

import io
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from backtracking.core.atomic import write_text
from backtracking.core.errors import InputError, UnwritableFileError
from backtracking.workspace.archives import extract_files
from backtracking.workspace.git import GitError, Repository, access_to, repository
from backtracking.workspace.remotes import PREFIX, explained, tip
from backtracking.workspace.snapshot import Snapshot, read_snapshot, unpack


@dataclass(frozen=True)
class Restored:
    """A run that came back."""

    folder: Path
    complete: bool
    """False: generations are in an archive that did not come along."""
    archive: str | None
    left_out: tuple[str, ...]


def restore(
    run_id: str | None = None,
    *,
    source: str = "origin",
    runs: str | Path = "runs",
    branch: str | None = None,
    archive: str | Path | None = None,
    checkout: Path | None = None,
) -> Restored:
    """Bring a run back from a remote or from a snapshot's folder; the run can then be continued.

    Args:
        run_id: Which run; may be left out where there is only one.
        source: Name of a remote, or a folder that holds a snapshot or snapshots.
        runs: Folder of runs, in which the run gets its folder.
        branch: Of the remote; `backups/<run id>` if not given.
        archive: Where the archive of generations lies, if the snapshot names one.
        checkout: The git checkout; the one around the working directory if not given.

    Raises:
        InputError: There is no such run, it is there already, or it is not what was saved.
        UnwritableFileError: There is no room for it; what was copied of it is removed.
    """
    with tempfile.TemporaryDirectory(prefix="backtracking-") as scratch:
        if Path(source).is_dir():
            folder = _among(Path(source), run_id)
        else:
            folder = Path(scratch) / "snapshot"
            _fetch(repository(checkout), source, run_id, branch, folder)
        snapshot = read_snapshot(folder)
        if snapshot.kind != "run":
            raise InputError(f"{source} holds a snapshot of a project, not of a run; copy its files by hand")
        return _placed(snapshot, Path(runs), None if archive is None else Path(archive))


def _placed(snapshot: Snapshot, runs: Path, archive: Path | None) -> Restored:
    """Put a checked snapshot in its place as a run, whole or not at all."""
    name = snapshot.name
    if not name or Path(name).name != name or name.startswith("."):
        raise InputError(f"the snapshot names its run {name!r}, which is no name of a folder")
    target, building = runs / name, runs / f".{name}.restoring"
    if target.exists():
        raise InputError(f"{target} is there already; move it away to restore the saved one")
    shutil.rmtree(building, ignore_errors=True)
    try:
        complete = unpack(snapshot, building, archive=archive)
        building.rename(target)
    except OSError as error:
        if isinstance(error, InputError):
            raise
        reason = error.strerror or str(error)
        raise UnwritableFileError(
            f"cannot restore {target}: {reason}; make room, or give another folder with --runs; nothing is left of it"
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    write_text(runs / ".current_run_id", name + "\n")
    named = None if snapshot.archive is None else snapshot.archive.path
    return Restored(target, complete, named, snapshot.left_out)


def _among(folder: Path, run_id: str | None) -> Path:
    """The snapshot in a folder: the folder itself, or the one below it."""
    if (folder / "snapshot.json").is_file():
        return folder
    names = sorted(path.parent.name for path in folder.glob("*/snapshot.json"))
    return folder / _only(names, run_id, str(folder))


def _only(names: list[str], wanted: str | None, where: str) -> str:
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted in names:
        return str(wanted)
    known = f"it holds {', '.join(names)}" if names else "it holds none; make one with backtracking backup"
    asked = f"no saved run {wanted!r} in {where}" if wanted else f"which run of {where}?"
    raise InputError(f"{asked}; {known}")


def _fetch(repo: Repository, remote: str, run_id: str | None, branch: str | None, target: Path) -> None:
    """Get a branch of the remote into a folder, without touching any branch here."""
    url = repo.remote_url(remote)
    with access_to(url) as access:
        if branch is None:
            given = {"settings": access.settings, "variables": access.variables}
            try:
                listed = repo.run("ls-remote", "--heads", remote, f"refs/heads/{PREFIX}*", **given).decode()
            except GitError as error:
                raise explained(error, remote, f"{PREFIX}*") from error
            names = [line.partition(f"refs/heads/{PREFIX}")[2] for line in listed.splitlines()]
            branch = PREFIX + _only(sorted(names), run_id, f"the remote {remote}")
        end = tip(repo, remote, branch, access)
    if end is None:
        raise InputError(f"the remote {remote!r} has no branch {branch!r}; make it with backtracking backup")
    with tarfile.open(fileobj=io.BytesIO(repo.run("archive", "--format=tar", end))) as packed:
        extract_files(packed, target)
