"""The state of a project: what git keeps and what it would keep, the versions, and what every run found."""

import importlib.metadata as metadata
import json
import platform
import tempfile
from pathlib import Path

from backtracking.core.errors import InputError
from backtracking.workspace.git import GitError, Repository, repository
from backtracking.workspace.snapshot import PASSING, Snapshot, snapshot_files

RESULTS = ("manifest.json", "config.yaml", "report.md", "log.jsonl")


def snapshot_project(out: str | Path, *, runs: str | Path = "runs", checkout: Path | None = None) -> Snapshot:
    """Write the project's state to `out/<name of its folder>.project`.

    It holds every file of the checkout that git does not ignore, as it is now; manifest, config, report, log and
    tables of each run; and `state.json` with commit, branch and the version of every package.

    Raises:
        InputError: The working directory is in no checkout.
        SecretError: A file holds a secret; nothing is written.
    """
    repo = repository(checkout)
    listed = repo.run("ls-files", "-z", "--cached", "--others", "--exclude-standard").decode("utf-8", "surrogateescape")
    target = Path(out) / f"{repo.folder.name}.project"
    inside = target.absolute().parent
    files = {
        f"project/{name}": repo.folder / name
        for name in listed.split("\0")
        if name and (repo.folder / name).is_file() and inside not in (repo.folder / name).parents
    }
    for manifest in sorted(Path(runs).glob("*/manifest.json")):
        for path in _results(manifest.parent):
            files[f"runs/{path.relative_to(runs).as_posix()}"] = path
    with tempfile.TemporaryDirectory(prefix="backtracking-") as scratch:
        state = Path(scratch) / "state.json"
        state.write_text(json.dumps(_state(repo), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        note = "generations and figures of runs; save those with backtracking snapshot RUN"
        try:
            return snapshot_files(files | {"state.json": state}, target, name=repo.folder.name, left_out=(note,))
        except OSError as error:
            raise InputError(
                f"cannot write the snapshot {target}: {error.strerror}; free space or give --out"
            ) from error


def _results(run: Path) -> list[Path]:
    tables = sorted((run / "tables").glob("*"))
    return [
        path
        for path in (*(run / name for name in RESULTS), *tables)
        if path.is_file() and not path.name.endswith(PASSING)
    ]


def _state(repo: Repository) -> dict[str, object]:
    try:
        commit = repo.text("rev-parse", "HEAD")
    except GitError:
        commit = None
    packages = {each.metadata["Name"]: each.version for each in metadata.distributions()}
    return {
        "commit": commit,
        "branch": repo.text("branch", "--show-current") or None,
        "changed": repo.text("status", "--porcelain").splitlines(),
        "python": platform.python_version(),
        "packages": dict(sorted(packages.items(), key=lambda pair: pair[0].lower())),
    }
