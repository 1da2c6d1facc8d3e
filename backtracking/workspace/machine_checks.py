"""What this machine offers: torch and its devices, memory, disk, caches, and whether the Hub answers."""

import importlib
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backtracking.workspace.environment import CACHES
from backtracking.workspace.findings import Finding

GIB = 2**30
LEAST_MEMORY, LEAST_DISK = 4, 5
PATIENCE = 4.0
"""Seconds that the Hub has to answer."""


def machine_findings(folder: Path) -> Iterator[Finding]:
    """torch, GPU, memory, disk, caches, and the Hub; each is looked at even where another is missing."""
    yield from _torch()
    yield _memory()
    yield _disk(folder)
    yield from _caches()
    yield _hub()


def _torch() -> Iterator[Finding]:
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError as error:
        yield Finding("torch build", "bad", f"torch cannot be loaded ({error})", "run make setup")
        return
    except OSError as error:  # a library that torch is linked with is missing
        yield Finding("torch build", "bad", f"torch is broken ({error})", "remove .venv and run make setup")
        return
    built = torch.version.cuda
    kind = f"for CUDA {built}" if built else "for the CPU"
    yield Finding("torch build", "ok", f"{torch.__version__}, {kind}, {torch.get_num_threads()} threads")
    yield _gpu(torch)


def _gpu(torch: Any) -> Finding:
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        return Finding("GPU", "ok", f"{name}, {free / GIB:.0f} of {total / GIB:.0f} GiB free")
    built = torch.version.cuda
    if built is None:
        return Finding("GPU", "note", "this is a CPU build of torch; large models need a GPU")
    remedy = "check the driver with nvidia-smi"
    return Finding("GPU", "note", f"torch is built for CUDA {built}, but sees no GPU", remedy)


def _memory() -> Finding:
    try:
        psutil: Any = importlib.import_module("psutil")
    except ImportError:
        return Finding("memory", "bad", "cannot be read without psutil", "run make setup")
    memory = psutil.virtual_memory()
    value = f"{memory.available / GIB:.0f} of {memory.total / GIB:.0f} GiB free"
    if memory.available / GIB < LEAST_MEMORY:
        return Finding("memory", "bad", value, f"free at least {LEAST_MEMORY} GiB")
    return Finding("memory", "ok", value)


def _disk(folder: Path) -> Finding:
    usage = shutil.disk_usage(folder)
    value = f"{usage.free / GIB:.0f} of {usage.total / GIB:.0f} GiB free at {folder}"
    if not os.access(folder, os.W_OK):
        return Finding("disk", "bad", f"{folder} cannot be written to", "work in another folder")
    if usage.free / GIB < LEAST_DISK:
        return Finding("disk", "bad", value, f"free at least {LEAST_DISK} GiB")
    return Finding("disk", "ok", value)


def _caches() -> Iterator[Finding]:
    for name in CACHES:
        given = os.environ.get(name)
        if given is None:
            yield Finding(name, "note", "not set; the library's own place is used", "start in the project's folder")
            continue
        path = Path(given)
        if not path.is_dir():
            yield Finding(name, "ok", f"{path}, not made yet")
        elif not os.access(path, os.W_OK):
            yield Finding(name, "bad", f"{path} cannot be written to", f"set {name} to another folder")
        else:
            yield Finding(name, "ok", f"{path}, {_size(path) / GIB:.2f} GiB")


def _size(folder: Path) -> int:
    """Bytes of the files below; a link is counted as nothing, since the Hub's cache links into itself."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _hub() -> Finding:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").upper() in ("1", "TRUE", "YES", "ON"):
            return Finding("Hub", "note", f"not asked: {name} is set", f"unset {name} to download models")
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    request = urllib.request.Request(endpoint, method="HEAD")
    remedy = "what is in the cache still works; see proxy and network, or set HF_ENDPOINT"
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE):
            return Finding("Hub", "ok", f"{_shown(endpoint)} answers")
    except urllib.error.HTTPError as error:  # it is there, and says something
        if error.code < 500:
            return Finding("Hub", "ok", f"{_shown(endpoint)} answers")
        return Finding("Hub", "note", f"{_shown(endpoint)} answers with status {error.code}", "try again later")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return Finding("Hub", "note", f"{_shown(endpoint)} cannot be reached ({reason})", remedy)


def _shown(address: str) -> str:
    from backtracking.workspace.secrets import redact

    return redact(address)
