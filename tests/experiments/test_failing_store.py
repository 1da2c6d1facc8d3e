"""A store that fails costs a line, and no unit: the executor with Ray's part played in this process."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from fsspec.implementations.local import LocalFileSystem

from backtracking.experiments import ray_executor
from backtracking.experiments.executors import Driver, Sampled
from backtracking.experiments.ray_executor import RayExecutor
from backtracking.experiments.remote_store import RemoteStore
from tests.experiments.ray_jobs import Misbehaving, completions_of, unit_of

UNITS = [unit_of(number) for number in range(4)]


class Here:
    """An actor whose methods are done when they are asked for."""

    def __init__(self, actor):
        self._actor = actor

    def __getattr__(self, name):
        return SimpleNamespace(remote=lambda *given: Answer(getattr(self._actor, name), given))


class Answer:
    def __init__(self, method, given):
        try:
            self.value, self.error = method(*given), None
        except OSError as error:
            self.value, self.error = None, ray.exceptions.RayTaskError("method", "", error)

    def get(self):
        if self.error is not None:
            raise self.error
        return self.value


@pytest.fixture
def without_cluster(monkeypatch):
    def remote(actor):
        return SimpleNamespace(
            options=lambda **options: SimpleNamespace(remote=lambda *given: Here(actor(*given))),
        )

    monkeypatch.setattr(ray_executor, "connect", lambda address: [{"CPU": 2.0}])
    monkeypatch.setattr(ray_executor, "is_alive", lambda machine: True)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
    monkeypatch.setattr(ray, "remote", remote)
    monkeypatch.setattr(ray, "put", lambda value: value)
    monkeypatch.setattr(ray, "get", Answer.get)
    monkeypatch.setattr(ray, "wait", lambda asked, **options: (asked[:1], asked[1:]))
    monkeypatch.setattr(ray, "kill", lambda actor: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)


def outcomes(store, tmp_path, tiny):
    """What the executor gives for the units, its log, and how many units were done rather than read."""
    (tries := tmp_path / "tries").mkdir()
    log, executor = [], RayExecutor(workers=1, store=store)
    driver = Driver(tiny, lambda event, **values: log.append((event, values)), lambda: None)
    found = list(executor.run(UNITS, Misbehaving(tries), driver))
    executor.close()
    return found, log, len(list(tries.iterdir()))


def full(filesystem, path, content, **options):
    """As on a disk with room for some bytes more."""
    Path(path).write_bytes(content[:100])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_store_that_becomes_full_costs_a_line_and_no_unit(without_cluster, tmp_path, tiny, monkeypatch, caplog):
    store = RemoteStore(str(tmp_path / "store"))
    store.check()
    monkeypatch.setattr(LocalFileSystem, "pipe_file", full)
    monkeypatch.setattr(RemoteStore, "check", lambda self: None)  # it had room then
    found, log, done = outcomes(store, tmp_path, tiny)
    assert done == len(UNITS)  # each once
    assert [type(each) for each in found] == [Sampled] * len(UNITS)
    assert {each.unit.number: each.completions for each in found} == {u.number: completions_of(u) for u in UNITS}
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []
    (told,) = (values for event, values in log if event == "store failed")
    assert told["level"] == "warning" and "No space left on device" in told["reason"]
    (line,) = caplog.messages
    assert line == (
        f"the store {store.url} cannot be written to; the run goes on without it "
        "(OSError: [Errno 28] No space left on device)"
    )


def test_a_unit_that_cannot_be_moved_leaves_no_draft(tmp_path, monkeypatch):
    def refused(*arguments, **options):
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(LocalFileSystem, "mv", refused)
    store = RemoteStore(str(tmp_path))
    with pytest.raises(PermissionError):
        store.save(UNITS[0], completions_of(UNITS[0]))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_store_that_cannot_be_read_is_as_one_that_has_nothing(without_cluster, tmp_path, tiny, monkeypatch, caplog):
    store = RemoteStore(str(tmp_path / "store"))
    for unit in UNITS:
        store.save(unit, completions_of(unit))

    def broken(*arguments, **options):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(LocalFileSystem, "cat_file", broken)
    found, log, done = outcomes(store, tmp_path, tiny)
    assert done == len(UNITS)
    assert [each.completions for each in found] == [completions_of(unit) for unit in UNITS]
    assert [values["reason"] for event, values in log if event == "store failed"] == [
        "OSError: [Errno 5] Input/output error"
    ]
    (line,) = caplog.messages
    assert "cannot be read; its units are sampled again" in line


def test_a_store_that_holds_gives_its_units_and_no_line(without_cluster, tmp_path, tiny, caplog):
    store = RemoteStore(str(tmp_path / "store"))
    store.save(UNITS[1], completions_of(UNITS[1]))
    found, log, done = outcomes(store, tmp_path, tiny)
    assert done == len(UNITS) - 1
    assert [each.worker for each in found if each.unit == UNITS[1]] == ["store"]
    assert all(store.load(unit) == completions_of(unit) for unit in UNITS)
    assert "store failed" not in [event for event, _ in log] and caplog.messages == []
