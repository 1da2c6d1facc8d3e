"""What commands print: a few lines for people, or one JSON document for scripts."""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

out = Console(highlight=False)


def say(text: str) -> None:
    """Print a line as it is, however long: what reads it may be a script."""
    out.print(text, soft_wrap=True, highlight=False, markup=False)


def answer(document: Mapping[str, Any], lines: Iterable[str], *, as_json: bool) -> None:
    """Print the result of a command: as one JSON document, or else as lines.

    A number that is missing or not finite is null in the document; a path is text.
    """
    if as_json:
        print_json(document)
        return
    for line in lines:
        say(line)


def print_json(document: Any) -> None:
    """Print a document, alone on standard output."""
    sys.stdout.write(json.dumps(_plain(document), indent=2, allow_nan=False) + "\n")


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, ready for a document."""
    return json.loads(str(table.to_json(orient="records", double_precision=15)))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and value - value != 0:  # NaN and both infinities
        return None
    return value
