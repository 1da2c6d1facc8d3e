"""A file of completions is what was written, or it is refused; a file that cannot be written is said in one line."""

import os
import random
import subprocess
import sys

import psutil
import pytest

from backtracking.core.atomic import remove_leftovers, replacing, temporary_name, write_text
from backtracking.core.completions import Completions, Origin, load_part
from backtracking.core.errors import DamagedFileError, UnwritableFileError
from tests.core.test_completions import made

ORIGIN = Origin("plan", "weights", 8, 3)


def test_no_flipped_bit_changes_a_row_unnoticed(tmp_path):
    rows, path, chance = (
        Completions([made(), made(problem_id="b", text="Wait")]),
        tmp_path / "part.parquet",
        random.Random(0),
    )
    rows.save(path, origin=ORIGIN)
    whole, noticed = path.read_bytes(), 0
    for _ in range(1500):
        spoiled = bytearray(whole)
        spoiled[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(spoiled)
        try:
            found, origin = load_part(path)
        except DamagedFileError:
            noticed += 1
        else:
            assert found == rows
            assert origin in (ORIGIN, None)
    assert noticed > 500


def test_no_cut_file_is_read(tmp_path):
    path = tmp_path / "part.parquet"
    Completions([made()]).save(path, origin=ORIGIN)
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFileError, match="is damaged"):
            load_part(path)


def test_a_file_says_where_it_comes_from(tmp_path):
    Completions([made()]).save(tmp_path / "a.parquet", origin=ORIGIN)
    Completions([made()]).save(tmp_path / "b.parquet")
    assert load_part(tmp_path / "a.parquet") == (Completions([made()]), ORIGIN)
    assert load_part(tmp_path / "b.parquet") == (Completions([made()]), None)


def test_a_full_disk_is_one_line_and_the_old_file_stays(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    refused = pytest.raises(UnwritableFileError, match=r"cannot write .*a.txt: No space left on device; make room")
    with refused, replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise OSError(28, os.strerror(28))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


def test_only_what_dead_processes_left_is_removed(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert not psutil.pid_exists(gone.pid)
    mine = temporary_name(tmp_path / "b.csv")
    (tmp_path / "tables").mkdir()
    for path in (
        tmp_path / f".a.csv.{gone.pid}.tmp",
        tmp_path / "tables" / f".c.{gone.pid}.tmp",
        mine,
        tmp_path / "c.tmp",
    ):
        path.write_text("half")
    assert remove_leftovers(tmp_path) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([mine.name, "c.tmp", "tables"])
