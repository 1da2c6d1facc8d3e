"""What several threads gain or cost a small model: a unit of the organism with PyTorch's threads, and with one.

Run: python benchmarks/threads.py [--busy 0 1] [--repetitions 5]

Sixteen rows of the organism are decoded together, too few for processes of their own; in turn as `run_unit` does, which
holds PyTorch to one thread (`backtracking.model.threads`), and without that. Beside them so many processes keep a core
busy each. Writes data/benchmarks/threads.json.
"""

import argparse
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from harness import ROOT, Contender, circumstances, summary, take_turns, write_json
from rich.console import Console

from backtracking.model.loading import load_model
from backtracking.model.organism.problems import organism_problems
from backtracking.model.sampling import packed_engine, sample

OURS, THEIRS = "one thread", "PyTorch's threads"


def main() -> None:
    """Time both, beside each number of busy processes, and write the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--repetitions", type=int, default=5)
    asked, console = parser.parse_args(), Console()
    model, problems = load_model("organism", device="cpu"), organism_problems(8, seed=3)
    held = packed_engine.threads_for

    def work(threads: Callable[..., Any]) -> Callable[[], int]:
        def run() -> int:
            packed_engine.threads_for = threads
            done = sample(model, problems, samples=2, max_new_tokens=60, temperature=0.7, seed=0, rows=16)
            return sum(len(completion.ids) for completion in done)

        return run

    ways = {OURS: held, THEIRS: lambda *_: nullcontext()}
    contenders = [Contender(name, "16 rows, all of the work", work(way)) for name, way in ways.items()]
    for contender in contenders:
        contender.run()  # compiled and warm
    result: dict[str, Any] = {"benchmark": "threads", "model": "organism", "beside": {}, **circumstances()}
    for count in asked.busy:
        with _busy(count):
            timings = take_turns(contenders, asked.repetitions, say=console.print)
        result["beside"][str(count)] = summary(timings, OURS)
        ratio = result["beside"][str(count)][THEIRS]["engine_over_peer"]
        ends = f"{ratio['median']:.2f} [{ratio['min']:.2f}, {ratio['max']:.2f}]"
        console.print(f"beside {count} busy: one thread is {ends} times as quick", markup=False)
    write_json(result, ROOT / "data" / "benchmarks" / "threads.json")


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """So many processes that do nothing but keep a core busy."""
    started = [multiprocessing.get_context("spawn").Process(target=_spin, daemon=True) for _ in range(count)]
    for process in started:
        process.start()
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.join()


def _spin() -> None:
    while True:
        pass


if __name__ == "__main__":
    main()
