"""The manifest of a run: what it was made from, with a checksum of itself.

A manifest that is lost is made again from what the run still has: its log, and its completions, which
each say which plan and which weights they are a part of.
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backtracking.core.atomic import write_text
from backtracking.core.completions import Origin, load_part
from backtracking.core.errors import DamagedFileError, MissingFileError

NAME, CHECKSUM = "manifest.json", "checksum"


@dataclass(frozen=True)
class Remains:
    """What a run without a manifest still says of itself."""

    started: str | None
    finished: str | None
    plans: dict[str, str]
    rows_at_once: dict[str, int]
    shares: dict[str, int]
    weights_hash: str | None


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a run was made from.

    Raises:
        MissingFileError: There is no manifest.
        DamagedFileError: It is not what was written.
    """
    file = folder / NAME
    if not file.is_file():
        raise MissingFileError(f"{folder} is no run: it has no {NAME}")
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(file, str(error)) from error
    if not isinstance(held, dict) or "config_hash" not in held:
        raise _damaged(file, "it does not say which config it belongs to")
    given = held.pop(CHECKSUM, None)  # manifests of earlier versions have none
    if given is not None and given != _checksum(held):
        raise _damaged(file, "it is not what was written")
    return held


def write_manifest(folder: Path, values: dict[str, Any]) -> None:
    """Write a manifest with its checksum."""
    values = json.loads(json.dumps(values, ensure_ascii=False, default=str))
    text = json.dumps(values | {CHECKSUM: _checksum(values)}, indent=2, ensure_ascii=False)
    write_text(folder / NAME, text + "\n")


def digest(*texts: str) -> str:
    """SHA-256 of the texts, in order."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()


def set_aside(path: Path, ending: str) -> Path:
    """Give a file that cannot be used a name that says so; nothing is overwritten."""
    aside, number = path.with_name(f"{path.name}.{ending}"), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.{ending}-{number}")
    return path.rename(aside)


def remains(folder: Path) -> Remains:
    """What the log and the completions of a run still say; damaged ones are passed over, to be found later."""
    origins: dict[str, list[Origin]] = {}
    for part in sorted((folder / "completions").glob("*.parquet")):
        origin = _origin(part)
        if origin is not None:
            origins.setdefault(part.stem.rpartition("-")[0], []).append(origin)
    plans = {group: _most([each.plan for each in held]) for group, held in origins.items()}
    seats = {group: _most([each.rows_at_once for each in held]) for group, held in origins.items()}
    shares = {group: _most([each.shares for each in held]) for group, held in origins.items()}
    weights = [each.weights for held in origins.values() for each in held]
    log = _log(folder / "log.jsonl")
    started = next((line["time"] for line in log if line["event"] == "started"), None)
    last = next((line for line in reversed(log) if line["event"] in ("started", "finished")), None)
    finished = last["time"] if last is not None and last["event"] == "finished" else None
    return Remains(started, finished, plans, seats, shares, _most(weights) if weights else None)


def _origin(part: Path) -> Origin | None:
    try:
        return load_part(part)[1]
    except DamagedFileError:
        return None


def _most(values: list[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]


def _log(file: Path) -> list[dict[str, Any]]:
    """The lines of a log that can be read; the last one of a killed process may be torn."""
    found = []
    for line in file.read_bytes().splitlines() if file.is_file() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("time"), str) and "event" in entry:
            found.append(entry)
    return found


def _checksum(values: dict[str, Any]) -> str:
    return digest(json.dumps(values, sort_keys=True))


def _damaged(file: Path, reason: str) -> DamagedFileError:
    remedy = "backtracking run makes it again from config.yaml and the completions, which are kept"
    return DamagedFileError(file, reason, remedy)
