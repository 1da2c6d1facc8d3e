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
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pandas as pd

from backtracking.core.atomic import remove_leftovers, replacing, writing
from backtracking.core.completions import Completions
from backtracking.core.errors import DamagedFileError, MissingFileError
from backtracking.experiments import locks
from backtracking.experiments.manifests import NAME as MANIFEST
from backtracking.experiments.manifests import read_manifest, write_manifest
from backtracking.experiments.provenance import now
from backtracking.workspace.guarded import hide_in_frame, hide_in_values
from backtracking.workspace.secrets import redact


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
            DamagedFileError: It is no table any more.
        """
        file = self.path / "tables" / f"{name}.csv"
        if not file.is_file():
            raise MissingFileError(f"{self.run_id} has no table {name}; run the step that makes it first")
        try:
            return pd.read_csv(file, dtype={"example_id": str})
        except ValueError as error:
            raise _damaged(file, error, "run the step that makes it again") from error

    def events(self) -> pd.DataFrame | None:
        """The events of the run, a row per completion; None where they have not been detected.

        Raises:
            DamagedFileError: Their file is not what was written.
        """
        file = self.path / "events.parquet"
        if not file.is_file():
            return None
        try:
            return pd.read_parquet(file)
        except (ValueError, OSError) as error:
            remedy = (
                f"make it again: backtracking detect-events --config {self.path / 'config.yaml'} --run-id {self.run_id}"
            )
            raise _damaged(file, error, remedy) from error

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


def _damaged(file: Path, error: Exception, remedy: str) -> DamagedFileError:
    return DamagedFileError(file, " ".join(str(error).split()), remedy)


def _last_byte(file: IO[bytes]) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def _in_utf8(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
