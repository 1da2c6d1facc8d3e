"""Fetch models and data sets from the Hub into the local cache: pinned, checked, resumable, or offline.

huggingface_hub does the transfer: a file that is whole is not fetched again, and a connection that is cut is
taken up where it broke, to within 10 MB; a file that was cut by the end of the process begins anew. Around
it stand what it leaves out: the space on the disk before, the checksum of every file after, a limit to the
waits, and errors that say what to do.
"""

import difflib
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_session, get_token, snapshot_download, try_to_load_from_cache
from huggingface_hub.utils import filter_repo_objects, parse_ratelimit_headers

from backtracking.core.errors import InputError
from backtracking.workspace.hub_errors import FAILURES, Asked, Kind, explain, is_unknown, status_of, too_long

MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "README.md", "LICENSE*")
"""Weights, tokenizer, config and card at the top of a repository; never a pickle, which can run code."""
NOT_MODEL_FILES = ("*/*", "consolidated*")
"""Other formats in subfolders, and Mistral's second copy of the weights."""
LONGEST_WAIT = 120.0
"""Seconds that one call waits in all when the Hub has had too many requests."""
SILENCE = 30.0
"""Seconds after which a listing that does not come is given up."""
GIB = 2**30


@dataclass(frozen=True)
class HubSnapshot:
    """A repository's chosen files at one commit, whole in the local cache."""

    name: str
    kind: Kind
    revision: str
    """The commit, whatever was asked for."""
    folder: Path
    files: tuple[str, ...]
    size: int
    """Bytes of all files."""
    mended: tuple[str, ...] = ()
    """Files whose checksum was wrong at first, and which were fetched again."""
    checked: bool = True
    """Whether the files were compared with the Hub's checksums; offline there is nothing to compare with."""


def fetch_model(name: str, *, revision: str | None = None, offline: bool = False) -> HubSnapshot:
    """Fetch a model into the local cache: safetensors, tokenizer and config.

    Args:
        name: Hub id, such as `Qwen/Qwen2.5-0.5B`.
        revision: Branch, tag or commit; the default branch if None.
        offline: Touch no network: find it whole in the cache, or fail.

    Raises:
        InputError: There is no such model or revision, it is gated, holds no safetensors, the network, disk or
            checksum fails. One line says what to do.
    """
    snapshot = fetch_snapshot(
        name, "model", allow=MODEL_FILES, ignore=NOT_MODEL_FILES, revision=revision, offline=offline
    )
    if not any(file.endswith(".safetensors") for file in snapshot.files):
        raise InputError(f"the model {name} has no safetensors at its top; pickles are not read, as they can run code")
    return snapshot


def fetch_snapshot(
    name: str,
    kind: Kind,
    *,
    allow: Sequence[str],
    ignore: Sequence[str] = (),
    revision: str | None = None,
    offline: bool = False,
) -> HubSnapshot:
    """Fetch the files of a repository that fit the patterns, and check every one of them.

    Args:
        name: Hub id.
        kind: Model or data set.
        allow: Shell patterns of the files to fetch.
        ignore: Shell patterns of files to leave out all the same.
        revision: Branch, tag or commit; the default branch if None.
        offline: Touch no network.

    Raises:
        InputError: As `fetch_model`.
    """
    asked = Asked(name, kind, revision, token_sent=get_token() is not None)
    options: dict[str, Any] = {"repo_type": kind, "allow_patterns": list(allow), "ignore_patterns": list(ignore)}
    if offline or constants.is_offline_mode():
        return _from_cache(asked, options)
    with _waiting_at_most(LONGEST_WAIT, asked):
        info = _listing(asked)
        sizes = {each.rfilename: each.size or 0 for each in info.siblings or ()}
        files = tuple(sorted(filter_repo_objects(sizes, allow_patterns=list(allow), ignore_patterns=list(ignore))))
        if not files:
            raise InputError(f"{asked.what} holds none of {', '.join(allow)}; look at {asked.page}")
        _require_space(asked, {file: sizes[file] for file in files}, str(info.sha))
        folder = _download(asked, options)
        if folder.name != info.sha:
            raise InputError(f"{asked.what} was changed while it was being fetched; run the same command again")
        mended = _mend(asked, folder, options)
    size = sum((folder / file).stat().st_size for file in files)
    return HubSnapshot(name, kind, folder.name, folder, files, size, mended)


def _from_cache(asked: Asked, options: dict[str, Any]) -> HubSnapshot:
    try:
        folder = Path(snapshot_download(asked.name, revision=asked.revision, local_files_only=True, **options))
    except FAILURES as error:
        raise explain(error, asked) from error
    patterns = {key: options[key] for key in ("allow_patterns", "ignore_patterns")}
    held = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    files = tuple(sorted(filter_repo_objects(held, **patterns)))
    size = sum((folder / file).stat().st_size for file in files)
    return HubSnapshot(asked.name, asked.kind, folder.name, folder, files, size, checked=False)


def _listing(asked: Asked) -> Any:
    """Commit, files and sizes of the repository; a wait the Hub asks for is kept, up to the limit."""
    while True:
        try:
            return HfApi().repo_info(
                asked.name, repo_type=asked.kind, revision=asked.revision, files_metadata=True, timeout=SILENCE
            )
        except InputError:
            raise
        except FAILURES as error:
            if status_of(error) != 429:
                near = _look_for(asked) if is_unknown(error) else ()
                raise explain(error, replace(asked, near=near)) from error
            time.sleep(_asked_wait(error.response.headers))  # pyright: ignore[reportAttributeAccessIssue]


def _look_for(asked: Asked) -> tuple[str, ...]:
    """The owner's repositories of nearly that name; none where the Hub does not say."""
    owner, slash, _ = asked.name.partition("/")
    if not slash:
        return ()
    api = HfApi()
    try:
        listed = (api.list_models if asked.kind == "model" else api.list_datasets)(author=owner, limit=200)
        return tuple(difflib.get_close_matches(asked.name, [each.id for each in listed], n=2, cutoff=0.7))
    except FAILURES:
        return ()  # a hint is not worth an error of its own


def _require_space(asked: Asked, sizes: dict[str, int], revision: str) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    missing = sum(
        size
        for file, size in sizes.items()
        if not isinstance(try_to_load_from_cache(asked.name, file, repo_type=asked.kind, revision=revision), str)
    )
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if missing > free:
        raise InputError(
            f"{asked.what} needs {missing / GIB:.2f} GiB more at {cache}, where {free / GIB:.2f} GiB are free: "
            "free space, or set HF_HOME to a folder on another disk"
        )


def _download(asked: Asked, options: dict[str, Any]) -> Path:
    try:
        return Path(snapshot_download(asked.name, revision=asked.revision, max_workers=4, **options))
    except InputError:
        raise
    except FAILURES as error:
        raise explain(error, asked) from error


def _mend(asked: Asked, folder: Path, options: dict[str, Any]) -> tuple[str, ...]:
    """Compare every file with the Hub's checksum; remove those that differ and fetch them again, once."""
    wrong = _remove_wrong(asked, folder)
    if not wrong:
        return ()
    warnings.warn(f"wrong checksum, fetched again: {', '.join(wrong)} of {asked.what}", stacklevel=2)
    _download(asked, options)
    still = _remove_wrong(asked, folder)
    if still:
        raise InputError(
            f"the checksum of {still[0]} of {asked.what} is wrong, also when fetched again; the file was removed: "
            "something between here and the Hub changes files, try another network"
        )
    return wrong


def _remove_wrong(asked: Asked, folder: Path) -> tuple[str, ...]:
    try:
        found = HfApi().verify_repo_checksums(asked.name, repo_type=asked.kind, revision=folder.name)
    except InputError:
        raise
    except FAILURES as error:
        raise explain(error, asked) from error
    wrong = tuple(each["path"] for each in found.mismatches)
    for path in wrong:
        link = folder / path
        link.resolve().unlink()
        link.unlink(missing_ok=True)
    return wrong


@contextmanager
def _waiting_at_most(seconds: float, asked: Asked) -> Iterator[None]:
    """Stop where the waits that the Hub asks for add up to more; huggingface_hub keeps each, however long."""
    waited = 0.0

    def count(response: Any) -> None:
        nonlocal waited
        if response.status_code == 429:
            wait = _asked_wait(response.headers)
            waited += wait
            if waited > seconds:
                raise too_long(wait, seconds, asked)

    hooks = get_session().event_hooks
    get_session().event_hooks = hooks | {"response": [*hooks.get("response", []), count]}
    try:
        yield
    finally:
        get_session().event_hooks = hooks


def _asked_wait(headers: Any) -> float:
    """Seconds the Hub asks to wait, by either of its headers, or 5 where it names no number."""
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    value = headers.get("Retry-After", "").strip()
    return float(value) if value.isdigit() else 5.0
