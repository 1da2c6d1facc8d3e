"""How fast is an activation store written, and in how much memory, beside `safetensors.torch.save_file`?

Run: python benchmarks/store.py [--repetitions 7] [--mib 256]

Three questions. Writing: the store's writer against `save_file` of the same tensors to the same disk, the model's
forward excluded; both end when the bytes are on the disk (`fsync`), and the writer's time holds its checksums, index
and journal. End to end: a capture with the model, against the same forward passes and `save_file` of what they gave.
Memory: the peak of a capture above the process with all imports, in a process of its own, against model plus one shard.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers as hf
from harness import ROOT, Contender, circumstances, summary, take_turns, write_json
from safetensors.torch import save_file

from backtracking.core.completions import Completion
from backtracking.core.sites import Site
from backtracking.model.activations import capture
from backtracking.model.activations.index import index_table
from backtracking.model.activations.positions import Missing, read_positions
from backtracking.model.activations.sidecar import Recipe
from backtracking.model.activations.shard_writer import Rows
from backtracking.model.activations.writer import StoreWriter
from backtracking.model.loading import load_model
from backtracking.model.reasoner import HookedReasoner

SITES = ("resid_post.3", "resid_post.7")
TOKENS, WIDTH, SHARD = 256, 512, 2**26


def wide_model() -> HookedReasoner:
    """A random model of about 120 MiB whose activations are as wide as those of a small real one."""
    torch.manual_seed(0)
    tokenizer = load_model("organism", device="cpu").tokenizer
    config = hf.Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=1024,
    )  # fmt: skip
    return HookedReasoner.from_hf(hf.Qwen2ForCausalLM(config), tokenizer, name="wide")


def completions(number: int) -> list[Completion]:
    """Completions of random tokens, all of one length: the content does not matter here."""
    ids = torch.randint(5, 300, (number, TOKENS), generator=torch.manual_seed(1)).tolist()
    return [
        Completion(
            index, 0, "baseline_think_newline", "baseline", tuple(row[:32]), tuple(row[32:]), "", (0,) * (TOKENS - 32),
            "length",
        )
        for index, row in enumerate(ids)
    ]  # fmt: skip


@contextmanager
def folder() -> Iterator[Path]:
    """An empty folder on the disk of the repository, removed afterwards."""
    (ROOT / "runs").mkdir(exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix=".store-", dir=ROOT / "runs"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def on_disk(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def recipe_of(model: HookedReasoner) -> Recipe:
    """What the writer has to know."""
    return Recipe(
        made="teacher-forced", **capture.describe(model, tuple(map(Site.parse, SITES)), None), dataset="bench",
        positions="all", interventions={}, note="", source={}, shard_bytes=SHARD, batch="",
    )  # fmt: skip


def writing(model: HookedReasoner, mib: int) -> list[Contender]:
    """The same tensors through the writer, and through `save_file` in files of the same size."""
    recipe = recipe_of(model)
    done = completions(mib * 2**20 // (TOKENS * recipe.row_bytes))
    per_shard = SHARD // (TOKENS * recipe.row_bytes)
    tensor = {site: torch.randn(per_shard * TOKENS, WIDTH) for site in SITES}
    choice = read_positions("all", completions=len(done))
    chosen = [choice.of(each, number, onsets=(), run=TOKENS) for number, each in enumerate(done)]
    starts = range(0, len(done), per_shard)

    def ours() -> int:
        with folder() as path, StoreWriter(path / "s", recipe, completions=len(done)) as writer:
            for start in starts:
                part = range(start, min(start + per_shard, len(done)))
                shard = writer.shard(index_table([(n, done[n], chosen[n]) for n in part]), Missing())
                for place in range(len(part)):
                    rows = slice(place * TOKENS, (place + 1) * TOKENS)
                    shard.put([Rows(site, rows.start, tensor[site][rows]) for site in SITES])
                shard.close()
            writer.finish()
        return len(done) * TOKENS

    def plain(sync: bool) -> int:
        with folder() as path:
            for number, start in enumerate(starts):
                count = min(per_shard, len(done) - start) * TOKENS
                for site in SITES:
                    name = path / f"{site}_{number}.safetensors"
                    save_file({site: tensor[site][:count]}, name)
                    if sync:
                        on_disk(name)
        return len(done) * TOKENS

    return [
        Contender("store", "rows with checksums, index, journal and fsync", ours),
        Contender("save_file, on disk", "files of the same size, each with fsync", lambda: plain(True)),
        Contender("save_file", "files of the same size, left to the page cache", lambda: plain(False)),
    ]


def end_to_end(model: HookedReasoner, number: int) -> list[Contender]:
    """A capture, and the same forward passes with `save_file`."""
    done = completions(number)
    names = [Site.parse(site).hook_name for site in SITES]

    def ours() -> int:
        with folder() as path:
            store = capture.cache_activations(model, done, sites=SITES, to=path / "s", shard_bytes=SHARD, batch=16)
            return len(store)

    def plain() -> int:
        with folder() as path:
            held: list[dict[str, torch.Tensor]] = []
            for start in range(0, number, 16):
                ids = [each.prompt_ids + each.ids for each in done[start : start + 16]]
                held.append(dict(model.run_with_cache(ids, names_filter=names, stop_at_layer=None)[1]))
                if sum(part[name].nbytes for part in held for name in names) >= SHARD or start + 16 >= number:
                    for name in names:
                        save_file({name: torch.cat([part[name] for part in held])}, path / f"{name}_{start}")
                        on_disk(path / f"{name}_{start}")
                    held = []
        return number * TOKENS

    return [
        Contender("store", "cache_activations", ours),
        Contender("save_file, on disk", "run_with_cache and save_file", plain),
    ]


def memory(number: int, shard: int) -> dict[str, Any]:
    """Peak of a capture above a process with all imports, in bytes."""
    before = psutil.Process().memory_info().rss
    model = wide_model()
    done = completions(number)
    loaded = psutil.Process().memory_info().rss
    with folder() as path:
        store = capture.cache_activations(model, done, sites=SITES, to=path / "s", shard_bytes=shard)
        stored = store.verify().bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    weights = sum(parameter.nbytes for parameter in model.plain.module.parameters())
    limit = weights + shard
    return {
        "stored": stored, "model": weights, "shard": shard, "loaded": loaded - before, "peak": peak - before,
        "ratio": (peak - before) / limit,
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> str:
    """Measure all three and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--mib", type=int, default=256, help="written per run")
    parser.add_argument("--memory", type=int, nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.memory:
        return json.dumps(memory(*chosen.memory))
    model = wide_model()

    def say(text: str) -> None:
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    written = take_turns(writing(model, chosen.mib), chosen.repetitions, say=say)
    whole = take_turns(end_to_end(model, 64), max(2, chosen.repetitions // 2), say=say)
    sizes = []
    for number, shard in ((80, 2**24), (160, 2**24), (160, 2**26)):
        command = [sys.executable, str(Path(__file__)), "--memory", str(number), str(shard)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        sizes.append(json.loads(done.stdout.splitlines()[-1]))
    row = recipe_of(model).row_bytes
    result = {
        "benchmark": "store",
        "unit": f"tokens, {row} bytes each",
        "shard_bytes": SHARD,
        "writing": summary(written, "store"),
        "end_to_end": summary(whole, "store"),
        "memory": sizes,
        **circumstances(),
    }
    write_json(result, ROOT / "data" / "benchmarks" / "store.json")
    lines = [
        f"{kind}: {result[kind]['store']['rate']['median'] * row / 2**20:.0f} MiB/s; of {peer}: "
        f"{found['engine_over_peer']['median']:.2f} ({found['engine_over_peer']['min']:.2f} to "
        f"{found['engine_over_peer']['max']:.2f})"
        for kind in ("writing", "end_to_end")
        for peer, found in result[kind].items()
        if peer != "store"
    ]
    lines += [
        f"memory: {each['stored'] / 2**20:.0f} MiB stored, peak {each['peak'] / 2**20:.0f} MiB = {each['ratio']:.2f} "
        f"of model plus shard ({(each['model'] + each['shard']) / 2**20:.0f} MiB)"
        for each in sizes
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(main())  # noqa: T201
