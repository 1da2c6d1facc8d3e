"""Sampling under interventions: this library's engine against its peers, on the same work in the same run.

Run: python benchmarks/sampling.py --model organism|smollm2 [--dtype float32|bfloat16] [--repetitions 3] [--quick]

The work is 6 conditions (baseline and five ablations or scalings while decoding) x 16 prompts x 4 samples. The engine
does all of it; a peer, which would take too long, does a slice of the same work, the same slice in each repetition.
Compared are useful tokens per second: those up to and including a row's stop token. Before a peer is timed, its
greedy tokens under every condition must equal the engine's, in float32; a peer that fails is not timed, and the result
says so. Run it on a machine that does nothing else: PyTorch's threads wait for each other by spinning, and where
another process holds a core, everything can be many times slower; `other_cores` in the result tells.
"""

import argparse
import copy
import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from harness import ROOT, Contender, circumstances, summary, take_turns, write_json
from limits import Machine, limits
from peers import BridgeGenerate, HuggingFaceGenerate, NnsightGenerate, Peer, nnsight_installed, plain_copy
from table import sampling_table
from transformers import PreTrainedModel
from work import Work, work_on

from backtracking.core.completions import Completion
from backtracking.core.interventions import Condition, Scale
from backtracking.model.loading import load_model
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling import loops, sample

ENGINE = "backtracking.sample"
PEERS = ("bridge", "huggingface-1", "huggingface-32", "nnsight")
VERIFY_PROMPTS, VERIFY_TOKENS = 2, 12
STRONG = -4.0


def main(arguments: Sequence[str] | None = None) -> str:
    """Time engine and peers, write the JSON, and return its table."""
    asked = _parse(arguments)
    if asked.threads:
        torch.set_num_threads(asked.threads)
    model = load_model(asked.model, device="cpu", dtype=asked.dtype)
    work = work_on(asked.model, quick=asked.quick, new=asked.new_tokens)
    options: dict[str, Any] = {"rows": asked.rows, **({"engine": asked.engine} if asked.engine else {})}
    result: dict[str, Any] = {
        "benchmark": "sampling",
        "model": asked.model,
        "dtype": asked.dtype,
        "quick": asked.quick,
        "work": work.described(),
        "engine": {"engine": asked.engine or _default_engine(), "rows": asked.rows or "the default"},
        **circumstances(),
    }
    module = plain_copy(model)
    peers, result["skipped"] = _peers(model, module, asked.peers)
    verified = _with_strong(work.conditions)
    greedy = _greedy(model, work, verified, options)
    result["moved_by_conditions"] = _moved(greedy, work)
    contenders = []
    last: list[Completion] = []
    result["verified"] = {}
    for peer in peers:
        share = _agreement(peer, model, work, verified, greedy)
        result["verified"][peer.name] = share
        if share < 1 and asked.dtype == "float32":
            result["skipped"][peer.name] = f"not timed: only {share:.0%} of its greedy tokens equal the engine's"
        else:
            contenders.append(_contender(peer, model, work))

    def run_engine() -> int:
        last[:] = sample(
            model,
            work.problems,
            conditions=work.conditions,
            samples=work.samples,
            max_new_tokens=work.new,
            seed=work.seed,
            **work.sampling,
            **options,
        )
        return sum(len(completion.ids) for completion in last)

    machines: list[Machine] = []

    def measure() -> None:
        machines.append(Machine.now(module, work.rows))

    contenders.append(Contender(ENGINE, f"all {work.rows} completions", run_engine, before=measure))
    loops.prepare(model.dtype)  # the first use on a machine compiles loops, once and for all
    timings = take_turns(contenders, asked.repetitions, say=_say)
    result["slices"] = {contender.name: contender.does for contender in contenders}
    result["results"] = summary(timings, ENGINE)
    result["limit"] = limits(module, last, machines, [timing.seconds for timing in timings[ENGINE]])
    result["machine"]["load_after"] = os.getloadavg()
    write_json(result, asked.out)
    return sampling_table(result)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=("organism", "smollm2"), required=True)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repetitions", type=int, help="3, or 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="2 conditions x 4 prompts x 2 samples: does it work?")
    parser.add_argument("--new-tokens", type=int, help="160 for the organism, 64 for smollm2, 16 with --quick")
    parser.add_argument("--rows", type=int, help="rows that the engine decodes together; its default if not given")
    parser.add_argument("--engine", help="packed or bridge; the library's default if not given")
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice if not given")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(arguments)
    asked.repetitions = asked.repetitions or (1 if asked.quick else 3)
    quick = "_quick" if asked.quick else ""
    asked.out = asked.out or ROOT / "data" / "benchmarks" / f"sampling_{asked.model}_{asked.dtype}{quick}.json"
    return asked


def _default_engine() -> str:
    engine = inspect.signature(sample).parameters.get("engine")
    return "bridge (the only one)" if engine is None else f"{engine.default} (the default)"


def _peers(model: HookedReasoner, module: PreTrainedModel, wanted: Sequence[str]) -> tuple[list[Peer], dict[str, str]]:
    found: list[Peer] = []
    skipped: dict[str, str] = {}
    if "bridge" in wanted:
        found.append(BridgeGenerate(model, 32))
    batches = [int(name.removeprefix("huggingface-")) for name in wanted if name.startswith("huggingface-")]
    found += [HuggingFaceGenerate(model, module, batch) for batch in batches]
    if "nnsight" in wanted and nnsight_installed():
        found.append(NnsightGenerate(model, copy.deepcopy(module), 32))
    elif "nnsight" in wanted:
        skipped["nnsight generate"] = "not installed"
    return found, skipped


def _contender(peer: Peer, model: HookedReasoner, work: Work) -> Contender:
    prompts = [model.to_ids(problem) for problem in work.problems]
    parts = work.slice(prompts, 2 if peer.batch == 1 else peer.batch)

    def run() -> int:
        torch.manual_seed(work.seed)
        found = [
            peer(part, condition, new=work.new, **work.sampling)
            for part, condition in zip(parts, work.conditions, strict=True)
        ]
        return sum(len(row) for rows in found for row in rows)

    rows = len(parts[0])
    return Contender(peer.name, f"{rows} of the {work.rows // len(parts)} completions of each condition", run)


def _greedy(
    model: HookedReasoner, work: Work, conditions: Sequence[Condition], options: dict[str, Any]
) -> dict[tuple[str, Any], tuple[int, ...]]:
    made = sample(
        model,
        work.problems[:VERIFY_PROMPTS],
        conditions=conditions,
        max_new_tokens=VERIFY_TOKENS,
        temperature=0.0,
        **options,
    )
    return {(completion.condition, completion.problem_id): completion.ids for completion in made}


def _with_strong(conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    """The conditions, and each with its sites scaled by `STRONG`, since an ablation may move no greedy token."""
    strong = [
        Condition(
            f"{each.name}, strong", [Scale(i.site, STRONG, i.scope) for i in each.interventions if isinstance(i, Scale)]
        )
        for each in conditions
        if each.interventions
    ]
    return (*conditions, *strong)


def _moved(greedy: dict[tuple[str, Any], tuple[int, ...]], work: Work) -> dict[str, bool]:
    """For each condition whether its greedy tokens differ from the baseline's: whether verifying can fail."""
    base = work.conditions[0].name
    return {
        name: any(greedy[name, p.id] != greedy[base, p.id] for p in work.problems[:VERIFY_PROMPTS])
        for name in dict.fromkeys(name for name, _ in greedy)
        if name != base
    }


def _agreement(
    peer: Peer,
    model: HookedReasoner,
    work: Work,
    conditions: Sequence[Condition],
    greedy: dict[tuple[str, Any], tuple[int, ...]],
) -> float:
    """Share of the engine's greedy tokens that the peer has at the same place."""
    problems = work.problems[:VERIFY_PROMPTS]
    prompts = [model.to_ids(problem) for problem in problems]
    same = total = 0
    for condition in conditions:
        made = peer(prompts, condition, new=VERIFY_TOKENS, temperature=0.0)
        for problem, theirs in zip(problems, made, strict=True):
            mine = greedy[condition.name, problem.id]
            same += sum(a == b for a, b in zip(mine, theirs, strict=False))
            total += max(len(mine), len(theirs))
    return same / total


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    print(main())  # noqa: T201
