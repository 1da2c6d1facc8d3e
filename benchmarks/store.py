"""How fast is an activation store written, and in how much memory, beside `safetensors.torch.save_file`?

Run: python benchmarks/store.py [--repetitions 9] [--shards 3] [--folder runs]

Three questions. Writing: the store's writer against `save_file` of the same tensors in files of the same size on the
same disk, the model's forward excluded. Both end when files and folder are on the disk (`fsync`); the writer's time
holds its checksums, index and journal too. Rows reach the writer in their order, or batch by batch in the order in
which a capture runs them. End to end: a capture with the model, against the same forward passes by `run_with_cache`
and `save_file` of what they gave. Memory: the peak of a capture above the process with all imports, in a process of its
own, against model plus one shard.

Before each run, untimed, the last one's files are removed, a file of as many bytes is written and removed too, and the
disk is waited for: the run finds memory for the page cache that the machine already has, and a disk at rest.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers as hf
from harness import ROOT, Contender, circumstances, summary, take_turns, write_json
from safetensors.torch import save_file

from backtracking.core.atomic import flush_folder
from backtracking.core.completions import Completion
from backtracking.core.sites import Site
from backtracking.model.activations import capture
from backtracking.model.activations.description import describe
from backtracking.model.activations.index import index_table
from backtracking.model.activations.positions import Missing, read_positions
from backtracking.model.activations.shard_writer import Rows
from backtracking.model.activations.sidecar import Recipe
from backtracking.model.activations.writer import StoreWriter
from backtracking.model.loading import load_model
from backtracking.model.reasoner import HookedReasoner

SITES = ("resid_post.3", "resid_post.7")
TOKENS, WIDTH, LAYERS, SHARD, SMALL = 256, 512, 8, capture.SHARD_BYTES, 2**24
MEMORY = (
    {"width": 512, "layers": 8, "sites": 2, "completions": 40, "shard": 2**24},
    {"width": 512, "layers": 8, "sites": 2, "completions": 80, "shard": 2**24},
    {"width": 512, "layers": 8, "sites": 8, "completions": 48, "shard": 2**26},
    {"width": 768, "layers": 12, "sites": 24, "completions": 48, "shard": capture.SHARD_BYTES},
)
"""Captures whose peak is taken: the second keeps twice as much as the first; the last is of 115 million parameters, in
shards of the size that is the default."""


def random_model(width: int, layers: int) -> HookedReasoner:
    """A random model whose activations are as wide as those of a small real one."""
    torch.manual_seed(0)
    tokenizer = load_model("organism", device="cpu").tokenizer
    config = hf.Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=1024,
    )  # fmt: skip
    return HookedReasoner.from_hf(hf.Qwen2ForCausalLM(config), tokenizer, name="wide")


def completions(number: int) -> list[Completion]:
    """Completions of random tokens, all of one length: the content does not matter here."""
    ids = torch.randint(5, 300, (number, TOKENS), generator=torch.manual_seed(1)).tolist()
    return [
        Completion(
            index, 0, "baseline_think_newline", "baseline", tuple(row[:32]), tuple(row[32:]), "", "length",
            (0,) * (TOKENS - 32),
        )
        for index, row in enumerate(ids)
    ]  # fmt: skip


@contextmanager
def folder(parent: Path) -> Iterator[Path]:
    """An empty folder on the disk that is measured, removed afterwards."""
    parent.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix=".store-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def emptied(place: Path, size: int) -> Callable[[], None]:
    """Remove what the last run wrote, and leave as many bytes of free memory and a disk at rest."""

    def before() -> None:
        for path in place.iterdir():
            shutil.rmtree(path)
        ballast = place / "ballast"
        with ballast.open("wb") as file:
            for _ in range(0, size, 2**20):
                file.write(os.urandom(2**10) * 2**10)
        os.sync()
        ballast.unlink()
        os.sync()

    return before


def saved(tensors: dict[str, torch.Tensor], path: Path, *, sync: bool) -> None:
    """Write one file as anybody would, and wait until it is on the disk."""
    save_file(tensors, path)
    if sync:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def recipe_of(model: HookedReasoner) -> Recipe:
    """What the writer has to know."""
    return Recipe(
        made="teacher-forced", **describe(model, tuple(map(Site.parse, SITES)), None), dataset="bench",
        positions="all", interventions={}, note="", source={}, shard_bytes=SHARD, batch="",
    )  # fmt: skip


def writing(recipe: Recipe, place: Path, shards: int) -> list[Contender]:
    """The same tensors through the writer, and through `save_file` in files of the same size."""
    per_shard = SHARD // (TOKENS * recipe.row_bytes)
    done = completions(shards * per_shard)
    tensor = {site: torch.randn(per_shard * TOKENS, WIDTH) for site in SITES}
    choice = read_positions("all", completions=len(done))
    chosen = [choice.of(each, number, onsets=(), run=TOKENS) for number, each in enumerate(done)]
    mixed = list(range(per_shard))
    random.Random(0).shuffle(mixed)

    def ours(order: Sequence[int]) -> int:
        with StoreWriter(place / "s", recipe, completions=len(done)) as writer:
            for start in range(0, len(done), per_shard):
                part = range(start, start + per_shard)
                shard = writer.shard(index_table([(n, done[n], chosen[n]) for n in part]), Missing())
                for each in order:
                    rows = slice(each * TOKENS, (each + 1) * TOKENS)
                    shard.put([Rows(site, rows.start, tensor[site][rows]) for site in SITES])
                shard.close()
            writer.finish()
        return len(done) * TOKENS

    def plain(*, sync: bool) -> int:
        (place / "s").mkdir()
        for number in range(shards):
            for site in SITES:
                saved({site: tensor[site]}, place / "s" / f"{site}_{number}.safetensors", sync=sync)
        if sync:
            flush_folder(place / "s")
        return len(done) * TOKENS

    before = emptied(place, shards * SHARD)
    return [
        Contender("store", "rows in order; checksums, index, journal, fsync", lambda: ours(range(per_shard)), before),
        Contender("store, mixed", "the same, rows in the order of a capture's batches", lambda: ours(mixed), before),
        Contender("save_file, on disk", "same files, fsync of each and folder", lambda: plain(sync=True), before),
        Contender("save_file", "same files, left to the page cache", lambda: plain(sync=False), before),
    ]


def end_to_end(model: HookedReasoner, place: Path, number: int) -> list[Contender]:
    """A capture, and the same forward passes with `save_file`, in small shards, so that there are several."""
    done = completions(number)
    names = [Site.parse(site).hook_name for site in SITES]

    def ours() -> int:
        return len(capture.cache_activations(model, done, sites=SITES, to=place / "s", shard_bytes=SMALL, batch=16))

    def plain() -> int:
        (place / "s").mkdir()
        held: list[dict[str, torch.Tensor]] = []
        for start in range(0, number, 16):
            ids = [each.prompt_ids + each.ids for each in done[start : start + 16]]
            held.append(dict(model.run_with_cache(ids, names_filter=names, stop_at_layer=None)[1]))
            if sum(part[name].nbytes for part in held for name in names) >= SMALL or start + 16 >= number:
                for name in names:
                    tensor = torch.cat([part[name].flatten(0, 1) for part in held])
                    saved({name: tensor}, place / "s" / f"{name}_{start}", sync=True)
                held = []
        flush_folder(place / "s")
        return number * TOKENS

    before = emptied(place, number * TOKENS * WIDTH * 4 * len(SITES))
    return [
        Contender("store", "cache_activations", ours, before),
        Contender("save_file, on disk", "run_with_cache, save_file, fsync", plain, before),
    ]


def peak_memory() -> int:
    """The most bytes this process has held; `getrusage` would give those of the process it was forked from, too."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    if found is None:
        raise SystemExit("the memory part of this benchmark needs Linux: /proc/self/status gives no VmHWM")
    return int(found[1]) * 1024


def memory(case: dict[str, int], parent: Path) -> dict[str, Any]:
    """Peak of a capture, and of the check of what it stored, above a process with all imports, in bytes."""
    load_model("organism", device="cpu")  # its tokenizer, and what the libraries import on first use
    imported = psutil.Process().memory_info().rss
    model = random_model(case["width"], case["layers"])
    loaded = psutil.Process().memory_info().rss
    layers = range(case["layers"])
    sites = [*(f"resid_post.{n}" for n in reversed(layers)), *(f"mlp.{n}" for n in layers)][: case["sites"]]
    done = completions(case["completions"])
    with folder(parent) as place:
        store = capture.cache_activations(model, done, sites=sites, to=place / "s", shard_bytes=case["shard"])
        stored, shards = store.verify().bytes, len(store.sidecar.shards)
    peak = peak_memory()
    weights = sum(parameter.nbytes for parameter in model.plain.module.parameters())
    return {
        **case, "shards": shards, "stored": stored, "model": weights, "imported": imported, "loaded": loaded - imported,
        "peak": peak - imported, "ratio": (peak - imported) / (weights + case["shard"]),
    }  # fmt: skip


def filesystem(path: Path) -> str:
    """Kind of the file system that holds a path, and its device."""
    partitions = psutil.disk_partitions(all=True)
    at = max((p for p in partitions if path.resolve().is_relative_to(p.mountpoint)), key=lambda p: len(p.mountpoint))
    return f"{at.fstype} on {Path(at.device).name}"


def lines(result: dict[str, Any], row: int) -> Iterator[str]:
    """The result in words."""
    for kind in ("writing", "writing_mixed", "end_to_end"):
        for name, found in result[kind].items():
            text = f"{kind}: {name}: {found['rate']['median'] * row / 2**20:.0f} MiB/s"
            if "engine_over_peer" in found:
                ratio = found["engine_over_peer"]
                text += f"; store over it: {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
            yield text
    for each in result["memory"]:
        yield (
            f"memory: {each['stored'] / 2**20:.0f} MiB in {each['shards']} shards, peak {each['peak'] / 2**20:.0f} MiB "
            f"= {each['ratio']:.2f} of model plus shard ({(each['model'] + each['shard']) / 2**20:.0f} MiB)"
        )


def main(arguments: Sequence[str] | None = None) -> str:
    """Measure all three and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--shards", type=int, default=3, help="written per run, of the default size")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs", help="on the disk to measure")
    parser.add_argument("--memory", type=json.loads, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.memory:
        return json.dumps(memory(chosen.memory, chosen.folder))

    def say(text: str) -> None:
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    start = circumstances()
    model = random_model(WIDTH, LAYERS)
    recipe = recipe_of(model)
    with folder(chosen.folder) as place:
        disk = filesystem(place)
        written = take_turns(writing(recipe, place, chosen.shards), chosen.repetitions, say=say)
        whole = take_turns(end_to_end(model, place, 32), 3, say=say)
    del model
    sizes = []
    for case in MEMORY:
        command = [sys.executable, __file__, "--folder", str(chosen.folder), "--memory", json.dumps(case)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        sizes.append(json.loads(done.stdout.splitlines()[-1]))
        say(f"memory: {sizes[-1]['ratio']:.2f}")
    mixed = {"store, mixed": written["store, mixed"], "save_file, on disk": written["save_file, on disk"]}
    result = {
        "benchmark": "store",
        "unit": f"tokens, {recipe.row_bytes} bytes each",
        "file_system": disk,
        "shard_bytes": SHARD,
        "shards": chosen.shards,
        "writing": summary({name: runs for name, runs in written.items() if name != "store, mixed"}, "store"),
        "writing_mixed": summary(mixed, "store, mixed"),
        "end_to_end": summary(whole, "store"),
        "end_to_end_shard_bytes": SMALL,
        "memory": sizes,
        "memory_is": "peak resident bytes above the process with all libraries imported, over weights plus one shard",
        **start,
    }
    write_json(result, ROOT / "data" / "benchmarks" / "store.json")
    return "\n".join(lines(result, recipe.row_bytes))


if __name__ == "__main__":
    print(main())  # noqa: T201
