"""The checkout: tokens, `.env`, git and its remotes, and secrets in files that git keeps."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from backtracking.core.errors import InputError
from backtracking.workspace.findings import Finding
from backtracking.workspace.git import GitError, Repository, holds_credentials, repository
from backtracking.workspace.paths import project_root
from backtracking.workspace.scanned_files import scan_files
from backtracking.workspace.secrets import redact

TOKENS = ("HF_TOKEN", "WANDB_API_KEY", "GITHUB_TOKEN")
SHOWN = 5


def project_findings(folder: Path) -> Iterator[Finding]:
    """Tokens, `.env`, and git; where the folder is in no checkout, that is a note."""
    for name in TOKENS:
        present = bool(os.environ.get(name))
        remedy = "" if present else "put it into .env if you need it"
        yield Finding(name, "ok" if present else "note", "present" if present else "not set", remedy)
    try:
        repo = repository(folder)
    except GitError as error:
        yield _env_file(folder, None)
        yield Finding("git", "bad", str(error), "install git")
        return
    except InputError:
        yield _env_file(folder, None)
        yield Finding("git", "note", f"{folder} is in no git checkout", "git init, if the work is to be kept")
        return
    yield _env_file(folder, repo)
    yield _state(repo)
    yield from _remotes(repo)
    yield _hook(repo)
    yield _tracked_secrets(repo)


def tracked_files(repo: Repository) -> tuple[Path, ...]:
    """Files that git keeps and that are there, without links."""
    names = repo.run("ls-files", "-z").decode("utf-8", "surrogateescape").split("\0")
    paths = (repo.folder / name for name in names if name)
    return tuple(path for path in paths if path.is_file() and not path.is_symlink())


def _env_file(folder: Path, repo: Repository | None) -> Finding:
    root = project_root(folder) or folder
    file = root / ".env"
    if not file.is_file():
        return Finding(".env", "note", f"none in {root}", "copy .env.example to .env, or run make bootstrap")
    if repo is not None and repo.text("ls-files", "--", str(file)):
        return Finding(".env", "bad", "git keeps it", "git rm --cached .env, and make new tokens: these are known")
    mode = stat.S_IMODE(file.stat().st_mode)
    if os.name == "posix" and mode & 0o077:
        return Finding(".env", "bad", f"others can read it (mode {mode:o})", f"chmod 600 {file}")
    return Finding(".env", "ok", f"{file}, for you alone")


def _state(repo: Repository) -> Finding:
    branch = repo.text("branch", "--show-current") or "no branch"
    try:
        commit = repo.text("rev-parse", "--short", "HEAD")
    except GitError:
        return Finding("git", "note", f"{branch}, no commit yet", "commit, so that a run can name what it ran")
    changed = len(repo.text("status", "--porcelain", "--untracked-files=no").splitlines())
    if changed:
        return Finding("git", "note", f"{branch} at {commit}, {changed} files changed", "commit them before a long run")
    return Finding("git", "ok", f"{branch} at {commit}, clean")


def _remotes(repo: Repository) -> Iterator[Finding]:
    names = repo.text("remote").split()
    if not names:
        yield Finding("remote", "note", "none", "git remote add origin ..., so that backtracking backup has a place")
    for name in names:
        url = repo.text("remote", "get-url", "--push", name)
        if holds_credentials(url):
            remedy = f"git remote set-url {name} without them, put a new token into .env"
            yield Finding("remote", "bad", f"the address of {name} holds credentials", remedy)
        else:
            yield Finding("remote", "ok", f"{name}: {redact(url)}")


def _hook(repo: Repository) -> Finding:
    hook = repo.folder / repo.text("rev-parse", "--git-path", "hooks/pre-commit")
    if hook.is_file():
        return Finding("commit hook", "ok", "installed")
    return Finding("commit hook", "note", "not installed", "run .venv/bin/pre-commit install: it stops secrets")


def _tracked_secrets(repo: Repository) -> Finding:
    files = tracked_files(repo)
    found = scan_files(files)
    if not found:
        return Finding("secrets", "ok", f"none in {len(files)} files that git keeps")
    places = [f"{Path(each.file).relative_to(repo.folder)}:{each.found.line}: {each.found.kind}" for each in found]
    more = f", and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
    remedy = "take them out, put them into .env, and make new ones: these are in the history"
    return Finding("secrets", "bad", ", ".join(places[:SHOWN]) + more, remedy)
