"""Where the project and its data files are looked for."""

from pathlib import Path

DATA_FOLDERS = tuple(
    map(Path, ("data/processed", "data", "../shared/data", "../data/processed", "../data", "../../shared/data"))
)
"""Folders in which a data file given by name is looked for, from the project or from its `notebooks/`."""
MARKS = (".env", "pyproject.toml", ".git")
"""A folder that holds one of these is a project's."""


def find_data_file(path: str | Path) -> Path | None:
    """The file at `path`, or one of its name in a data folder; None if there is neither."""
    given = Path(path).expanduser()
    candidates = [given, *(folder / given.name for folder in DATA_FOLDERS)]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def project_root(start: Path | None = None) -> Path | None:
    """The nearest folder upward that holds `.env`, `pyproject.toml` or `.git`; None if there is none."""
    here = (start or Path.cwd()).absolute()
    return next((folder for folder in (here, *here.parents) if any((folder / mark).exists() for mark in MARKS)), None)
