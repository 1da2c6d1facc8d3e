"""Run folders: what a run leaves behind, and how it is found and continued.

    runs/<run_id>/manifest.json  config.yaml  completions/  events.parquet  onsets.parquet
                  tables/  figures/  report.md  report.html  log.jsonl
    runs/.current_run_id         the run that later commands use

Every file appears whole or not at all, and so does a new run. A unit of work that has its file is done; a file that
is not what was written is set aside under a name that says so, and the unit is done again. Nothing depends on a
clock that goes forward: names are claimed, not counted on, and times are only shown.
"""

import json
import logging
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import pandas as pd

from backtracking.core.atomic import leftovers, remove_leftovers, replacing, temporary_name, write_text, writing
from backtracking.core.completions import Completions
from backtracking.core.errors import InputError, MissingFileError
from backtracking.experiments import locks
from backtracking.experiments.manifests import NAME as MANIFEST
from backtracking.experiments.manifests import digest, read_manifest, remains, write_manifest
from backtracking.workspace.guarded import hide_in_frame, hide_in_values
from backtracking.workspace.secrets import redact

__all__ = ["RunFolder", "commit", "current_run", "digest", "make_current", "new_run", "now", "open_run", "versions"]

CURRENT = ".current_run_id"
PACKAGES = ("backtracking", "torch", "transformers", "transformer-lens", "numpy", "math-verify")


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @property
    def run_id(self) -> str:
        """Name of the run, which is the name of its folder."""
        return self.path.name

    def manifest(self) -> dict[str, Any]:
        """What the run was made from.

        Raises:
            InputError: The manifest is missing or damaged.
        """
        return read_manifest(self.path)

    def write_manifest(self, **values: Any) -> None:
        """Write the manifest anew with these values added to what it held."""
        held = self.manifest() if (self.path / MANIFEST).is_file() else {}
        write_manifest(self.path, hide_in_values(held | values))

    def log(self, event: str, **values: Any) -> None:
        """Append one line to the run's log; a line that a killed process left torn stays a line of its own."""
        file = self.path / "log.jsonl"
        line = json.dumps({"time": now(), "event": event} | values, default=str)
        with writing(file):
            self.path.mkdir(parents=True, exist_ok=True)
            with file.open("a+b") as opened:
                torn = opened.tell() > 0 and _last_byte(opened) != b"\n"
                opened.write((b"\n" if torn else b"") + redact(line).encode() + b"\n")

    def tell(self, event: str, **values: Any) -> None:
        """Log something the user should know, and say it."""
        said = ", ".join(f"{name}: {value}" for name, value in values.items())
        logging.getLogger("backtracking").warning("%s: %s (%s)", self.run_id, event, said)
        self.log(event, **values)

    def hold(self) -> locks.RunLock:
        """Take the run for this process, and clear what killed processes left half written.

        Raises:
            InputError: Another process works on it.
            UnwritableFileError: Its folder cannot be written to.
        """
        held = locks.take(self.path, now=now())
        if held.taken_over is not None:
            self.tell("taken over from a process that did not end well", holder=str(held.taken_over))
        with writing(self.path):
            remove_leftovers(self.path)
        return held

    def part(self, number: int, group: str) -> Path:
        """Path of the completions of one unit of work of a group of arms."""
        return self.path / "completions" / f"{group}-{number:05d}.parquet"

    def completions(self, group: str | None = None) -> Completions:
        """Every completion the run has so far, of one group or of all, unit by unit."""
        parts = sorted((self.path / "completions").glob("*.parquet"))
        chosen = [part for part in parts if group is None or part.stem.rpartition("-")[0] == group]
        return Completions(row for part in chosen for row in Completions.load(part))

    def groups(self) -> tuple[str, ...]:
        """Names of the groups of arms that have completions."""
        return tuple(sorted({part.stem.rpartition("-")[0] for part in (self.path / "completions").glob("*.parquet")}))

    def table(self, name: str) -> pd.DataFrame:
        """A table the run has written.

        Raises:
            MissingFileError: The step that writes it has not been run.
        """
        file = self.path / "tables" / f"{name}.csv"
        if not file.is_file():
            raise MissingFileError(f"{self.run_id} has no table {name}; run the step that makes it first")
        return pd.read_csv(file, dtype={"example_id": str})

    def save_table(self, name: str, frame: pd.DataFrame) -> None:
        """Write a table as `tables/<name>.csv`; a missing value is an empty cell."""
        frame = hide_in_frame(frame, name=f"{name}.csv")
        with replacing(self.path / "tables" / f"{name}.csv") as temporary:
            frame.to_csv(temporary, index=False, lineterminator="\n", errors="backslashreplace")

    def save_parquet(self, name: str, frame: pd.DataFrame) -> None:
        """Write `<name>.parquet`; ids are written as text, so that a column has one type.

        A lone surrogate is written as a backslash escape.
        """
        if "example_id" in frame:
            frame = frame.assign(example_id=frame["example_id"].astype(str))
        frame = hide_in_frame(frame, name=f"{name}.parquet")
        texts = [name for name in frame if frame[name].dtype == object or isinstance(frame[name].dtype, pd.StringDtype)]
        frame = frame.assign(**{name: frame[name].astype(object).map(_in_utf8) for name in texts})
        with replacing(self.path / f"{name}.parquet") as temporary:
            frame.to_parquet(temporary, index=False)


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
    current = _pointer(runs)
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
    pointer = Path(output_dir) / CURRENT
    if not pointer.is_file():
        raise MissingFileError(f"no current run in {output_dir}; start one with backtracking run")
    name = _pointer(Path(output_dir))
    if name is None:
        raise InputError(f"{pointer} names no run in {output_dir}; write the name of one into it, or give --run-id")
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


def versions() -> dict[str, str]:
    """Version of Python and of every package that decides results."""
    found = {name: metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version()} | found


def commit() -> str | None:
    """Commit of the checkout this library runs from, `+changes` if it is not clean; else None."""
    here = Path(__file__).parent
    try:
        sha = _git(here, "rev-parse", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return sha + ("+changes" if changed else "")


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


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


def _pointer(runs: Path) -> str | None:
    """The name of the current run, where there is such a run."""
    file = runs / CURRENT
    name = file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else ""
    return name if name and name == Path(name).name and "\0" not in name and (runs / name).is_dir() else None


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


def _last_byte(file: IO[bytes]) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def _in_utf8(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
