"""Laws of shares: the same completions however many processes decode them, and no process is left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backtracking.core.completions import Completion, Completions
from backtracking.core.errors import InputError
from backtracking.core.interventions import BASELINE, Condition
from backtracking.core.prompts import VARIANTS, Prompting
from backtracking.core.settings import Settings
from backtracking.model.loading import load_model
from backtracking.model.organism.problems import organism_problems
from backtracking.model.sampling import packed_engine, shares
from backtracking.model.sampling.plan import Row, plan_rows
from backtracking.model.sampling.shares import LEAST_ROWS, cut_rows, run_in_shares, shares_for

ROOT = Path(__file__).parents[2]
SETTINGS = Settings(24, 1.0, 1.0, 3)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked under Linux only")


@pytest.fixture(scope="module")
def organism():
    return load_model("organism")


@pytest.fixture(scope="module")
def rows(organism):
    conditions = (BASELINE, Condition("off", ["mlp.5*0@decode"]), Condition("half", ["attn.1*0.5"]))
    return plan_rows(
        organism,
        organism_problems(6),
        conditions=conditions,
        samples=4,
        variant=VARIANTS[0].name,
        settings=SETTINGS,
        prompting=Prompting(),
    )


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    """As on a machine with two cores; the tests themselves have one thread."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


EARLIER = set()
"""Processes that tests of other files have left running."""


@pytest.fixture(scope="module", autouse=True)
def earlier():
    EARLIER.update(psutil.Process().children(recursive=True))


def children():
    return [child for child in psutil.Process().children(recursive=True) if child not in EARLIER]


def test_rows_are_the_same_in_one_batch_and_in_shares(organism, rows):
    whole = packed_engine.run_unit(organism, rows, SETTINGS)
    shared = run_in_shares(organism, rows, SETTINGS, shares=2)
    assert [(c.condition, c.problem_id, c.sample_id, c.ids, c.text) for c in shared] == [
        (c.condition, c.problem_id, c.sample_id, c.ids, c.text) for c in whole
    ]
    assert len({c.ids for c in whole}) > 20 and not children()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_process_decodes_the_same_shares_as_many_to_the_last_bit(organism, rows, dtype, monkeypatch):
    model = organism if dtype == "float32" else load_model("organism", dtype=dtype)
    many = run_in_shares(model, rows, SETTINGS, seats=20, shares=2)
    monkeypatch.setattr(shares, "_run_all", lambda *_: pytest.fail("one thread needs no process"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert many == run_in_shares(model, rows, SETTINGS, seats=20, shares=2)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 40)), min_size=1, max_size=12),
    st.integers(1, 6),
)
def test_shares_are_all_rows_once_in_like_numbers_with_rows_of_a_prompt_together(groups, count):
    made = [Row(n, s, "v", BASELINE, (prompt,)) for n, (prompt, size) in enumerate(groups) for s in range(size)]
    cut = cut_rows(made, count)
    assert sorted(index for share in cut for index in share) == list(range(len(made)))
    most = -(-len(made) // count)
    assert max(map(len, cut)) <= 2 * most
    for prompt in {row.prompt_ids for row in made}:
        of = sum(row.prompt_ids == prompt for row in made)
        holders = sum(any(made[index].prompt_ids == prompt for index in share) for share in cut)
        assert holders <= -(-of // most)


def test_a_small_unit_is_one_batch(organism, rows, monkeypatch):
    monkeypatch.setattr(shares, "_run_all", lambda *_: pytest.fail("too few rows for two processes"))
    assert len(run_in_shares(organism, rows[: 2 * LEAST_ROWS - 1], SETTINGS, shares=2)) == 2 * LEAST_ROWS - 1


def test_there_are_as_many_shares_as_threads_where_that_pays(organism, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert shares_for(organism, SETTINGS, seats=384) == 8
    assert shares_for(organism, SETTINGS, seats=3 * LEAST_ROWS) == 3
    assert shares_for(organism, SETTINGS, seats=8) == 1
    assert shares_for(organism, Settings(4), seats=384) == 1
    monkeypatch.setattr(sys, "platform", "darwin")
    assert shares_for(organism, SETTINGS, seats=384) == 1


@pytest.mark.parametrize("where", ["another system", "a daemon", "another device"])
def test_shares_are_decoded_in_turn_where_no_process_can_be_forked(organism, rows, monkeypatch, where):
    """As by a run that began elsewhere: how many shares it has stays as it was."""
    monkeypatch.setattr(shares, "_run_all", lambda *_: pytest.fail("forked"))
    begun = []

    def one_token_each(_model, part, *_arguments, **_options):
        begun.append(part)
        return Completions(
            Completion(row.problem_id, row.sample_id, "v", row.condition.name, row.prompt_ids, (1,), "", "stop", (0,))
            for row in part
        )

    monkeypatch.setattr(packed_engine, "run_unit", one_token_each)
    if where == "another system":
        monkeypatch.setattr(sys, "platform", "darwin")
    elif where == "a daemon":
        monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # pyright: ignore
    else:
        monkeypatch.setattr(type(organism), "device", property(lambda _: torch.device("meta")))
    assert len(run_in_shares(organism, rows, SETTINGS, shares=2)) == len(rows)
    assert len(begun) == 2


def test_what_is_wrong_in_a_process_is_raised_here(organism, rows, monkeypatch):
    def refuse(*_arguments, **_options):
        raise InputError(f"process {os.getpid()} refuses")

    monkeypatch.setattr(packed_engine, "run_unit", refuse)
    with pytest.raises(InputError, match=r"process \d+ refuses") as caught:
        run_in_shares(organism, rows, SETTINGS, shares=2)
    assert str(os.getpid()) not in str(caught.value) and not children()


def test_an_unforeseen_error_comes_with_its_traceback(organism, rows, monkeypatch):
    def fail(*_arguments, **_options):
        raise ZeroDivisionError("unforeseen")

    monkeypatch.setattr(packed_engine, "run_unit", fail)
    with pytest.raises(RuntimeError, match=r"(?s)failed:\nTraceback.*in fail.*ZeroDivisionError: unforeseen"):
        run_in_shares(organism, rows, SETTINGS, shares=2)
    assert not children()


def test_a_killed_process_is_named_and_the_others_end(organism, rows, monkeypatch):
    def die(_model, part, *_arguments, **_options):
        if part[0] is not rows[0]:  # not the first one waited for
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    monkeypatch.setattr(packed_engine, "run_unit", die)
    with pytest.raises(RuntimeError, match="signal 9, as happens where memory runs out"):
        run_in_shares(organism, rows, SETTINGS, shares=2)
    assert not children()


def test_an_interrupt_leaves_no_process_behind(organism, rows, monkeypatch):
    def interrupt(_ends):
        assert len(children()) == 2
        raise KeyboardInterrupt

    monkeypatch.setattr(packed_engine, "run_unit", lambda *_a, **_k: time.sleep(60))
    monkeypatch.setattr(shares, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_in_shares(organism, rows, SETTINGS, shares=2)
    assert not children()


KILLED = """
import os, time
import torch
torch.get_num_threads = lambda: 2
from types import SimpleNamespace
from backtracking.model.sampling import packed_engine, shares
from backtracking.core.settings import Settings
from backtracking.model.sampling.plan import Row
from backtracking.core.interventions import BASELINE
packed_engine.run_unit = lambda *a, **k: (print(os.getpid(), flush=True), time.sleep(60))
rows = [Row(n, 0, "v", BASELINE, (n,)) for n in range(2 * shares.LEAST_ROWS)]
shares.run_in_shares(SimpleNamespace(device=torch.device('cpu'), dtype=torch.bfloat16), rows, Settings(), shares=2)
"""


def test_processes_die_with_a_parent_that_is_killed():
    parent = subprocess.Popen([sys.executable, "-c", KILLED], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(parent.stdout.readline()) for _ in range(2)]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 10
    while any(map(is_alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(is_alive, pids))


def is_alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
