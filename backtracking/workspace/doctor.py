"""A look over the machine and the project before an experiment: what is there, what is amiss, what to do."""

from pathlib import Path

from backtracking.workspace.findings import Finding
from backtracking.workspace.machine_checks import machine_findings
from backtracking.workspace.package_checks import package_findings
from backtracking.workspace.project_checks import project_findings


def examine(folder: Path | None = None) -> tuple[Finding, ...]:
    """Look at Python, packages, GPU, memory, disk, caches, tokens, the Hub and the checkout; nothing is changed.

    A token is only said to be present or absent, never shown. It works where torch or another package is missing.
    """
    here = folder or Path.cwd()
    return (*package_findings(here), *machine_findings(here), *project_findings(here))
