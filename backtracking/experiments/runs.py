"""Run folders: what a run leaves behind, and how it is found and continued.

    runs/<run_id>/manifest.json  config.yaml  completions/  events.parquet  onsets.parquet
                  tables/  figures/  report.md  report.html  log.jsonl
    runs/.current_run_id         the run that later commands use

Every file appears whole or not at all. A unit of work that has its file is done.
"""

import hashlib
import json
import platform
import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from backtracking.core.atomic import replacing
from backtracking.core.completions import Completions
from backtracking.core.errors import InputError, MissingFileError
from backtracking.workspace.guarded import hide_in_frame, write_text
from backtracking.workspace.secrets import redact

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
        file = self.path / "manifest.json"
        if not file.is_file():
            raise MissingFileError(f"{self.path} is no run: it has no manifest.json")
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{file} is damaged ({error}); start a new run") from error

    def write_manifest(self, **values: Any) -> None:
        """Write the manifest anew with these values added to what it held."""
        held = self.manifest() if (self.path / "manifest.json").is_file() else {}
        text = json.dumps(held | values, indent=2, ensure_ascii=False, default=str)
        write_text(self.path / "manifest.json", text + "\n")

    def log(self, event: str, **values: Any) -> None:
        """Append one line to the run's log."""
        self.path.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"time": now(), "event": event} | values, default=str)
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(redact(line) + "\n")

    def part(self, number: int, group: str) -> Path:
        """Path of the completions of one unit of work of a group of arms."""
        return self.path / "completions" / f"{group}-{number:05d}.parquet"

    def completions(self, group: str | None = None) -> Completions:
        """Every completion the run has so far, of one group or of all, unit by unit."""
        parts = sorted((self.path / "completions").glob("*.parquet"))
        chosen = [part for part in parts if group is None or part.stem.rpartition("-")[0] == group]
        return Completions(row for part in chosen for row in Completions.load(part))

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
        """Write `<name>.parquet`; ids are written as text, so that a column has one type."""
        if "example_id" in frame:
            frame = frame.assign(example_id=frame["example_id"].astype(str))
        frame = hide_in_frame(frame, name=f"{name}.parquet")
        with replacing(self.path / f"{name}.parquet") as temporary:
            frame.to_parquet(temporary, index=False)


def open_run(output_dir: str | Path, *, name: str, config_hash: str, run_id: str | None) -> RunFolder:
    """The folder of a run with this config: the unfinished one if there is one, or a new one.

    Args:
        output_dir: Folder of all runs.
        name: Ends the id of a new run.
        config_hash: Of everything that decides the results.
        run_id: A given name; its folder is continued if it exists.

    Raises:
        InputError: The run of that name was made with another config, or the folder cannot be used.
    """
    runs = Path(output_dir)
    if run_id is not None:
        folder = RunFolder(runs / run_id)
        if (folder.path / "manifest.json").is_file():
            _require_same(folder, config_hash)
        return folder
    for path in sorted(runs.glob("*/manifest.json"), reverse=True):
        folder = RunFolder(path.parent)
        if _is_unfinished(folder, config_hash):
            return folder
    return RunFolder(runs / _fresh_id(runs, name))


def current_run(output_dir: str | Path) -> RunFolder:
    """The run that was last worked on.

    Raises:
        InputError: There is none yet.
    """
    pointer = Path(output_dir) / CURRENT
    if not pointer.is_file():
        raise MissingFileError(f"no current run in {output_dir}; start one with backtracking run")
    folder = RunFolder(Path(output_dir) / pointer.read_text(encoding="utf-8").strip())
    folder.manifest()
    return folder


def make_current(folder: RunFolder) -> None:
    """Make later commands use this run."""
    write_text(folder.path.parent / CURRENT, folder.run_id + "\n")


def digest(*texts: str) -> str:
    """SHA-256 of the texts, in order."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()


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


def _fresh_id(runs: Path, name: str) -> str:
    stem = f"{datetime.now(UTC):%Y%m%d_%H%M%S}_{re.sub(r'[^A-Za-z0-9.-]+', '-', name).strip('-') or 'run'}"
    taken, number = runs / stem, 1
    while taken.exists():
        number += 1
        taken = runs / f"{stem}_{number}"
    return taken.name


def _is_unfinished(folder: RunFolder, config_hash: str) -> bool:
    """Whether the run is of this config and not finished; one whose manifest is damaged cannot be continued."""
    try:
        manifest = folder.manifest()
    except InputError:
        return False
    return manifest.get("config_hash") == config_hash and manifest.get("status") != "finished"


def _require_same(folder: RunFolder, config_hash: str) -> None:
    if folder.manifest().get("config_hash") != config_hash:
        raise InputError(
            f"the run {folder.run_id} was made with another config, model or problem set; give another run_id, or none"
        )
