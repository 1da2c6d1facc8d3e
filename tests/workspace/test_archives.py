"""Files out of a tar archive: all of them, and nothing beside their folder."""

import io
import tarfile

import pytest

from backtracking.core.errors import InputError
from backtracking.workspace.archives import extract_files


def archive_of(*entries):
    """An archive of (name, type, content or link)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, kind, content in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.uid = kind, 0o4777, 12345
            entry.size = len(content) if kind == tarfile.REGTYPE else 0
            entry.linkname = content.decode() if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            archive.addfile(entry, io.BytesIO(content) if entry.size else None)
    return tarfile.open(fileobj=io.BytesIO(stream.getvalue()))  # noqa: SIM115 - the test closes it


def test_files_and_folders_come_out_as_they_went_in_with_rights_of_new_files(tmp_path):
    deep = "x" * 90 + "/" + "y" * 120
    with archive_of(
        ("a", tarfile.DIRTYPE, b""), ("a/b.txt", tarfile.REGTYPE, b"\0\xff"), (deep, tarfile.REGTYPE, b"")
    ) as given:
        extract_files(given, tmp_path)
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"\0\xff"
    assert (tmp_path / deep).read_bytes() == b""
    (tmp_path / "new").touch()
    assert (tmp_path / "a" / "b.txt").stat().st_mode == (tmp_path / "new").stat().st_mode


@pytest.mark.parametrize(
    ("name", "kind", "content"),
    [
        ("../outside", tarfile.REGTYPE, b"x"),
        ("a/../../outside", tarfile.REGTYPE, b"x"),
        ("/tmp/outside", tarfile.REGTYPE, b"x"),
        ("link", tarfile.SYMTYPE, b"/etc/passwd"),
        ("link", tarfile.LNKTYPE, b"../outside"),
        ("pipe", tarfile.FIFOTYPE, b""),
    ],
)
def test_what_would_reach_beyond_the_folder_is_refused(tmp_path, name, kind, content):
    target = tmp_path / "target"
    target.mkdir()
    with archive_of((name, kind, content)) as given, pytest.raises(InputError, match="link, a device, or outside"):
        extract_files(given, target)
    assert list(tmp_path.iterdir()) == [target]
    assert list(target.iterdir()) == []
