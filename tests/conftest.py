"""Shared fixtures: tiny random models of every architecture, offline, with norms that matter."""

import copy
import os
import signal
import socket
from pathlib import Path

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job, and then in its children too
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray then keeps to 127.0.0.1; read when it is imported
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["OMP_NUM_THREADS"] = "1"  # tiny models: threads cost more than they bring

import pytest
import torch

from backtracking.core.problems import Problem
from backtracking.model.reasoner import HookedReasoner
from tests.tiny import ARCHITECTURES, LETTERS, tiny_hf, tiny_tokenizer

torch.set_num_threads(1)
SHARED = Path(__file__).parents[1].parent / "shared" / "data"


LONGEST = ("test_notebooks.py", "test_faults.py", "test_phases.py", "test_packed_engine.py", "test_sampling.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no process is left alone with one at the end (with --no-loadscope-reorder)."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(autouse=True)
def _only_localhost(monkeypatch):
    """No test reaches beyond this machine."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "localhost", "::1"):
            raise OSError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def shared_data():
    if not SHARED.is_dir():
        pytest.skip(f"the shared data is not at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def twins():
    """For each architecture a reasoner and a separate Hugging Face model with equal weights."""
    cache = {}

    def make(name: str):
        if name not in cache:
            module = tiny_hf(name)
            cache[name] = (HookedReasoner.from_hf(copy.deepcopy(module), tiny_tokenizer(), name=f"tiny-{name}"), module)
        return cache[name]

    return make


@pytest.fixture(params=ARCHITECTURES)
def twin(request, twins):
    return twins(request.param)


@pytest.fixture(scope="session")
def tiny(twins):
    return twins("qwen2")[0]


@pytest.fixture(scope="session")
def problems():
    words = LETTERS.split()
    return tuple(Problem(i, " ".join(words[i : i + 3 + 4 * i]), str(7 * i)) for i in range(4))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory, tokenizer):
    """A tiny model saved as any local model is."""
    folder = tmp_path_factory.mktemp("tiny-qwen2")
    tiny_hf("qwen2").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
