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
LEAST_NAMED = 6
"""The same under a name that says that the value is secret, if it is neither a word nor a number."""

_SECRET_NAME = re.compile(
    r"TOKEN(?!IZER)|KEY|SECRET|PASS|PWD|CREDENTIAL|AUTH(?!ORS?(?:_|$))|PRIVATE|COOKIE|LOGIN|WEBHOOK|"
    r"(?:^|_)PINS?(?:_|$)",
    re.I,
)
_PLAIN_NAME = re.compile(
    r"(?:^|_)(?:HOME|DIR|PATH|CACHE|PROJECT|ENTITY|ENDPOINT|MODEL|MODEL_ID|NAME|HOST|REPO|REPO_ID|DATASET|BRANCH)$",
    re.I,
)
_SWITCH_NAME = re.compile(
    r"(?:^|_)(?:MODE|DEVICE|DEVICES|THREADS|LEVEL|PORT|OFFLINE|DEBUG|REGION|REMOTE)$",
    re.I,
)
_WORD_OR_NUMBER = re.compile(r"[-+]?[\d.,_]+|[A-Za-z]+")
_PLACEHOLDER = re.compile(r"(?:your|my|changeme|replace|example)[-_ ].*|<.*>|(.)\1*", re.I | re.S)
_PATH = re.compile(r"[~.]{0,2}/[^\s:@]*|[A-Za-z]:\\.*", re.S)
_ADDRESS = re.compile(r"https?://[^\s@/?#]*(?P<path>[^\s@?#]*)(?P<query>\?[^\s@#]+)?[^\s@]*", re.I)
_STRETCH = re.compile(r"[A-Za-z0-9+=]{16,}")
_CAMEL = re.compile(r"(?:[A-Z]?[a-z]+|[A-Z]+)(?:[A-Z][a-z]+)*")


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

    Under a name that says that it is secret (TOKEN, KEY, PASSWORD, LOGIN, PIN and the like) a value counts from 8
    characters on, or from 6 if it is neither a word nor a number. Under any other name these pass: values of fewer
    than 8 characters, numbers, words, placeholders such as `your-token`, paths that exist or hold no long stretch
    of mixed letters and digits, and addresses without a query and without such a stretch. What a name like
    MODEL, PROJECT or HOME holds passes too, unless it is an address that counts.
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
    held = value.strip()
    secret_name = name in TOKEN_VARIABLES or (
        _SECRET_NAME.search(name) and not _PLAIN_NAME.search(name) and not _SWITCH_NAME.search(name)
    )
    if secret_name:
        return len(held) >= LEAST or (len(held) >= LEAST_NAMED and not _WORD_OR_NUMBER.fullmatch(held))
    if len(held) < LEAST or _PLACEHOLDER.fullmatch(held):
        return False
    if address := _ADDRESS.fullmatch(held):
        return address["query"] is not None or any(map(_is_drawn, _STRETCH.findall(address["path"])))
    if _PLAIN_NAME.search(name):
        return False
    drawn = any(map(_is_drawn, _STRETCH.findall(held)))
    if _PATH.fullmatch(held):
        return drawn and not _exists(held)
    if _SWITCH_NAME.search(name):
        return _kinds(held) == 3
    return drawn or not _WORD_OR_NUMBER.fullmatch(held)


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long, of an unknown user, or with a zero byte: no path here
        return False


def _is_drawn(stretch: str) -> bool:
    """Whether letters and digits look drawn at random: all three kinds, or both cases that are no CamelCase."""
    kinds = _kinds(stretch)
    both = any(c.islower() for c in stretch) and any(c.isupper() for c in stretch)
    return kinds == 3 or (both and not _CAMEL.fullmatch(stretch))


def _kinds(value: str) -> int:
    """How many there are of upper case, lower case and digits."""
    return sum((any(c.isupper() for c in value), any(c.islower() for c in value), any(c.isdigit() for c in value)))


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
    return tuple(form for form in dict.fromkeys(found) if len(form) >= LEAST or form == value)
