"""The environment of a project: its `.env`, and caches inside it.

Nothing is set at import: the command line calls `prepare_environment` first of all, and a notebook does in
its first cell, before anything that loads a model.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from dotenv import load_dotenv

from backtracking.workspace.paths import project_root

CACHES = {
    "HF_HOME": "huggingface",
    "TORCH_HOME": "torch",
    "WANDB_DIR": "wandb",
    "MPLCONFIGDIR": "matplotlib",
}
"""Variable, and the folder under `.cache` of the project that it points to unless it is set."""
_READS_AT_IMPORT = {"HF_HOME": "huggingface_hub.constants", "MPLCONFIGDIR": "matplotlib"}


@dataclass(frozen=True)
class Environment:
    """What was prepared."""

    root: Path | None
    """Folder of the project; None where no folder upward is one: then nothing is set."""
    env_file: Path | None
    """The `.env` that was read."""
    set_here: tuple[str, ...]
    """Cache variables that were not set before."""
    too_late: tuple[str, ...]
    """Cache variables left alone because a library that reads them is loaded already."""


def prepare_environment(start: str | Path | None = None) -> Environment:
    """Read the project's `.env` and keep caches inside the project; what is set already is never changed.

    The project is the nearest folder upward that holds `.env`, `pyproject.toml` or `.git`. A login made with
    Hugging Face's own command stays valid: its token file is still read.

    Args:
        start: Where to look from; the working directory if not given.
    """
    root = project_root(None if start is None else Path(start))
    if root is None:
        return Environment(None, None, (), ())
    file = root / ".env"
    if file.is_file():
        load_dotenv(file, override=False)
    login = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface") / "token"
    chosen, late = [], []
    for name, folder in CACHES.items():
        if os.environ.get(name):
            continue
        if _READS_AT_IMPORT.get(name) in sys.modules:
            late.append(name)
            continue
        path = root / ".cache" / folder
        path.mkdir(parents=True, exist_ok=True)  # W&B and matplotlib write elsewhere if it is not there
        os.environ[name] = str(path)
        chosen.append(name)
    if "HF_HOME" in chosen and login.is_file():
        os.environ.setdefault("HF_TOKEN_PATH", str(login))
    return Environment(root, file if file.is_file() else None, tuple(chosen), tuple(late))
