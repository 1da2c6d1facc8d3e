"""Files out of a tar archive."""

import shutil
import tarfile
from pathlib import Path, PurePosixPath

from backtracking.core.errors import InputError


def extract_files(archive: tarfile.TarFile, target: Path) -> None:
    """Put the files and folders of an archive into a folder, and nothing beside it.

    Python's own filter for this is missing before 3.11.4.

    Raises:
        InputError: An entry is neither file nor folder, or would lie outside.
    """
    for entry in archive:
        path = PurePosixPath(entry.name)
        if path.is_absolute() or ".." in path.parts or not (entry.isfile() or entry.isdir()):
            raise InputError(
                f"the archive holds {entry.name!r}, which is a link, a device, or outside of the run; it is not one "
                "that backtracking has written: do not use it"
            )
        place = target / path
        if entry.isdir():
            place.mkdir(parents=True, exist_ok=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        source = archive.extractfile(entry)
        assert source is not None
        with source, place.open("wb") as copy:
            shutil.copyfileobj(source, copy)
