"""Is the memory of a packed batch what its plan said? Peak memory against `plan_memory`, in a fresh process.

Run: python benchmarks/memory.py

Measured is the proportional set size (a page that k processes share counts 1/k in each) of the process and of those
that it forks, every 20 ms. The model is random, has no stop token, and is wide in its cache: every row runs to the
limit and the cache is most of what is needed: the hardest case for a plan.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers as hf
from harness import ROOT, circumstances, write_json

from backtracking.core.problems import Problem
from backtracking.core.settings import Settings
from backtracking.model.loading import load_model
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling.plan import plan_rows, units
from backtracking.model.sampling.sampler import memory_for, sample_units
from backtracking.model.sampling.shares import shares_for

ROWS, NEW = (128, 384), 256
PAUSE = 0.02


def peak_during(work: Callable[[], object]) -> int:
    """The most bytes that this process and its children held at once while working."""
    peaks, over = [held()], threading.Event()

    def watch() -> None:
        while not over.wait(PAUSE):
            peaks.append(held())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        over.set()
        watcher.join()
    return max(peaks)


def held() -> int:
    """Proportional set size of this process and its children, in bytes."""
    here, total = psutil.Process(), 0
    for each in (here, *here.children()):
        try:
            total += each.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total


def measure(rows: int) -> dict[str, Any]:
    """Sample one batch and compare the growth of the process with the plan, in bytes."""
    torch.manual_seed(0)
    tokenizer = load_model("organism", device="cpu").tokenizer
    config = hf.Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=512, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=1024, eos_token_id=None,
    )  # fmt: skip
    model = HookedReasoner.from_hf(hf.Qwen2ForCausalLM(config), tokenizer, name="wide")
    model.module.generation_config.eos_token_id = []  # pyright: ignore
    settings = Settings(NEW, 1.0, 1.0, 0)
    problems = [Problem(index, f"{index} + {index}", "1") for index in range(rows // 8)]
    from backtracking.core.interventions import BASELINE
    from backtracking.core.prompts import VARIANTS, Prompting

    plan = plan_rows(
        model, problems, conditions=(BASELINE,), samples=8, variant=VARIANTS[0].name, settings=settings,
        prompting=Prompting(),
    )  # fmt: skip
    small = Settings(2, 1.0, 1.0, 0)
    list(sample_units(model, [plan[:8]], small))
    memory = memory_for(model, plan, settings, rows=rows)
    shares = shares_for(model, settings, seats=memory.rows)
    before, cut = held(), units(plan, rows)
    used = peak_during(lambda: list(sample_units(model, cut, settings, seats=memory.rows, shares=shares))) - before
    return {"rows": rows, "shares": shares, "planned": memory.total, "measured": used, "ratio": used / memory.total}


def main() -> str:
    """Measure each size in a process of its own, and write the JSON."""
    found = []
    for rows in ROWS:
        command = [sys.executable, str(Path(__file__)), str(rows)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    write_json({"benchmark": "memory", "sizes": found, **circumstances()}, ROOT / "data" / "benchmarks" / "memory.json")
    return "\n".join(
        f"{each['rows']} rows: planned {each['planned'] / 2**20:.0f} MiB, measured {each['measured'] / 2**20:.0f} MiB "
        f"({each['ratio']:.2f} of the plan)"
        for each in found
    )


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))) if len(sys.argv) > 1 else main())  # noqa: T201
