"""Laws of threads: what several of them sample or score at once is what they do one after another."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event

import pytest
import torch
from torch import nn

from backtracking.core.errors import InputError
from backtracking.core.interventions import BASELINE, Condition
from backtracking.model.sampling import sample
from backtracking.model.sampling.alone import alone
from backtracking.model.sampling.scoring import next_logits
from backtracking.model.sampling.shares import LEAST_ROWS
from backtracking.model.threads import KEPT, threads_for
from tests.tiny import tiny_tokenizer

ROOT = Path(__file__).parents[2]
ARMS = [BASELINE, Condition("off", ["mlp.1*0"]), Condition("steer", ["resid_post.0+6*random(3)"])]


def at_once(jobs):
    """What each job gives, all of them begun together in threads of their own."""
    ready = Barrier(len(jobs))

    def run(job):
        ready.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as threads:
        return list(threads.map(run, jobs))


@pytest.fixture(autouse=True)
def _many_turns():
    """Threads take turns often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("engine", ["packed", "bridge"])
def test_threads_that_sample_under_different_conditions(engine, tiny, problems):
    def job(arm):
        options = {"conditions": [arm], "samples": 2, "max_new_tokens": 24, "temperature": 1.0, "engine": engine}
        return lambda: sample(tiny, problems, **options)

    jobs = [job(arm) for arm in ARMS]
    expected = [job() for job in jobs]
    assert len({tuple(c.ids for c in each) for each in expected}) == len(ARMS)
    for _ in range(3):
        for found, wanted in zip(at_once(jobs), expected, strict=True):
            assert [c.ids for c in found] == [c.ids for c in wanted]
            assert [c.receipts for c in found] == [c.receipts for c in wanted]


def test_threads_that_score_and_sample(tiny, problems):
    contexts = [tiny_tokenizer().encode(problem.question) for problem in problems]
    contexts = [ids for ids in contexts if len(ids) > 1]

    def score():
        return torch.stack(
            [logits for _, logits in sorted(next_logits(tiny, contexts, ARMS), key=lambda each: each[0])]
        )

    def draw():
        return [c.ids for c in sample(tiny, problems, conditions=ARMS[2:], max_new_tokens=16, temperature=1.0)]

    logits, tokens = score(), draw()
    for _ in range(3):
        scored, drawn, again = at_once([score, draw, score])
        assert torch.equal(scored, logits)
        assert torch.equal(again, logits)
        assert drawn == tokens


FORKING = f"""
import sys, torch
from backtracking.core.interventions import BASELINE, Condition
from backtracking.core.problems import Problem
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling import sample, shares
from tests.model.test_threads import at_once
from tests.tiny import tiny_hf, tiny_tokenizer

started, start = [], shares._start
shares._start = lambda *given: (started.append(1), start(*given))
torch.set_num_threads(1)
torch.get_num_threads = lambda: 2
sys.setswitchinterval(1e-5)
model = HookedReasoner.from_hf(tiny_hf("qwen2"), tiny_tokenizer(), name="tiny")
problems = [Problem(number, "a b c d", "7") for number in range(4)]
steered = Condition("steer", ["resid_post.0+6*random(3)"])

def draw(arm, samples):
    options = dict(conditions=[arm], samples=samples, max_new_tokens=24, temperature=1.0)
    return [c.ids for c in sample(model, problems, **options)]

expected = draw(BASELINE, {LEAST_ROWS}), draw(steered, 2)
assert expected[0][:2] != expected[1][:2]  # the same rows, with other interventions
for _ in range(5):
    forked, here = at_once([lambda: draw(BASELINE, {LEAST_ROWS}), lambda: [draw(steered, 2) for _ in range(6)]])
    assert forked == expected[0]
    assert here == [expected[1]] * 6
assert len(started) == 12
print("all the same")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked under Linux only")
def test_a_thread_that_forks_beside_one_that_samples():
    """A child that inherited the other's lock would wait for ever, one that inherited its hooks would act on them.

    In a process of its own: the checks of types at run time that the tests have take locks of their own.
    """
    given = subprocess.run([sys.executable, "-c", FORKING], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert given.stdout == "all the same\n", given.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked under Linux only")
@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_process_forked_by_others_meanwhile_says_so(tiny, problems):
    """It has the interventions of a thread that it does not have."""
    held, done = Event(), Event()

    def hold():
        with alone:
            held.set()
            done.wait(60)

    def status():
        if not (child := os.fork()):
            try:
                sample(tiny, problems[:1], max_new_tokens=2)
            except InputError as error:
                os._exit(3 if "forked while another thread sampled" in str(error) else 4)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    with ThreadPoolExecutor(1) as other:
        holding = other.submit(hold)
        assert held.wait(60)
        assert status() == 3
        done.set()
        holding.result()
    assert status() == 0


@pytest.fixture
def two_threads():
    """PyTorch as on a machine of two cores; the tests have one thread otherwise."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("way", ["packed", "bridge", "logits", "run_with_cache", "run_with_hooks"])
def test_a_small_model_is_run_by_one_thread_and_the_others_are_given_back(tiny, problems, way, two_threads):
    seen = []
    block = tiny.plain.module.get_submodule("model.layers.1") if way == "packed" else tiny.bridge.blocks[1]
    handle = block.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    try:
        if way in ("packed", "bridge"):
            sample(tiny, problems[:2], samples=1, max_new_tokens=3, engine=way)
        else:
            getattr(tiny, way)([1, 2, 3], **({"fwd_hooks": []} if way == "run_with_hooks" else {}))
    finally:
        handle.remove()
    assert set(seen) == {1}
    assert torch.get_num_threads() == 2


def test_several_threads_are_left_to_large_models_and_other_devices(two_threads):
    small, large, elsewhere = nn.Linear(64, 64), nn.Linear(1, KEPT // 4), nn.Linear(64, 64, device="meta")
    for module, expected in ((small, 1), (large, 2), (elsewhere, 2)):
        with threads_for(module):
            assert torch.get_num_threads() == expected
    with pytest.raises(KeyError), threads_for(small):
        raise KeyError
    assert torch.get_num_threads() == 2


def test_the_last_to_leave_gives_the_threads_back(two_threads):
    small = nn.Linear(8, 8)
    first, second = threads_for(small), threads_for(small)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.get_num_threads() == 1
    second.__exit__(None, None, None)
    assert torch.get_num_threads() == 2
