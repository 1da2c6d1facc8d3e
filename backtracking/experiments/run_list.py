"""The folder of all runs: a new run in it, the unfinished run of a config, the current one, one by its name.

A new run appears with all its first files or not at all. Nothing depends on a clock that goes forward: names are
claimed, not counted on, and times are only shown.
"""

import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backtracking.core.atomic import leftovers, temporary_name, write_text, writing
from backtracking.core.errors import InputError, MissingFileError
from backtracking.experiments.manifests import remains, write_manifest
from backtracking.experiments.runs import RunFolder

CURRENT = ".current_run_id"


def open_run(
    output_dir: str | Path,
    *,
    config_hash: str,
    run_id: str | None,
    hash_of: Callable[[Path], str | None] = lambda folder: None,
) -> RunFolder | None:
    """The unfinished run of a config; None if there is none.

    Args:
        output_dir: Folder of all runs.
        config_hash: Of everything that decides the results.
        run_id: A given name; its folder is continued if it exists, even if finished.
        hash_of: The config hash of a folder whose manifest cannot be read, from its other files; None if they do
            not say.

    Raises:
        InputError: The run of that name was made with another config.
    """
    runs = Path(output_dir)
    if run_id is not None:
        folder = RunFolder(runs / run_id)
        if _hash(folder, hash_of) not in (None, config_hash):
            raise InputError(
                f"the run {folder.run_id} was made with another config, model or problem set; give another run_id, or "
                "none"
            )
        return folder if folder.path.is_dir() and any(folder.path.iterdir()) else None
    found = [RunFolder(path) for path in sorted(runs.glob("*"), reverse=True) if path.is_dir() and path.name[0] != "."]
    mine = [folder for folder in found if _is_unfinished(folder, config_hash, hash_of)]
    current = current_name(runs)
    return next((folder for folder in mine if folder.run_id == current), mine[0] if mine else None)


def new_run(
    output_dir: str | Path, *, name: str, run_id: str | None, files: dict[str, str], manifest: dict[str, Any]
) -> RunFolder:
    """Make a run folder with its first files; it appears with all of them or not at all.

    Args:
        output_dir: Folder of all runs.
        name: Ends the id of the run, where none is given.
        run_id: A given name.
        files: Content by name.
        manifest: What the run is made from; its id is added.

    Raises:
        UnwritableFileError: The folder cannot be made.
    """
    runs = Path(output_dir)
    wanted = run_id or _fresh_id(name)
    draft = temporary_name(runs / wanted)
    with writing(runs / wanted):
        for old in leftovers(runs):
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        try:
            draft.mkdir(parents=True, exist_ok=True)
            for file, content in files.items():
                write_text(draft / file, content)
            taken, number = wanted, 1
            while not _claim(draft, runs / taken, {"run_id": taken} | manifest):
                number += 1
                taken = f"{wanted}_{number}"
                if run_id is not None:
                    raise InputError(f"the run {run_id} has just been begun by another process; run the command again")
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return RunFolder(runs / taken)


def current_run(output_dir: str | Path) -> RunFolder:
    """The run that was last worked on.

    Raises:
        InputError: There is none yet.
    """
    file = Path(output_dir) / CURRENT
    if not file.is_file():
        raise MissingFileError(f"no current run in {output_dir}; start one with backtracking run")
    name = current_name(Path(output_dir))
    if name is None:
        raise InputError(f"{file} names no run in {output_dir}; write the name of one into it, or give --run-id")
    return RunFolder(Path(output_dir) / name)


def run_named(output_dir: str | Path, run_id: str) -> RunFolder:
    """The run of that name.

    Raises:
        InputError: There is none; the newest ones are named.
    """
    runs = Path(output_dir)
    newest = sorted((path.parent.name for path in runs.glob("*/manifest.json")), reverse=True)
    if run_id not in newest:
        there = f"the newest are {', '.join(newest[:3])}" if newest else "there is none; start one: backtracking run"
        raise MissingFileError(f"no run {run_id!r} in {runs}; {there}")
    return RunFolder(runs / run_id)


def make_current(folder: RunFolder) -> None:
    """Make later commands use this run."""
    write_text(folder.path.parent / CURRENT, folder.run_id + "\n")


def current_name(runs: Path) -> str | None:
    """The name of the current run, where there is such a run."""
    file = runs / CURRENT
    name = file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else ""
    return name if name and name == Path(name).name and "\0" not in name and (runs / name).is_dir() else None


def take_back(folder: RunFolder, *, current: str | None) -> None:
    """Remove a run in which nothing was done; the run that was current before it, or else the newest, is so again."""
    runs = folder.path.parent
    with writing(folder.path):
        was_current = current_name(runs) == folder.run_id
        shutil.rmtree(folder.path)
        if not was_current:
            return
        (runs / CURRENT).unlink(missing_ok=True)
        left = sorted(path.parent.name for path in runs.glob("*/manifest.json"))
        if left:
            make_current(RunFolder(runs / (current if current in left else left[-1])))


def _fresh_id(name: str) -> str:
    return f"{datetime.now(UTC):%Y%m%d_%H%M%S}_{re.sub(r'[^A-Za-z0-9.-]+', '-', name).strip('-') or 'run'}"


def _claim(draft: Path, path: Path, manifest: dict[str, Any]) -> bool:
    """Give a finished draft its name, unless that is taken."""
    write_manifest(draft, manifest)
    try:
        draft.rename(path)  # onto an empty folder it succeeds
    except OSError:
        if path.exists():
            return False
        raise
    return True


def _hash(folder: RunFolder, hash_of: Callable[[Path], str | None]) -> str | None:
    try:
        return folder.manifest()["config_hash"]
    except InputError:
        return hash_of(folder.path)


def _is_unfinished(folder: RunFolder, config_hash: str, hash_of: Callable[[Path], str | None]) -> bool:
    try:
        manifest = folder.manifest()
    except InputError:
        return hash_of(folder.path) == config_hash and remains(folder.path).finished is None
    return manifest["config_hash"] == config_hash and manifest.get("status") != "finished"
