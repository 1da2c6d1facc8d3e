"""Where data files are looked for."""

from pathlib import Path

DATA_FOLDERS = tuple(
    map(Path, ("data/processed", "data", "../shared/data", "../data/processed", "../data", "../../shared/data"))
)
"""Folders in which a data file given by name is looked for, from the project or from its `notebooks/`."""


def find_data_file(path: str | Path) -> Path | None:
    """The file at `path`, or one of its name in a data folder; None if there is neither."""
    given = Path(path).expanduser()
    candidates = [given, *(folder / given.name for folder in DATA_FOLDERS)]
    return next((candidate for candidate in candidates if candidate.is_file()), None)
