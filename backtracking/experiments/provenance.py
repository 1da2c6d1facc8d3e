"""What a run was made with: the versions of what decides results, the commit, the time."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

PACKAGES = ("backtracking", "torch", "transformers", "transformer-lens", "numpy", "math-verify")


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
