"""A run on a branch of its own at a git remote.

The commit is made with git's plumbing and an index of its own: the user's branch, index and files are not
touched. A second backup of a run is the next commit of its branch, so an older one is never lost.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backtracking.core.errors import InputError
from backtracking.workspace.git import GitError, Repository, access_to, repository
from backtracking.workspace.remotes import PREFIX, explained, may_pass, tip
from backtracking.workspace.snapshot import MAX_SIZE, Snapshot, snapshot_run

TRIES = 4
LARGEST = 95 * 2**20
"""Bytes of a file that common hosts of git still take."""


@dataclass(frozen=True)
class Backup:
    """What a backup left at the remote."""

    snapshot: Snapshot
    remote: str
    branch: str
    commit: str
    new: bool
    """False: the remote held just this already."""


def backup(
    run: str | Path,
    *,
    remote: str = "origin",
    branch: str | None = None,
    out: str | Path = "snapshots",
    max_size: int = MAX_SIZE,
    without_completions: bool = False,
    checkout: Path | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> Backup:
    """Make a snapshot of a run, commit it to a branch of its own, and push that to the remote.

    Args:
        run: The run's folder.
        remote: Name of a remote of the checkout; its token comes from the environment.
        branch: `backups/<run id>` if not given.
        out: Folder of snapshots.
        max_size: Bytes up to which generations travel along; beyond, they stay in an archive in `out`.
        without_completions: Leave generations out.
        checkout: The git checkout; the one around the working directory if not given.
        wait: Called with the seconds between two tries.

    Raises:
        SecretError: A file holds a secret; nothing is committed.
        InputError: No such run, repository or remote; the remote refused, or could not be reached.
    """
    repo = repository(checkout)
    url = repo.remote_url(remote)
    snapshot = snapshot_run(run, out, max_size=max_size, without_completions=without_completions)
    name = branch or PREFIX + snapshot.name
    _require_free(repo, name)
    large = [item for item in snapshot.items if item.size > LARGEST]
    if large:
        raise InputError(
            f"{large[0].path} is larger than {LARGEST // 2**20} MiB, which remotes refuse; lower --max-size"
        )
    tree = _tree(repo, snapshot.folder)
    with access_to(url) as access:
        for number in range(TRIES):
            try:
                commit, new = _commit(repo, tree, tip(repo, remote, name, access), snapshot)
                if new:
                    target = f"{commit}:refs/heads/{name}"
                    repo.run("push", "--quiet", remote, target, settings=access.settings, variables=access.variables)
                repo.run("update-ref", f"refs/heads/{name}", commit)
                return Backup(snapshot, remote, name, commit, new)
            except GitError as error:
                if number + 1 == TRIES or not may_pass(error):
                    raise explained(error, remote, name) from error
                wait(2.0**number)
    raise AssertionError("unreachable: the last try returns or raises")


def _require_free(repo: Repository, branch: str) -> None:
    """Refuse a branch that someone works on: its files would seem changed."""
    checked_out = repo.text("worktree", "list", "--porcelain").splitlines()
    if f"branch refs/heads/{branch}" in checked_out:
        raise InputError(f"the branch {branch!r} is checked out; give another --branch")
    try:
        repo.run("check-ref-format", "--branch", branch)
    except GitError as error:
        raise InputError(f"{branch!r} is no name of a branch; give another --branch") from error


def _tree(repo: Repository, folder: Path) -> str:
    """Write the files of a folder as git objects, as they are; the tree's id."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = "".join(f"{path.absolute()}\n" for path in files)
    objects = repo.run("hash-object", "-w", "--no-filters", "--stdin-paths", data=names.encode()).decode().split()
    lines = [
        f"100644 {made}\t{path.relative_to(folder).as_posix()}\0" for made, path in zip(objects, files, strict=True)
    ]
    with tempfile.TemporaryDirectory(prefix="backtracking-") as scratch:
        own = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
        repo.run("update-index", "-z", "--index-info", data="".join(lines).encode(), variables=own)
        return repo.run("write-tree", variables=own).decode().strip()


def _commit(repo: Repository, tree: str, end: str | None, snapshot: Snapshot) -> tuple[str, bool]:
    """A commit of the tree after the remote's tip; that tip itself where it holds the same."""
    if end is not None and repo.text("rev-parse", f"{end}^{{tree}}") == tree:
        return end, False
    parents = [] if end is None else ["-p", end]
    message = f"Backup of {snapshot.name}: {len(snapshot.items)} files, {snapshot.size / 2**20:.1f} MiB"
    author = {} if _has_identity(repo) else _IDENTITY
    made = repo.run("commit-tree", "--no-gpg-sign", tree, *parents, "-m", message, variables=author)
    return made.decode().strip(), True


_IDENTITY = {
    "GIT_AUTHOR_NAME": "backtracking",
    "GIT_AUTHOR_EMAIL": "backtracking@localhost",
    "GIT_COMMITTER_NAME": "backtracking",
    "GIT_COMMITTER_EMAIL": "backtracking@localhost",
}


def _has_identity(repo: Repository) -> bool:
    try:
        repo.run("var", "GIT_COMMITTER_IDENT", settings=("user.useConfigOnly=true",))
    except GitError:
        return False
    return True
