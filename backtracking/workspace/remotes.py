"""The branches of backups at a git remote, and what it means when the remote says no."""

from backtracking.core.errors import InputError
from backtracking.workspace.git import Access, GitError, Repository

PREFIX = "backups/"
"""Begins the name of every branch that holds a backup."""
_PASSING = (
    "could not resolve host", "timed out", "timeout", "connect", "early eof", "rpc failed", "hung up",
    "temporarily", "429", "500", "502", "503", "504", "network", "cannot lock ref", "fetch first", "non-fast-forward",
)  # fmt: skip


def tip(repo: Repository, remote: str, branch: str, access: Access) -> str | None:
    """Commit at the end of the remote's branch, fetched; None if there is no such branch."""
    given = {"settings": access.settings, "variables": access.variables}
    listed = repo.run("ls-remote", "--heads", remote, f"refs/heads/{branch}", **given).decode().split()
    if not listed:
        return None
    kept = f"refs/backtracking/{remote}/{branch}"
    repo.run("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", remote, f"+refs/heads/{branch}:{kept}", **given)
    return repo.text("rev-parse", kept)


def may_pass(error: GitError) -> bool:
    """Whether the same might work a moment later."""
    words = str(error).lower()
    refused = ("denied", "authentication", "401", "403", "hook declined", "protected", "not found")
    return any(word in words for word in _PASSING) and not any(word in words for word in refused)


def explained(error: GitError, remote: str, branch: str) -> InputError:
    """What went wrong at the remote, with what to do about it and git's own words."""
    words = str(error).lower()
    if any(
        word in words
        for word in ("authentication", "could not read username", "could not read password", "401", "403", "denied")
    ):
        what = "refused the access; set a token with write access in .env (GITHUB_TOKEN, or BACKTRACKING_GIT_TOKEN)"
    elif "rejected" in words or "declined" in words:
        what = f"rejected the branch {branch!r}; give another --branch, or ask who keeps the remote"
    elif "does not appear to be a git repository" in words or "not found" in words:
        what = "is not there; look at git remote -v"
    elif may_pass(error):
        what = "cannot be reached; the snapshot is kept, try again when there is a network"
    else:
        what = "could not be used"
    return InputError(f"the remote {remote!r} {what} (git: {' '.join(str(error).split())[:300]})")
