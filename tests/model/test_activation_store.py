"""Laws of the store: read without loading, continued after a kill, damage named, strangers refused."""

import pickle
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.utils.data import DataLoader

from backtracking.core.errors import InputError, UnknownSiteError
from backtracking.model.activations import ActivationStore, cache_activations, capture, sample_and_cache
from backtracking.model.activations.writer import StoreWriter
from backtracking.model.sampling import packed_engine, sample

SITES = ["resid_post.1", "attn.2.h3"]
ARMS = {"off": ["mlp.1*0@decode"], "all": ["attn.0*0.5"]}


@pytest.fixture(scope="module")
def sampled(tiny, problems):
    return sample(tiny, problems, samples=3, max_new_tokens=17, temperature=1.3, seed=3)


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def store(tiny, sampled, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "s"
    return cache_activations(tiny, sampled, sites=SITES, to=folder, shard_bytes=12_000)


@pytest.fixture
def copied(store, tmp_path):
    shutil.copytree(store.path, tmp_path / "copy")
    return tmp_path / "copy"


def test_files_are_safetensors_that_the_library_itself_reads(store):
    assert len(store.sidecar.shards) > 3
    for site in SITES:
        loaded = [safetensors.torch.load_file(store.path / s.tensors[site].name)[site] for s in store.sidecar.shards]
        assert torch.equal(torch.cat(loaded), store[site][:])


def test_rows_are_chosen_as_from_a_tensor(store):
    for site in store.sites:
        whole = store[site][:]
        assert whole.shape == store[site].shape == (len(store), 32 if site.head is None else 8)
        chosen = [3, len(store) - 1, 0, 3, -2]
        mask = np.arange(len(store)) % 7 == 2
        assert torch.equal(store[site][5], whole[5]) and torch.equal(store[site][-1], whole[-1])
        assert torch.equal(store[site][7:90:4], whole[7:90:4])
        assert torch.equal(store[site][::-1], whole.flip(0))
        assert torch.equal(store[site][chosen], whole[chosen])
        assert torch.equal(store[site][torch.tensor(chosen)], whole[chosen])
        assert torch.equal(store[site][mask], whole[torch.from_numpy(mask)])
        assert torch.equal(
            store[site][store.rows.query("sample_id == 1").index],
            whole[torch.tensor((store.rows.sample_id == 1).tolist())],
        )
        assert store[site][[]].shape == (0, whole.shape[1])
        for wrong in (len(store), [len(store)], mask[:-1]):
            with pytest.raises(IndexError):
                store[site][wrong]
    with pytest.raises(UnknownSiteError, match=r"holds resid_post.1, attn.2.h3, not mlp.0"):
        store["mlp.0"]


def test_only_the_shards_that_are_asked_for_are_opened(store):
    fresh = ActivationStore.open(store.path)
    last = store.sidecar.shards[-1].number
    assert torch.equal(fresh["resid_post.1"][-1], store["resid_post.1"][len(store) - 1])
    assert list(fresh["resid_post.1"]._mapped) == [last] and not fresh["attn.2.h3"]._mapped


def test_batches_cover_every_row_in_order(store):
    found = list(store.batches(50))
    assert [len(batch.rows) for batch in found[:-1]] == [50] * (len(found) - 1)
    assert np.array_equal(np.concatenate([batch.rows.index for batch in found]), np.arange(len(store)))
    for site in store.sites:
        assert torch.equal(torch.cat([batch.activations[site] for batch in found]), store[site][:])


def test_a_site_is_a_torch_dataset_also_in_a_worker(store):
    site = store["resid_post.1"]
    assert torch.equal(torch.cat(list(DataLoader(site, batch_size=64))), site[:])
    assert torch.equal(pickle.loads(pickle.dumps(site))[:], site[:])
    shuffled = torch.cat(list(DataLoader(site, batch_size=64, shuffle=True, generator=torch.manual_seed(0))))
    assert not torch.equal(shuffled, site[:]) and torch.equal(
        shuffled.sum(0).round(decimals=2), site[:].sum(0).round(decimals=2)
    )


def test_it_becomes_a_dataset_with_the_same_rows(store):
    made = store.to_dataset().with_format("torch")
    assert len(made) == len(store)
    for name in SITES:
        assert torch.equal(made[:][name], store[name][:])
    assert made[:]["token_id"].tolist() == store.rows.token_id.tolist()
    assert made[:]["condition"] == store.rows.condition.tolist()
    assert made["resid_post.1"][40].tolist() == store["resid_post.1"][40].tolist()
    kept = made.filter(lambda row: row["sample_id"] == 2, load_from_cache_file=False)
    assert len(kept) == (store.rows.sample_id == 2).sum()


@pytest.mark.parametrize("place", ["tensor", "header", "index", "sidecar"])
def test_a_flipped_bit_is_named(copied, place):
    store = ActivationStore.open(copied)
    shard = store.sidecar.shards[2]
    name = {"index": shard.index.name, "sidecar": "store.json"}.get(place, shard.tensors["attn.2.h3"].name)
    assert store.verify().files == 3 * len(store.sidecar.shards)
    content = bytearray((copied / name).read_bytes())
    content[{"tensor": -100, "header": 20, "index": 60, "sidecar": content.find(b'"n_tokens"') + 12}[place]] ^= 1
    (copied / name).write_bytes(content)
    if place == "sidecar":
        with pytest.raises(InputError, match=r"store.json is damaged"):
            ActivationStore.open(copied)
        return
    with pytest.raises(InputError, match=rf"{name} \(shard 2, .*\) does not match its checksum; capture it again"):
        ActivationStore.open(copied).verify()


def test_missing_and_short_files_are_named(copied):
    store = ActivationStore.open(copied)
    first, second = (store.sidecar.shards[n].tensors["resid_post.1"].name for n in (0, 1))
    (copied / first).unlink()
    (copied / second).write_bytes((copied / second).read_bytes()[:-8])
    with pytest.raises(InputError, match=rf"{first} .* is missing; {second} .* has \d+ bytes instead of \d+"):
        store.verify()
    fresh = ActivationStore.open(copied)["resid_post.1"]
    with pytest.raises(InputError, match="lacks its file"):
        fresh[0]
    with pytest.raises(InputError, match=f"{second} is damaged"):
        fresh[fresh._ends[0]]


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("after", [0, 1, 4])
def test_a_capture_broken_off_anywhere_continues_to_the_same_bytes(tiny, sampled, store, tmp_path, monkeypatch, after):
    options = {"sites": SITES, "to": tmp_path / "s", "shard_bytes": 12_000}
    run, ran = capture._Capture._run, []

    def breaking(self, parts):
        if len(ran) == after:
            raise Killed
        ran.append(len(parts))
        return run(self, parts)

    monkeypatch.setattr(capture._Capture, "_run", breaking)
    with pytest.raises(Killed):
        cache_activations(tiny, sampled, **options)
    with pytest.raises(InputError, match="not complete; run the capture again"):
        ActivationStore.open(tmp_path / "s")
    journal = tmp_path / "s" / "shards.jsonl"
    if journal.exists():
        journal.write_bytes(journal.read_bytes() + b'{"number": 9, "ro')  # a line cut off by the kill
    (tmp_path / "s" / ".left.safetensors.tmp").write_bytes(b"half")
    monkeypatch.setattr(capture._Capture, "_run", lambda self, parts: (ran.append(len(parts)), run(self, parts))[1])
    again = cache_activations(tiny, sampled, **options)
    assert files(again.path) == files(store.path)
    total = len(ran)
    assert cache_activations(tiny, sampled, **options).verify() == store.verify()
    assert len(ran) == total, "a complete store is opened, not made again"


def test_shards_that_were_whole_are_not_run_again(tiny, sampled, tmp_path, monkeypatch):
    options = {"sites": SITES, "to": tmp_path / "s", "shard_bytes": 12_000}
    finish, numbers = StoreWriter.finish, []
    monkeypatch.setattr(StoreWriter, "finish", lambda self: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        cache_activations(tiny, sampled, **options)
    monkeypatch.setattr(StoreWriter, "finish", finish)
    whole = len((tmp_path / "s" / "shards.jsonl").read_text().splitlines())
    shard = StoreWriter.shard
    monkeypatch.setattr(
        StoreWriter, "shard", lambda self, *a, **k: (numbers.append(self._begun), shard(self, *a, **k))[1]
    )
    found = cache_activations(tiny, sampled, **options)
    assert numbers == list(range(whole, len(found.sidecar.shards)))


def test_a_folder_of_something_else_is_refused(tiny, twins, sampled, store, copied, tmp_path):
    options = {"sites": SITES, "to": copied, "shard_bytes": 12_000}
    with pytest.raises(InputError, match='model was "tiny-qwen2" and is now "tiny-llama"; give another folder'):
        cache_activations(twins("llama")[0], sampled, **options)
    with pytest.raises(InputError, match='positions was "all" and is now "completion"'):
        cache_activations(tiny, sampled, **options, positions="completion")
    with pytest.raises(InputError, match="source was .* and is now"):
        cache_activations(tiny, sampled[:-1], **options)
    assert files(copied) == files(store.path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds files that are no activation store"):
        cache_activations(tiny, sampled, **options | {"to": tmp_path / "other"})
    with pytest.raises(InputError, match="no activation store at"):
        ActivationStore.open(tmp_path / "other")


def test_an_error_of_the_disk_is_not_lost(tiny, sampled, tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("backtracking.model.activations.shard_writer.os.pwrite", full_disk)
    with pytest.raises(OSError, match="No space left"):
        cache_activations(tiny, sampled, sites=SITES, to=tmp_path / "s")
    monkeypatch.undo()
    assert cache_activations(tiny, sampled, sites=SITES, to=tmp_path / "s").verify()


@pytest.mark.parametrize("after", [0, 2])
def test_sampling_broken_off_between_units_continues_to_the_same_bytes(tiny, problems, tmp_path, monkeypatch, after):
    options = {
        "sites": SITES, "positions": "all", "conditions": ARMS, "samples": 2, "max_new_tokens": 6, "rows": 2,
        "temperature": 1.1, "shard_bytes": 5000,
    }  # fmt: skip
    whole, expected = sample_and_cache(tiny, problems, **options, to=tmp_path / "whole")
    calls, finish = [], packed_engine.completion_of

    def breaking(*arguments):
        calls.append(1)
        if len(calls) == after * 8 + 4:  # in the middle of a unit
            raise Killed
        return finish(*arguments)

    monkeypatch.setattr(packed_engine, "completion_of", breaking)
    with pytest.raises(Killed):
        sample_and_cache(tiny, problems, **options, to=tmp_path / "s")
    assert len(list((tmp_path / "s" / "units").glob("*"))) == after if after else True
    calls.clear()
    monkeypatch.setattr(packed_engine, "completion_of", lambda *a: (calls.append(1), finish(*a))[1])
    again, found = sample_and_cache(tiny, problems, **options, to=tmp_path / "s")
    assert len(calls) == 24 - 8 * after, "units that were whole are not sampled again"
    assert again == whole and files(found.path) == files(expected.path)
    assert found.verify() == expected.verify()
