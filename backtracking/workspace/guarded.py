"""Writing what a run leaves behind with its secrets hidden.

A model may write something with the shape of a token, and an error message may hold a real one. Tables, logs,
figures and reports show `[hidden: ...]` in its place, and a warning counts what was hidden.
"""

import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from backtracking.core import atomic
from backtracking.workspace.secrets import hide


class HiddenSecretWarning(UserWarning):
    """Something written held secrets; they were hidden in it."""


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all, with secrets hidden; warns of how many there were."""
    shown, hidden = hide(text)
    atomic.write_text(path, shown)
    tell(path.name, hidden)


def hide_in_values(values: dict[str, Any]) -> dict[str, Any]:
    """Values for a JSON file with secrets hidden in their text; what JSON does not know is written as text."""
    shown, hidden = hide(json.dumps(values, ensure_ascii=False, default=str))
    tell("manifest.json", hidden)
    return json.loads(shown)


def hide_in_frame(frame: pd.DataFrame, *, name: str) -> pd.DataFrame:
    """The table with secrets hidden in its text; warns of how many there were. Other values are untouched."""
    total: Counter[str] = Counter()
    changed: dict[str, Any] = {}
    for column in frame.columns:
        values = frame[column]
        texts = [value for value in values if isinstance(value, str)]
        if not texts or not hide("\n".join(texts))[1]:
            continue
        pairs = [hide(value) if isinstance(value, str) else (value, Counter()) for value in values]
        changed[column] = [shown for shown, _ in pairs]
        total.update(sum((hidden for _, hidden in pairs), Counter()))
    tell(name, total)
    return frame.assign(**changed) if changed else frame


def tell(name: str, hidden: Counter[str]) -> None:
    """Warn of what was hidden in a file, if anything was."""
    if hidden:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(hidden.items()))
        warnings.warn(f"secrets hidden in {name}: {kinds}", HiddenSecretWarning, stacklevel=3)
