"""What the Hub's refusals and the network's failures mean, each in one line that says what to do.

The messages are written here from the kind of the error and the request's own facts. Nothing a server
says is repeated, and a token is only said to have been sent or not.
"""

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from backtracking.core.errors import InputError

Kind = Literal["model", "dataset"]
FAILURES = (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError)
"""What huggingface_hub raises; an answer that is not JSON or not the Hub's is a ValueError."""
AGAIN = "files that are whole are kept, and the same command fetches the rest"


@dataclass(frozen=True)
class Asked:
    """What was asked of the Hub."""

    name: str
    kind: Kind
    revision: str | None
    token_sent: bool
    near: tuple[str, ...] = ()
    """Names on the Hub that look like the one asked for."""

    @property
    def page(self) -> str:
        """The repository's page."""
        return f"{constants.ENDPOINT}/{'datasets/' if self.kind == 'dataset' else ''}{self.name}"

    @property
    def what(self) -> str:
        """Kind and name."""
        return f"the {self.kind} {self.name}"


def status_of(error: BaseException) -> int | None:
    """The Hub's status, of an error or of what caused it; None where it gave none."""
    return next((each.response.status_code for each in _causes(error) if isinstance(each, HfHubHTTPError)), None)


def is_unknown(error: BaseException) -> bool:
    """Whether the Hub says that there is no such repository, or none that may be seen."""
    causes = list(_causes(error))
    return _has(causes, RepositoryNotFoundError) and not _has(causes, GatedRepoError)


def explain(error: BaseException, asked: Asked) -> InputError:
    """The error as one line: what was asked, what happened, what to do."""
    causes = list(_causes(error))
    answer = _of_the_hub(causes, asked) or _of_this_machine(causes, asked) or _of_the_network(causes, asked)
    return InputError(answer or f"cannot fetch {asked.what}: the Hub's answer made no sense ({type(error).__name__})")


def _of_the_hub(causes: list[BaseException], asked: Asked) -> str | None:
    status = next((e.response.status_code for e in causes if isinstance(e, HfHubHTTPError)), None)
    sent = "a token was sent" if asked.token_sent else "no token was sent"
    if _has(causes, GatedRepoError):
        remedy = "ask for access with the account of that token" if asked.token_sent else "then set HF_TOKEN"
        return f"{asked.what} is gated ({status}, {sent}): accept its terms at {asked.page}, {remedy}"
    if _has(causes, RevisionNotFoundError):
        return (
            f"{asked.what} has no revision {asked.revision!r}; its branches and commits are at {asked.page}/tree/main"
        )
    if status == 401 and asked.token_sent:
        return (
            f"{asked.what} is not there, or the token that was sent is refused (401): check the spelling"
            f"{_near(asked)}, and HF_TOKEN at {constants.ENDPOINT}/settings/tokens"
        )
    if _has(causes, RepositoryNotFoundError) or status in (401, 404):
        remedy = "" if asked.token_sent else "; if it is private, set HF_TOKEN"
        return (
            f"the Hub knows no {asked.kind} {asked.name} ({status}, {sent}): check the spelling{_near(asked)}{remedy}"
        )
    if status == 403:
        remedy = "give the token the right to read it" if asked.token_sent else "set HF_TOKEN"
        return f"the Hub refuses {asked.what} (403, {sent}): {remedy}, or accept its terms at {asked.page}"
    if status == 429:
        return f"the Hub still refuses {asked.what} after several waits (429): try again later; {_more(asked)}{AGAIN}"
    return None if status is None else f"the Hub answers {status} for {asked.what}: try again later; {AGAIN}"


def too_long(seconds: float, limit: float, asked: Asked) -> InputError:
    """The Hub asks for a longer wait than is allowed."""
    return InputError(
        f"the Hub has had too many requests (429) and asks to wait {seconds:.0f} s for {asked.what}, more than the "
        f"{limit:.0f} s this command waits: try again then; {_more(asked)}{AGAIN}"
    )


def _of_this_machine(causes: list[BaseException], asked: Asked) -> str | None:
    cache = constants.HF_HUB_CACHE
    for error in causes:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"the disk is full at {cache} while fetching {asked.what}: free space, or set HF_HOME; {AGAIN}"
        if isinstance(error, PermissionError | NotADirectoryError) or getattr(error, "errno", None) == errno.EROFS:
            return f"cannot write to {cache} for {asked.what}: make it writable, or set HF_HOME to another folder"
    if isinstance(causes[0], HFValidationError):
        return f"{asked.name!r} is no name on the Hub; it is owner/name, such as openai/gsm8k"
    return None


def _of_the_network(causes: list[BaseException], asked: Asked) -> str | None:
    address = constants.ENDPOINT
    if _has(causes, httpx2.TimeoutException):
        return (
            f"the Hub at {address} was silent for {constants.HF_HUB_DOWNLOAD_TIMEOUT} s while fetching {asked.what}: "
            f"try again, or raise HF_HUB_DOWNLOAD_TIMEOUT (seconds); {AGAIN}"
        )
    if _has(causes, httpx2.InvalidURL) or _has(causes, httpx2.UnsupportedProtocol):
        return f"HF_ENDPOINT is {address!r}, which is no address; unset it, or give one such as https://host"
    if _has(causes, httpx2.TransportError) or any("Consistency check" in str(error) for error in causes):
        return f"the connection to the Hub at {address} failed for {asked.what}: check the network; {AGAIN}"
    missing = (LocalEntryNotFoundError, OfflineModeIsEnabled, IncompleteSnapshotError)
    if any(_has(causes, kind) for kind in missing):
        at = "" if asked.revision is None else f" at revision {asked.revision}"
        command = f"backtracking fetch {asked.kind} {asked.name}"
        return (
            f"{asked.what}{at} is not whole in the local cache {constants.HF_HUB_CACHE}, and offline nothing is "
            f"fetched: run {command} with a network, without --offline and HF_HUB_OFFLINE"
        )
    return None


def _near(asked: Asked) -> str:
    return f" (did you mean {' or '.join(asked.near)}?)" if asked.near else ""


def _more(asked: Asked) -> str:
    return "" if asked.token_sent else "HF_TOKEN allows more requests; "


def _has(causes: list[BaseException], kind: type[BaseException]) -> bool:
    return any(isinstance(error, kind) for error in causes)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
