"""A look over the machine before an experiment: what is there, what is amiss, what to do."""

import importlib.metadata as metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch
from packaging.requirements import Requirement

GIB = 2**30
LEAST_MEMORY, LEAST_DISK = 4, 5
TOKENS = ("HF_TOKEN", "WANDB_API_KEY")


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    what: str
    verdict: Literal["ok", "note", "bad"]
    value: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """The finding as plain values."""
        return asdict(self)


def examine(folder: Path | None = None) -> tuple[Finding, ...]:
    """Look at Python, packages, GPU, memory, disk and tokens; nothing is changed or sent.

    A token is only said to be present or absent, never shown.
    """
    return (
        _python(),
        *_packages(),
        _gpu(),
        _memory(),
        _disk(folder or Path.cwd()),
        *_tokens(),
    )


def _python() -> Finding:
    fine = sys.version_info >= (3, 11)
    remedy = "" if fine else "install Python 3.11 or newer"
    return Finding("Python", "ok" if fine else "bad", platform.python_version(), remedy)


def _packages() -> Iterator[Finding]:
    for text in metadata.requires("backtracking") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Finding(requirement.name, "bad", "missing", "run make setup")
            continue
        fits = requirement.specifier.contains(version, prereleases=True)
        remedy = "" if fits else f"needs {requirement.specifier}; run make setup"
        yield Finding(requirement.name, "ok" if fits else "bad", version, remedy)


def _gpu() -> Finding:
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


def _tokens() -> Iterator[Finding]:
    for name in TOKENS:
        present = bool(os.environ.get(name))
        yield Finding(name, "ok" if present else "note", "present" if present else "not set")
