"""The values that are secret because this project's `.env` or the environment says so, in every form they travel in."""

import base64
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, quote_plus

from dotenv import dotenv_values

from backtracking.workspace.paths import project_root

TOKEN_VARIABLES = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "WANDB_API_KEY",
    "GITHUB_TOKEN",
    "GH_TOKEN",
    "BACKTRACKING_GIT_TOKEN",
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SESSION_TOKEN",
)
LEAST = 8
"""A shorter value would be found in ordinary text."""

_SECRET_NAME = re.compile(r"TOKEN|KEY|SECRET|PASS|PWD|CREDENTIAL|AUTH|PRIVATE|COOKIE", re.I)
_PLAIN_NAME = re.compile(
    r"(?:^|_)(?:HOME|DIR|PATH|CACHE|PROJECT|ENTITY|MODE|ENDPOINT|MODEL|DEVICE|DEVICES|THREADS|LEVEL|NAME|HOST|"
    r"PORT|OFFLINE|DEBUG|REGION|DATASET|BRANCH|REMOTE)$",
    re.I,
)
_PLAIN_VALUE = re.compile(
    r"[~.]{0,2}/[^\s:@]*|[A-Za-z]:\\.*|https?://[^\s@]*|[-+]?[\d.,_]+|[A-Za-z]+|"
    r"(?:your|my|changeme|replace|example)[-_ ].*|<.*>|(.)\1*",
    re.I | re.S,
)


@dataclass(frozen=True)
class KnownValue:
    """A secret value; it is never shown."""

    name: str
    value: str = field(repr=False)
    forms: tuple[str, ...] = field(repr=False)
    """The value itself, and how it looks in an address and in base 64."""

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Where the value stands in the text, in any of its forms."""
        for form in self.forms:
            start = text.find(form)
            while start >= 0:
                yield start, start + len(form)
                start = text.find(form, start + len(form))


def known_values(root: Path | None = None) -> tuple[KnownValue, ...]:
    """The values of `.env` at the project's root, and of the environment's token variables.

    Left out are values of fewer than 8 characters, and, under a name that does not say that it is secret,
    paths, addresses, numbers and single words.
    """
    folder = root or project_root()
    named = {name: value for name in TOKEN_VARIABLES if (value := os.environ.get(name))}
    held = {} if folder is None else _held_in(folder / ".env")
    chosen = [(name, value) for name, value in (*named.items(), *held) if _counts(name, value)]
    return _with_forms(tuple(dict((value, name) for name, value in reversed(chosen)).items()))


def _held_in(file: Path) -> tuple[tuple[str, str], ...]:
    if not file.is_file():
        return ()
    stat = file.stat()
    return _parsed(str(file), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)
def _parsed(file: str, _modified: int, _size: int) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in dotenv_values(file).items() if value)


def _counts(name: str, value: str) -> bool:
    if len(value.strip()) < LEAST:
        return False
    if name in TOKEN_VARIABLES or (_SECRET_NAME.search(name) and not _PLAIN_NAME.search(name)):
        return True
    return not (_PLAIN_NAME.search(name) or _PLAIN_VALUE.fullmatch(value.strip()))


@lru_cache(maxsize=8)
def _with_forms(chosen: tuple[tuple[str, str], ...]) -> tuple[KnownValue, ...]:
    return tuple(KnownValue(name, value, _forms(value.strip())) for value, name in chosen)


def _forms(value: str) -> tuple[str, ...]:
    raw = value.encode("utf-8", "surrogatepass")
    found = [value, value.replace("\n", "\r\n"), quote(value, safe=""), quote_plus(value), quote(value)]
    for shift in range(3):  # in base 64 the same bytes look different at each place modulo three
        padded = bytes(shift) + raw
        first = -(-8 * shift // 6)
        last = 8 * len(padded) // 6  # characters that the value alone decides
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.append(encode(padded).decode()[first:last])
    return tuple(form for form in dict.fromkeys(found) if len(form) >= LEAST)
