"""Find, measure and switch off backtracking in reasoning models.

```python
import backtracking as bt

model = bt.load_model("organism")
problems = bt.load_problems("organism", n=20)
arms = {"head off": ["attn.1.h0*0@decode"]}
completions = bt.sample(model, problems, conditions=arms, max_new_tokens=220)
events, onsets = bt.detect_events(completions, problems)
print(bt.compare_conditions(events).to_pandas().round(3).T)
```
"""

import ast
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

_STUB = Path(__file__).with_suffix(".pyi")
"""Lists every public name: editors and type checkers read it, and so does this module."""
_HOMES = {
    alias.name: node.module
    for node in ast.parse(_STUB.read_text(encoding="utf-8")).body
    if isinstance(node, ast.ImportFrom) and node.module is not None
    for alias in node.names
}
__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """A public name, loaded when it is first used: `backtracking doctor` must work where torch does not."""
    if name == "__version__":
        return version(__name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Every public name."""
    return [*globals(), *__all__]
