"""Git, told what to do without ever being told a secret.

A token for a remote goes from the environment to git through a helper script that holds only the variable's
name, so that it stands in no address, argument, configuration or log.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from backtracking.core.errors import InputError
from backtracking.workspace.secrets import redact

TOKENS_OF_HOSTS = {"github.com": ("GITHUB_TOKEN", "GH_TOKEN"), "huggingface.co": ("HF_TOKEN",)}
"""Variables tried for a host; `BACKTRACKING_GIT_TOKEN` is tried for any."""
ANY_HOST = "BACKTRACKING_GIT_TOKEN"
TIMEOUT = 900
"""Seconds after which a git command is given up."""


class GitError(InputError):
    """Git could not do what it was asked; the message holds its own words, with secrets hidden."""


@dataclass(frozen=True)
class Repository:
    """A git checkout, found from any folder inside it."""

    folder: Path

    def run(
        self,
        *arguments: str,
        data: bytes | None = None,
        settings: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> bytes:
        """What a git command prints.

        Args:
            arguments: Of git.
            data: Its input.
            settings: Given by `-c` for this command alone.
            variables: Added to its environment.

        Raises:
            GitError: It failed.
        """
        command = ["git", "-C", str(self.folder), *(word for each in settings for word in ("-c", each)), *arguments]
        try:
            done = subprocess.run(
                command,
                input=data,
                stdin=subprocess.DEVNULL if data is None else None,
                capture_output=True,
                check=False,
                env=quiet_environment() | dict(variables or {}),
                timeout=TIMEOUT,
            )
        except FileNotFoundError as error:
            raise GitError("git is not installed; install git") from error
        except subprocess.TimeoutExpired as error:
            raise GitError(f"git {arguments[0]} took over {TIMEOUT} s; try again with a better network") from error
        if done.returncode:
            raise GitError(redact(done.stderr.decode("utf-8", "replace").strip()) or f"git {arguments[0]} failed")
        return done.stdout

    def text(self, *arguments: str) -> str:
        """What a git command prints, as text without the last line end."""
        return self.run(*arguments).decode("utf-8", "surrogateescape").strip()

    def has(self, ref: str) -> bool:
        """Whether a reference exists here."""
        return bool(self.text("for-each-ref", "--format=%(refname)", ref))

    def remote_url(self, name: str) -> str:
        """The address of a remote.

        Raises:
            InputError: There is no such remote, or its address holds credentials.
        """
        remotes = self.text("remote").split()
        if name not in remotes:
            known = f"known: {', '.join(remotes)}" if remotes else "there is none; add one with git remote add"
            raise InputError(f"no remote {name!r}; {known}")
        url = self.text("remote", "get-url", "--push", name)
        if holds_credentials(url):
            raise InputError(
                f"the address of the remote {name!r} holds credentials; take them out with git remote set-url, put the "
                f"token into .env as {ANY_HOST} (or GITHUB_TOKEN), and make a new token: the old one was in a file"
            )
        return url


def repository(start: Path | None = None) -> Repository:
    """The checkout around a folder, the working directory if not given.

    Raises:
        InputError: There is none.
    """
    here = start or Path.cwd()
    try:
        top = Repository(here).text("rev-parse", "--show-toplevel")
    except GitError as error:
        raise InputError(f"{here} is in no git repository ({error}); make one with git init") from error
    return Repository(Path(top))


def holds_credentials(url: str) -> bool:
    """Whether an address holds a password, or a user name that is none of ssh."""
    if "://" not in url:
        return False
    parts = urlsplit(url)
    return parts.password is not None or (parts.username is not None and parts.scheme in ("http", "https"))


def quiet_environment() -> dict[str, str]:
    """The environment for git: it asks nobody, speaks English, and traces nothing."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_TRACE", "GIT_CURL_VERBOSE"))}
    return kept | {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}


@dataclass(frozen=True)
class Access:
    """How one git command reaches a remote."""

    settings: tuple[str, ...]
    variables: Mapping[str, str]


@contextmanager
def access_to(url: str) -> Iterator[Access]:
    """Settings and variables with which git reaches a remote, for as long as the block runs.

    For an address by http a helper script prints the token of the environment variable that fits the host;
    the user's own credential helpers are then left out, because one of them might store the token. Without
    such a variable, and for ssh and files, git goes the way it always goes.
    """
    speed = ("http.lowSpeedLimit=1000", "http.lowSpeedTime=60")
    variable = token_variable(url)
    if variable is None:
        yield Access(speed, {})
        return
    with tempfile.TemporaryDirectory(prefix="backtracking-") as folder:
        script = Path(folder) / "askpass"
        script.write_text(askpass_script(variable), encoding="utf-8")
        script.chmod(0o700)
        yield Access((*speed, "credential.helper="), {"GIT_ASKPASS": str(script)})


def token_variable(url: str) -> str | None:
    """Name of the environment variable that holds the token for a remote; None if none is set or needed."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return None
    names = (*TOKENS_OF_HOSTS.get(parts.hostname or "", ()), ANY_HOST)
    return next((name for name in names if os.environ.get(name)), None)


def askpass_script(variable: str) -> str:
    """A script that answers git's two questions; it holds the variable's name, not its value."""
    return f'#!/bin/sh\ncase "$1" in\nUsername*) echo x-access-token ;;\n*) printf "%s\\n" "${variable}" ;;\nesac\n'
