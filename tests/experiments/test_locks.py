"""One process at a time works on a run, and a dead one is in nobody's way."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from backtracking.core.errors import InputError
from backtracking.experiments import locks


def held_by_another(folder, ready, done):
    lock = locks.take(folder, now="then")
    ready.set()
    done.wait(60)
    lock.release()


@pytest.fixture
def other(tmp_path):
    """Another process that holds the run until told to end."""
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=held_by_another, args=(tmp_path, ready, done))
    process.start()
    assert ready.wait(60)
    yield process, done
    if process.is_alive():  # an event that a killed process waits for can never be set
        done.set()
    process.join()


def note(folder, **changes):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    holder = {"pid": gone.pid, "host": socket.gethostname(), "started": "then"} | changes
    (folder / locks.HOLDER).write_text(json.dumps(holder))
    return holder["pid"]


def test_a_run_in_use_is_refused_and_its_holder_named(tmp_path, other):
    process, done = other
    with pytest.raises(InputError, match=f"in use by process {process.pid} on .* since then; wait for it, or end it"):
        locks.take(tmp_path, now="later")
    done.set()
    process.join()
    locks.take(tmp_path, now="later").release()
    assert not (tmp_path / locks.HOLDER).exists()


def test_a_killed_holder_is_taken_over_and_named(tmp_path, other):
    process, _ = other
    process.kill()
    process.join()
    lock = locks.take(tmp_path, now="later")
    assert lock.taken_over is not None and lock.taken_over.pid == process.pid
    assert json.loads((tmp_path / locks.HOLDER).read_text())["pid"] == os.getpid()
    lock.release()


def test_a_process_may_hold_its_run_twice(tmp_path):
    one, two = locks.take(tmp_path, now="a"), locks.take(tmp_path, now="b")
    assert two.taken_over is None
    one.release()
    assert (tmp_path / locks.HOLDER).exists()
    two.release()
    assert not (tmp_path / locks.HOLDER).exists()


def test_where_locks_do_not_reach_other_machines_a_fresh_holder_there_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_is_shared", lambda folder: True)
    note(tmp_path, host="elsewhere")
    with pytest.raises(InputError, match=r"on elsewhere since then; if it is gone, delete .*\.lock\.json"):
        locks.take(tmp_path, now="later")
    old = (tmp_path / locks.HOLDER).stat().st_mtime - 2 * locks.FRESH
    os.utime(tmp_path / locks.HOLDER, (old, old))
    lock = locks.take(tmp_path, now="later")
    assert lock.taken_over is not None and lock.taken_over.host == "elsewhere"
    lock.release()


def test_where_there_are_no_locks_a_living_process_here_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_acquire", lambda lock: False)
    note(tmp_path, pid=os.getppid())
    with pytest.raises(InputError, match="is in use by process"):
        locks.take(tmp_path, now="later")
    gone = note(tmp_path)
    assert locks.take(tmp_path, now="later").taken_over.pid == gone


def test_a_holder_that_ends_while_its_sign_of_life_is_looked_up_is_no_obstacle(tmp_path, monkeypatch):
    """It takes its note away between the reading of it and the question how old it is."""
    monkeypatch.setattr(locks, "_is_shared", lambda folder: True)
    note(tmp_path, host="elsewhere")
    touch = Path.touch

    def touched(path, *options):
        touch(path, *options)
        if path.name == locks.LOCK:
            (tmp_path / locks.HOLDER).unlink()

    monkeypatch.setattr(Path, "touch", touched)
    lock = locks.take(tmp_path, now="later")
    assert lock.taken_over is None  # it ended well
    assert json.loads((tmp_path / locks.HOLDER).read_text())["pid"] == os.getpid()
    lock.release()


def test_a_holder_that_ends_before_the_lock_is_had_ended_well(tmp_path, monkeypatch):
    note(tmp_path)
    acquire = locks._acquire

    def acquired(lock):
        (tmp_path / locks.HOLDER).unlink()
        return acquire(lock)

    monkeypatch.setattr(locks, "_acquire", acquired)
    lock = locks.take(tmp_path, now="later")
    assert lock.taken_over is None and (tmp_path / locks.HOLDER).exists()
    lock.release()
