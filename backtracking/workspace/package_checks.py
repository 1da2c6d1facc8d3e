"""Is everything installed that this library needs, in versions that fit?"""

import importlib.metadata as metadata
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from backtracking.workspace.findings import Finding
from backtracking.workspace.paths import project_root

LOCK = "requirements.lock"
SHOWN = 5


def package_findings(folder: Path) -> Iterator[Finding]:
    """Python, every package this library names, and all packages against the checkout's lock."""
    yield _python()
    yield from _needed()
    root = project_root(folder)
    if root is not None and (root / LOCK).is_file():
        yield _against_lock(root / LOCK)


def _python() -> Finding:
    fine = sys.version_info >= (3, 11)
    remedy = "" if fine else "install Python 3.11 or newer"
    return Finding("Python", "ok" if fine else "bad", platform.python_version(), remedy)


def _needed() -> Iterator[Finding]:
    try:
        texts = metadata.requires("backtracking") or []
    except metadata.PackageNotFoundError:
        yield Finding("backtracking", "bad", "not installed in this environment", "run make setup")
        return
    for text in texts:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _installed(requirement.name)
        if version is None:
            yield Finding(requirement.name, "bad", "missing", "run make setup")
            continue
        fits = requirement.specifier.contains(version, prereleases=True)
        remedy = "" if fits else f"needs {requirement.specifier}; run make setup"
        yield Finding(requirement.name, "ok" if fits else "bad", version, remedy)


def _against_lock(lock: Path) -> Finding:
    """Versions other than the locked ones; they may still fit what the library needs."""
    locked = {requirement.name: requirement for requirement in _requirements(lock)}
    amiss = []
    for name, requirement in locked.items():
        version = _installed(name)
        if version is None:
            amiss.append(f"{name} is missing")
        elif not requirement.specifier.contains(version, prereleases=True):
            amiss.append(f"{name} {version} instead of {requirement.specifier}")
    if not amiss:
        return Finding("versions", "ok", f"all {len(locked)} packages are as locked in {lock.name}")
    more = f", and {len(amiss) - SHOWN} more" if len(amiss) > SHOWN else ""
    value = f"{len(amiss)} of {len(locked)} packages are not as locked: {', '.join(amiss[:SHOWN])}{more}"
    return Finding("versions", "note", value, "run make setup to get what the results were tested with")


def _requirements(lock: Path) -> Iterator[Requirement]:
    for line in lock.read_text(encoding="utf-8").splitlines():
        text = re.sub(r"\s*\\$", "", line).strip()
        if not text or text.startswith(("#", "-")):
            continue
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue  # an option of pip, not a package
        if requirement.marker is None or requirement.marker.evaluate():
            yield requirement


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
