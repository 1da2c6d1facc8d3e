"""Private keys in a text, whole or cut short.

A key is one block of lines in base 64. Where its lines are strings of a list, comments or rows of a page, each
piece is a secret of its own: what stands between them belongs to the document around the key, which must stay whole.
"""

import re
from collections.abc import Iterator

_ARMOUR = "-----BEGIN "
_BREAK = r"(?:\s|\\+[nrt]|%0[ADad])"
"""White space, also as it is written in JSON and in an address."""
_LETTER = r"[A-Za-z0-9+/=]"
_WORD = rf"(?:{_LETTER}{{16,}}|(?=[A-Za-z]*[0-9+/=]){_LETTER}+)"
"""Goes on with a key that has begun; a short word of letters alone is ordinary text after a key that was cut."""
_LINES = rf"(?:{_BREAK}{{1,40}}{_WORD})*"
_END = rf"(?:{_BREAK}{{0,40}}(?:{_LETTER}{{1,15}}{_BREAK}{{1,40}}){{0,8}}-----END [A-Z0-9 ]{{1,60}}-----)?"
_GAP = r"(?:<[^<>]{1,80}>|\\+[nrt]|\\(?![A-Za-z])|[^A-Za-z0-9+/=<\\])"
"""What may stand between two lines: marks and markup, no words."""
_MIXED = rf"(?={_LETTER}*[a-z])(?={_LETTER}*[A-Z])(?={_LETTER}*[0-9])"

_FIRST = re.compile(
    rf"{_ARMOUR}(?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
    rf"(?:{_BREAK}{{1,10}}[A-Z][A-Za-z0-9-]{{1,40}}: [^\n\r\\\"'<>]{{0,200}}){{0,8}}"
    rf"(?P<body>{_BREAK}{{0,40}}{_LETTER}{{16,}}{_LINES}{_END})?"
)
_MORE = re.compile(
    rf"{_GAP}{{1,40}}(?P<value>{_MIXED}{_LETTER}{{32,}}{_LINES}{_END}|{_LETTER}{{1,80}}(?={_GAP}{{0,40}}-----END ))"
)


class PrivateKeys:
    """The shape of private keys: of PEM, OpenSSH and PGP."""

    kind = "private key"

    def spans(self, text: str, _small: str) -> Iterator[tuple[int, int]]:
        """Where pieces of private keys stand in the text: first character, and the one after the last.

        Args:
            text: What to look through.
            _small: Not needed here; other shapes look through the text in lower case.
        """
        start = text.find(_ARMOUR)
        while start >= 0:
            end = start + len(_ARMOUR)
            if first := _FIRST.match(text, start):
                more = list(_following(text, first.end()))
                if first["body"] or more:
                    yield first.span()
                    yield from more
                    end = more[-1][1] if more else first.end()
            start = text.find(_ARMOUR, end)


def _following(text: str, place: int) -> Iterator[tuple[int, int]]:
    while more := _MORE.match(text, place):
        yield more.span("value")
        place = more.end()
