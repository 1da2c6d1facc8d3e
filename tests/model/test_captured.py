"""A captured pass: replayed on the same memory, it gives what the pass gives operation by operation.

Here a pass is captured as a CUDA graph captures it: a list of operations on places in memory, repeated without Python.
"""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.utils import import_utils

from backtracking.core.errors import InputError
from backtracking.core.interventions import At, Condition, Scale
from backtracking.core.problems import Problem
from backtracking.core.prompts import VARIANTS, Prompting
from backtracking.core.settings import Settings
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling import blocks, choice, norms, parts, passes, replaced, sample, shorter, stages, turning
from backtracking.model.sampling.captured import CudaGraphs
from backtracking.model.sampling.packed_engine import run_unit
from backtracking.model.sampling.plan import plan_rows
from tests.model.test_packed_engine import every_kind, same
from tests.tiny import LETTERS, tiny_hf, tiny_tokenizer

WAITS_FOR_THE_DEVICE = {
    f"aten::{name}"
    for name in (
        "_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", "nonzero", "lift_fresh", "bincount",
        "masked_select", "repeat_interleave", "_unique2", "unique_dim", "unique_consecutive",
    )
}  # fmt: skip
"""Operations whose result Python sees, or whose numbers come from Python: under a CUDA graph they are errors."""
PROBLEMS = [Problem(i, " ".join(LETTERS.split()[i : i + 3 + i]), "1") for i in range(4)]


class Recorded(TorchDispatchMode):
    """The operations of a pass, with the memory they read and write."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation._schema.name
        assert name not in WAITS_FOR_THE_DEVICE and (name, len(args)) != ("aten::where", 1), operation
        found = operation(*args, **(kwargs or {}))
        self.operations.append((operation, args, kwargs or {}, found))
        return found

    def replay(self):
        for operation, args, kwargs, found in self.operations:
            again = operation(*args, **kwargs)
            for old, new in zip(tree_leaves(found), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Recorder:
    """Captures passes so; counts them and their replays."""

    def __init__(self):
        self.captured, self.replayed = 0, 0

    def __call__(self, run):
        record = Recorded()
        with record:
            found = run()  # unlike a graph, this runs while it is recorded, so the first replay is done
        self.captured += 1
        done = [True]

        def replay():
            self.replayed += 1
            if not done:
                record.replay()
            done.clear()
            return found

        return replay


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch):
    """Nothing is done in loops compiled for the CPU, which no graph holds, and transformers sees a stream captured."""
    monkeypatch.setattr(import_utils, "is_cuda_stream_capturing", lambda: True)
    for module in (passes, blocks, choice, norms, parts, replaced, shorter, stages, turning):
        monkeypatch.setattr(module, "serves", lambda tensor, *kinds: False)


def tiny_model(family):
    return HookedReasoner.from_hf(tiny_hf(family), tiny_tokenizer(), name=f"tiny-{family}")


def settled(model):
    """Conditions under which nothing but tokens and positions changes from step to step."""
    return tuple(
        condition
        for condition in every_kind(model)
        if not any(isinstance(getattr(each, "scope", None), At) for each in condition.interventions)
    )


def rows_of(model, conditions, settings):
    return plan_rows(
        model,
        PROBLEMS,
        conditions=conditions,
        samples=2,
        variant=VARIANTS[0].name,
        settings=settings,
        prompting=Prompting(),
    )


@pytest.mark.parametrize(("family", "seats"), [("llama", 6), ("gemma2", None), ("mistral", None), ("gpt2", None)])
def test_it_samples_what_the_passes_sample_one_by_one(family, seats):
    model = tiny_model(family)
    conditions = settled(model)
    assert len(conditions) >= 7
    settings = Settings(max_new_tokens=40, temperature=1.2, seed=5)
    rows, recorder = rows_of(model, conditions, settings), Recorder()
    captured = run_unit(model, rows, settings, seats=seats, capture=recorder)
    same(captured, run_unit(model, rows, settings, seats=seats))
    assert recorder.replayed > recorder.captured > 0
    assert any(row.finish_reason == "stop" for row in captured)


def test_where_an_intervention_acts_at_positions_nothing_is_captured():
    model = tiny_model("llama")
    settings = Settings(max_new_tokens=20, temperature=1.0)
    rows, recorder = rows_of(model, (Condition("at", [Scale("mlp.1", 0.0, At([9, 12]))]),), settings), Recorder()
    same(run_unit(model, rows, settings, capture=recorder), run_unit(model, rows, settings))
    assert recorder.captured == 0


def test_without_a_gpu_it_is_refused(tiny):
    with pytest.raises(InputError, match='"graphed" captures CUDA graphs, and the model is on cpu; use "packed"'):
        sample(tiny, PROBLEMS, max_new_tokens=3, engine="graphed")


@pytest.mark.parametrize("broken", [False, True])
def test_a_graph_is_captured_on_a_stream_of_the_models_device_and_a_failure_names_the_remedy(monkeypatch, broken):
    """Against an imitation of torch's interface: what a GPU does is tested on one."""
    entered, replayed = [], []
    graph = SimpleNamespace(replay=lambda: replayed.append(1))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)

    @contextmanager
    def within(*given, **named):
        entered.append((*given, *named.values()))
        yield

    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "graph", within)

    def run():
        if broken:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        return torch.ones(1)

    capture = CudaGraphs(torch.device("cuda:1"))
    if broken:
        with pytest.raises(InputError, match=r"\(operation not permitted when stream is capturing\).*\"packed\""):
            capture(run)
        return
    replay = capture(run)
    assert entered == [("stream of cuda:1",), (graph, "stream of cuda:1")]
    assert replayed == []
    assert replay() is replay()
    assert len(replayed) == 2


@pytest.mark.gpu
def test_on_a_gpu_graphs_sample_what_single_operations_sample():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    model = HookedReasoner.from_hf(tiny_hf("llama").cuda(), tiny_tokenizer(), name="tiny")
    options = {"conditions": settled(model), "samples": 4, "max_new_tokens": 60, "temperature": 1.0}
    same(sample(model, PROBLEMS, **options, engine="graphed"), sample(model, PROBLEMS, **options))
