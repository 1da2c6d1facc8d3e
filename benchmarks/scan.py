"""Ablation scan: which component, zeroed where the onset is predicted, moves the onset token's log-probability.

Run: python benchmarks/scan.py --model organism|smollm2 [--dtype float32|bfloat16] [--repetitions 3] [--quick]

A cell is one event and one component (attention or MLP of a layer): the component's output is zeroed at the prediction
position only, `At([pred_pos])`, and the change of the onset token's log-probability is read there. The peer is the
published method: for each cell one full forward pass over the sequence up to the prediction position, with a plain
PyTorch hook on the Hugging Face module. A second peer differs only in not unembedding the positions nobody reads.
Peers do the first few events, the engine all of them; compared are cells per second. Before it is timed, everyone's
cells must equal those of `HookedReasoner.intervening` on some components, in float32 (`TOLERANCE`).

The embedded model's events are its own onsets. SmolLM2 writes too few, so there the middle token of each completion
stands for the onset: what is measured is time, and that does not depend on which token it is.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from cases import Case, find_cases
from harness import ROOT, Contender, circumstances, summary, take_turns, write_json
from peers import plain_copy
from table import scan_table
from torch import Tensor
from transformers import PreTrainedModel

from backtracking.core.errors import InputError
from backtracking.core.interventions import At, Scale
from backtracking.core.sites import Site
from backtracking.measures.ablation_scan import ablation_scan
from backtracking.measures.decision_points import decision_points
from backtracking.model.loading import load_model
from backtracking.model.reasoner import HookedReasoner

ENGINE = "backtracking.ablation_scan"
TOLERANCE = 1e-3
"""Largest difference in log-probability at which two ways of computing a cell agree, in nats."""
VERIFY_COMPONENTS = 6
COMPONENTS = ("attn", "mlp")


Scan = Callable[[Sequence[Case]], Tensor]
"""From cases to the change of log-probability, shape (event, layer, component), components as in `COMPONENTS`."""


def engine_scan(model: HookedReasoner) -> Scan:
    """The engine's side: one packed step for all components of an event."""

    def scan(cases: Sequence[Case]) -> Tensor:
        points = decision_points([case.completion for case in cases], [case.event for case in cases], per_event=0)
        found = ablation_scan(model, points, trigger_ids=sorted({case.onset for case in cases}))
        return torch.from_numpy(found.log_prob).unflatten(1, (-1, 2))

    return scan


def published_scan(module: PreTrainedModel, *, last_logit_only: bool = False) -> Scan:
    """The published method, and with `last_logit_only` its cheaper form."""
    options = {"logits_to_keep": 1} if last_logit_only else {}

    def logprob(case: Case) -> float:
        logits: Tensor = module(torch.tensor([case.ids]), use_cache=False, **options).logits[0, -1]
        return float(logits.float().log_softmax(-1)[case.onset])

    def cell(case: Case, layer: int, component: str) -> float:
        with _zeroed_last(module, layer, component):
            return logprob(case)

    def scan(cases: Sequence[Case]) -> Tensor:
        changes = []
        with torch.inference_mode():
            for case in cases:
                base = logprob(case)
                changes.append(
                    [
                        [cell(case, layer, component) - base for component in COMPONENTS]
                        for layer in range(module.config.num_hidden_layers)
                    ]
                )
        return torch.tensor(changes)

    return scan


@contextmanager
def _zeroed_last(module: PreTrainedModel, layer: int, component: str) -> Any:
    def hook(_module: Any, _inputs: Any, output: Any) -> None:
        (output[0] if isinstance(output, tuple) else output)[:, -1] = 0

    block = module.model.layers[layer]  # pyright: ignore
    handle = (block.self_attn if component == "attn" else block.mlp).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def main(arguments: Sequence[str] | None = None) -> str:
    """Time engine and peers, write the JSON, and return its table."""
    asked = _parse(arguments)
    if asked.threads:
        torch.set_num_threads(asked.threads)
    model = load_model(asked.model, device="cpu", dtype=asked.dtype)
    engine = None if asked.without_engine else engine_scan(model)
    cases, source = find_cases(model, asked.model, asked.events)
    module = plain_copy(model)
    slices: dict[str, tuple[Scan, Sequence[Case]]] = {
        "full forward per cell (published)": (published_scan(module), cases[: asked.peer_events]),
        "full forward per cell, last logit": (published_scan(module, last_logit_only=True), cases[: asked.peer_events]),
    }
    if engine is not None:
        slices[ENGINE] = (engine, cases)
    result: dict[str, Any] = {
        "benchmark": "scan",
        "model": asked.model,
        "dtype": asked.dtype,
        "quick": asked.quick,
        "work": {
            "events": len(cases),
            "source": source,
            "components": 2 * model.cfg.n_layers,
            "tokens_per_event": [len(case.ids) for case in cases],
        },
        **circumstances(),
        "verified": {},
        "skipped": {} if engine is not None else {ENGINE: "not timed: --without-engine"},
        "slices": {},
    }
    contenders = []
    for name, (scan, part) in slices.items():
        difference, change = _difference(scan, model, part[0])
        result["verified"][name] = {"largest_difference": difference, "largest_change": change}
        if difference > TOLERANCE and asked.dtype == "float32":
            result["skipped"][name] = f"not timed: a cell differs by {difference:.3g} nats"
            continue
        result["slices"][name] = f"{len(part)} of {len(cases)} events, all components"
        contenders.append(Contender(name, result["slices"][name], lambda scan=scan, part=part: scan(part).numel()))
    result["results"] = summary(take_turns(contenders, asked.repetitions, say=_say), ENGINE)
    result["machine"]["load_after"] = os.getloadavg()
    write_json(result, asked.out)
    return scan_table(result)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=("organism", "smollm2"), required=True)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repetitions", type=int, help="3, or 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="2 events: does it work?")
    parser.add_argument("--events", type=int, help="64 for the organism, 16 for smollm2, 2 with --quick")
    parser.add_argument("--peer-events", type=int, help="events that the peers do; 8, 2 or 1")
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice if not given")
    parser.add_argument("--without-engine", action="store_true", help="time the peers alone")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(arguments)
    organism = asked.model == "organism"
    asked.repetitions = asked.repetitions or (1 if asked.quick else 3)
    asked.events = asked.events or (2 if asked.quick else 64 if organism else 16)
    asked.peer_events = asked.peer_events or (1 if asked.quick else 8 if organism else 2)
    quick = "_quick" if asked.quick else ""
    asked.out = asked.out or ROOT / "data" / "benchmarks" / f"scan_{asked.model}_{asked.dtype}{quick}.json"
    return asked


def _difference(scan: Scan, model: HookedReasoner, case: Case) -> tuple[float, float]:
    """On some components: largest difference from the cells of `HookedReasoner.intervening`, and their largest."""
    layers = model.cfg.n_layers
    chosen = {(layers * step // VERIFY_COMPONENTS, COMPONENTS[step % 2]) for step in range(VERIFY_COMPONENTS)}
    cells, base = scan([case])[0], _logprob(model, case)
    differences, changes = [], []
    for layer, component in sorted(chosen):
        zero = Scale(Site(component, layer), 0.0, At([len(case.ids) - 1]))  # pyright: ignore
        with model.intervening([zero]):
            expected = _logprob(model, case) - base
        changes.append(abs(expected))
        differences.append(abs(float(cells[layer, COMPONENTS.index(component)]) - expected))
    return max(differences), max(changes)


def _logprob(model: HookedReasoner, case: Case) -> float:
    return float(model.logits(case.ids)[0, -1].float().log_softmax(-1)[case.onset])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    try:
        print(main())  # noqa: T201
    except InputError as error:
        sys.exit(str(error))
