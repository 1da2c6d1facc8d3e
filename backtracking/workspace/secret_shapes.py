"""What secrets look like: tokens of the services used here, keys, and addresses that hold credentials.

A long number in hexadecimal is a digest as often as a key, so those shapes count only where the text
before them names what they are.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from backtracking.workspace.private_keys import PrivateKeys

BEFORE = 160
"""Characters before a value in which its name is looked for; a name may stand a line or two above."""

LONGEST = 80
"""Characters after that stretch in which a value that begins there ends."""

_WORDS = 5
"""Underscores and hyphens in 40 characters that are a name of several words; in data one of 32 characters is one."""

_BLOB = re.compile(r"[A-Za-z0-9_-]{40}\Z")
_DIGEST = re.compile(r"(?:commit|sha\d*|rev|revision|hash|tree|blob|parent|digest|checksum|etag|@)\W{0,12}$", re.I)


@dataclass(frozen=True)
class Shape:
    """One kind of secret."""

    kind: str
    needles: tuple[str, ...]
    """Literal beginnings of the secret; of a named one, words in lower case that stand before it."""
    pattern: re.Pattern[str]
    """Its group `value`, if it has one, is the secret; else all of it."""
    named: re.Pattern[str] | None = None
    """Must be found in the text before the value, which then may begin anywhere after a needle."""
    mixed: bool = False
    """Whether the value must mix upper case, lower case and digits."""
    apart: int | None = None
    """Characters of the longest such secret, if it does not count in the midst of data in base 64, where any letters
    occur: that is when such data stand before it, and go on after it or make it longer."""

    def spans(self, text: str, small: str) -> Iterator[tuple[int, int]]:
        """Where such secrets stand in the text: first character, and the one after the last.

        Args:
            text: What to look through.
            small: The same in lower case, of the same length.
        """
        matches = self._beginning(text) if self.named is None else self._following(text, small)
        for match in matches:
            start, end = match.span("value") if "value" in self.pattern.groupindex else match.span()
            if self.named is not None and not self._is_named(text, start):
                continue
            if self.apart is not None and _in_blob(text, start, end, longest=self.apart):
                continue
            if self.mixed and not _is_mixed(text[start:end]):
                continue
            yield start, end

    def _beginning(self, text: str) -> Iterator[re.Match[str]]:
        for needle in self.needles:
            start = text.find(needle)
            while start >= 0:
                match = self.pattern.match(text, start)
                if match is not None:
                    yield match
                start = text.find(needle, start + 1 if match is None else max(match.end(), start + 1))

    def _following(self, text: str, small: str) -> Iterator[re.Match[str]]:
        done = 0
        for place in sorted(_places(small, self.needles)):
            stop = place + BEFORE + LONGEST
            for match in self.pattern.finditer(text, max(place, done), stop + 1):
                if match.end() <= stop or stop >= len(text):
                    yield match
                    done = match.end()

    def _is_named(self, text: str, start: int) -> bool:
        before = text[max(0, start - BEFORE) : start]
        return bool(self.named and self.named.search(before)) and not _DIGEST.search(before)


def _places(text: str, needles: tuple[str, ...]) -> Iterator[int]:
    for needle in needles:
        start = text.find(needle)
        while start >= 0:
            yield start
            start = text.find(needle, start + 1)


def _in_blob(text: str, start: int, end: int, *, longest: int) -> bool:
    before = text[max(0, start - 40) : start]
    of_words = before.count("_") + before.count("-") >= _WORDS
    data_before = _BLOB.match(before) is not None and _is_mixed(before) and not of_words
    return data_before and (end - start > longest or text[end : end + 1] in ("_", "-"))


def _is_mixed(value: str) -> bool:
    return any(c.isupper() for c in value) and any(c.islower() for c in value) and any(c.isdigit() for c in value)


_SECRET_KEY = re.compile(r"aws|secret[ _-]?(?:access)?[ _-]?key|\b(?:AKIA|ASIA)[A-Z0-9]", re.I)

SHAPES = (
    Shape("hf token", ("hf_", "api_org_"), re.compile(r"(?:hf|api_org)_[A-Za-z0-9]{30,}"), apart=50),
    Shape(
        "github token",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
        re.compile(r"gh[pousr]_[A-Za-z0-9]{30,}"),
        apart=50,
    ),
    Shape("github token", ("github_pat_",), re.compile(r"github_pat_[A-Za-z0-9_]{40,}")),
    Shape("wandb key", ("wandb_v",), re.compile(r"wandb_v\d{1,2}_[A-Za-z0-9_]{40,}")),
    Shape(
        "wandb key",
        ("wandb", "api key", "api-key", "api_key", "apikey", "weights & biases"),
        re.compile(r"(?<![0-9A-Za-z])(?:local-)?[0-9a-f]{40}(?![0-9A-Za-z])"),
        named=re.compile(r"wandb|api[ _-]?key|weights & biases", re.I),
    ),
    Shape("anthropic key", ("sk-ant-",), re.compile(r"sk-ant-[A-Za-z0-9_-]{20,}")),
    Shape(
        "openai key",
        ("sk-",),
        re.compile(
            r"(?<![A-Za-z0-9])(?:sk-(?:proj|svcacct|admin|None|service)-[A-Za-z0-9_-]{20,}|sk-[A-Za-z0-9]{32,})"
        ),
    ),
    Shape("aws key id", ("AKIA", "ASIA"), re.compile(r"(?<![A-Za-z0-9+/])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9+/=])")),
    Shape(
        "aws secret key",
        ("secret", "aws_"),
        re.compile(r"(?<=[=:\s\"'\\])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])"),
        named=re.compile(r"(?:secret_?access_?key|aws_?secret_?key)[\"'\\]{0,3}\s{0,4}[=:]\s{0,4}[\"'\\]{0,3}$", re.I),
    ),
    Shape(
        "aws secret key",
        ("secret", "aws", "akia", "asia"),
        re.compile(r"(?<![A-Za-z0-9/+=])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])"),
        named=_SECRET_KEY,
        mixed=True,
    ),
    Shape(
        "aws secret key",
        ("secret", "aws"),
        re.compile(r"(?<==)[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])"),
        named=_SECRET_KEY,
        mixed=True,
    ),
    Shape(
        "aws session token",
        ("FwoGZXIvYXdz", "IQoJb3JpZ2lu", "FQoGZXIvYXdz", "AQoDYXdz"),
        re.compile(r"[A-Za-z0-9/+]{100,}={0,2}"),
    ),
    PrivateKeys(),
    Shape(
        "url credentials",
        ("://",),
        re.compile(
            r"(?<=[A-Za-z0-9])://(?P<value>[^\s/@:\"'<>`{}$\\]{0,200}:(?!%[s(]|\*)[^\s/@\"'<>`{}$\\\[(]"
            r"[^\s/@\"'<>`{}\\]{0,300}|[A-Za-z0-9_.-]{20,300})@[A-Za-z0-9\[]"
        ),
    ),
)
