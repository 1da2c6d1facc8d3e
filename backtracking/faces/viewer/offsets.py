"""Places in a text as JavaScript counts them: in UTF-16 units, where Python counts code points."""

from collections.abc import Sequence
from itertools import accumulate


def to_utf16(text: str, offsets: Sequence[int]) -> list[int]:
    """For each offset in code points, from 0 to the text's length, the same place in UTF-16 units.

    A character outside the basic plane, such as an emoji, is two units; a lone surrogate is one.
    """
    if text.isascii() or max(text) <= "\uffff":
        return list(offsets)
    units = [0, *accumulate(2 if character > "\uffff" else 1 for character in text)]
    return [units[offset] for offset in offsets]


def first_difference(left: Sequence[int], right: Sequence[int]) -> int | None:
    """Index of the first sampled id in which two completions differ; None where they are the same.

    Where one is the beginning of the other it is the length of the shorter.
    """
    for index, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return index
    return None if len(left) == len(right) else min(len(left), len(right))
