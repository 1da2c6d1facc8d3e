"""Laws of writing a store: what is noted is whole, a failure of any lane is raised, what waits is bounded."""

import hashlib
import os
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch

from backtracking.model.activations import cache_activations, shard_writer
from backtracking.model.activations.batches import tokens_at_once
from backtracking.model.activations.files import _WINDOW, described, header
from backtracking.model.activations.lanes import Lanes
from backtracking.model.activations.sidecar import JOURNAL, Recipe, Shard
from backtracking.model.sampling import sample

SITES = ["resid_post.1", "attn.2.h3"]


@pytest.fixture(scope="module")
def sampled(tiny, problems):
    return sample(tiny, problems, samples=3, max_new_tokens=17, temperature=1.3, seed=3)


@pytest.fixture(scope="module")
def store(tiny, sampled, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "s"
    return cache_activations(tiny, sampled, sites=SITES, to=folder, shard_bytes=12_000)


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def open_files():
    return {str(each.resolve()) for each in Path("/proc/self/fd").iterdir()}


def assert_what_is_noted_is_whole(folder, store):
    """The journal of a broken-off store names the first shards, and their files are those of the whole store."""
    lines = (folder / JOURNAL).read_bytes().splitlines() if (folder / JOURNAL).exists() else []
    noted = [Shard.model_validate_json(line) for line in lines]
    assert [shard.number for shard in noted] == list(range(len(noted)))
    names = [file.name for shard in noted for file in (shard.index, *shard.tensors.values())]
    assert {name: (folder / name).read_bytes() for name in names} == {
        name: (store.path / name).read_bytes() for name in names
    }
    return names


def failing_once(monkeypatch, name, call):
    """Let one call of a function of the shard writer fail as a disk does; the others are as they were."""
    real, calls = getattr(shard_writer, name), []

    def perhaps(*arguments, **options):
        calls.append(1)
        if len(calls) == call:
            raise OSError(5, "Input/output error")
        return real(*arguments, **options)

    monkeypatch.setattr(shard_writer, name, perhaps)
    return calls


@pytest.mark.parametrize(
    ("name", "call"), [("flush", 4), ("flush", 1), ("described", 5), ("described", 1), ("flush_folder", 3)]
)
def test_a_failure_of_any_lane_is_raised_and_what_is_noted_is_whole(
    tiny, sampled, store, tmp_path, monkeypatch, name, call
):
    calls = failing_once(monkeypatch, name, call)
    with pytest.raises(OSError, match="Input/output error"):
        cache_activations(tiny, sampled, sites=SITES, to=tmp_path / "s", shard_bytes=12_000)
    assert len(calls) >= call
    monkeypatch.undo()
    assert_what_is_noted_is_whole(tmp_path / "s", store)
    again = cache_activations(tiny, sampled, sites=SITES, to=tmp_path / "s", shard_bytes=12_000)
    assert files(again.path) == files(store.path)


@pytest.mark.parametrize("call", [2, 5, 9])
def test_a_shard_with_a_hole_is_never_noted(tiny, sampled, store, tmp_path, monkeypatch, call):
    real, calls, broken = os.pwrite, [], []

    def failing_in_the_middle(file, *arguments):
        calls.append(1)
        if len(calls) == call:  # what would be written after it, to the same file too, would succeed
            broken.append(Path(f"/proc/self/fd/{file}").resolve().name)
            raise OSError(28, "No space left on device")
        return real(file, *arguments)

    monkeypatch.setattr(shard_writer.os, "pwrite", failing_in_the_middle)
    with pytest.raises(OSError, match="No space left"):
        cache_activations(tiny, sampled, sites=SITES, to=tmp_path / "s", shard_bytes=12_000)
    monkeypatch.undo()
    names = assert_what_is_noted_is_whole(tmp_path / "s", store)
    assert broken and not [name for name in names if name in broken[0]]
    assert not [path for path in open_files() if str(tmp_path) in path], "the files are closed"
    again = cache_activations(tiny, sampled, sites=SITES, to=tmp_path / "s", shard_bytes=12_000)
    assert files(again.path) == files(store.path)
    assert again.verify() == store.verify()


def test_rows_that_fail_are_not_sealed_by_the_close_that_waits_behind_them():
    lanes, sealed, begun, go = Lanes(waiting=100), [], threading.Event(), threading.Event()

    def rows():
        begun.set()
        go.wait()
        raise OSError(28, "No space left on device")

    lanes.write(rows, holds=10)
    begun.wait()
    lanes.write(lambda: lanes.seal(lambda: sealed.append(1)), holds=0)
    go.set()
    with pytest.raises(OSError, match="No space left"):
        lanes.settle()
    lanes.close(cancel=False)
    assert sealed == []


def test_a_failure_is_raised_again_by_whoever_waits_later():
    lanes, done = Lanes(waiting=100), []

    def fail():
        raise OSError(5, "Input/output error")

    lanes.write(fail, holds=1)
    with pytest.raises(OSError, match="Input/output"):
        lanes.settle()
    with pytest.raises(OSError, match="Input/output"):
        lanes.settle()
    lanes.write(lambda: done.append(1), holds=1)
    with pytest.raises(OSError, match="Input/output"):
        lanes.settle()
    lanes.close(cancel=True)
    assert done == []


def test_no_more_waits_than_may_and_what_is_larger_waits_alone():
    lanes, held, most, gate = Lanes(waiting=100), [], [], threading.Lock()

    def job(size):
        with gate:
            most.append(sum(held))
            held.remove(size)

    for size in [40, 30, 20, 60, 250, 10, 90, 100, 5] * 20:
        with gate:
            held.append(size)  # one too many while the caller is made to wait
        lanes.write(lambda size=size: job(size), holds=size)
    lanes.settle()
    lanes.close(cancel=False)
    assert not held and len(most) == 180
    assert max(most) <= 100 + 250


def assert_set(event):
    assert event.wait(10)


def test_shards_are_sealed_in_their_order_whatever_takes_longer():
    lanes, sealed = Lanes(waiting=100), []
    slow = threading.Event()

    def end(number):
        flushed = lanes.flush(lambda: None if number else assert_set(slow))

        def seal():
            flushed.result()
            sealed.append(number)

        lanes.seal(seal)

    for number in range(4):
        lanes.write(lambda number=number: end(number), holds=10)
    slow.set()
    lanes.settle()
    lanes.close(cancel=False)
    assert sealed == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [0, 1, _WINDOW - 1, _WINDOW, _WINDOW + 1, 2 * _WINDOW + 77])
def test_a_checksum_is_that_of_the_bytes(tmp_path, size):
    data = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=torch.manual_seed(size)).numpy().tobytes()
    (tmp_path / "f").write_bytes(data)
    found = described(tmp_path / "f", "name")
    assert (found.name, found.bytes, found.sha256) == ("name", size, hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_head_is_one_that_safetensors_reads(tmp_path, dtype):
    values = torch.randn(5, 3).to(getattr(torch, dtype))
    data = values.view(torch.uint8).numpy().tobytes()
    path: Path = tmp_path / "f.safetensors"
    path.write_bytes(header("resid_post.1", dtype, (5, 3), {"model": "m"}) + data)
    assert torch.equal(safetensors.torch.load_file(path)["resid_post.1"], values)


def test_a_batch_is_smaller_where_model_and_shard_are(tiny, store):
    recipe: Recipe = store.sidecar.recipe
    sizes = [2**12, 2**16, 2**20, 2**24, 2**30]
    tokens = [tokens_at_once(tiny, recipe.model_copy(update={"shard_bytes": size})) for size in sizes]
    assert tokens == sorted(tokens) and tokens[0] < tokens[-1]
    assert all(n == 1 or n * recipe.row_bytes <= size / 4 for n, size in zip(tokens, sizes, strict=True))


def test_no_keys_and_values_are_kept_for_a_next_token(tiny, sampled, tmp_path, monkeypatch):
    given, forward = [], tiny.module.forward

    def noticing(*arguments, **options):
        given.append(options.get("use_cache"))
        return forward(*arguments, **options)

    monkeypatch.setattr(tiny.module, "forward", noticing)
    cache_activations(tiny, sampled, sites=["resid_post.2"], to=tmp_path / "s")
    assert given and set(given) == {False}
