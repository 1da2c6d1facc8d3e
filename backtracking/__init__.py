"""Find, measure and switch off backtracking in reasoning models.

```python
import backtracking as bt

model = bt.load_model("organism")
problems = bt.load_problems("organism", n=20)
arms = {"head off": ["attn.1.h0*0@decode"]}
completions = bt.sample(model, problems, conditions=arms, max_new_tokens=220)
events, onsets = bt.detect_events(completions, problems)
print(bt.compare_conditions(events).to_pandas())
```
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # editors and type checkers see the names; at run time torch is loaded when one is used
    from backtracking.public import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """Return a public name, importing the library at the first of them: the command line's help needs none."""
    if name == "__all__" or not name.startswith("_"):
        public = import_module("backtracking.public")
        if name == "__all__" or name in public.__all__:
            return globals().setdefault(name, getattr(public, name))
    raise AttributeError(f"module 'backtracking' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted({*globals(), *import_module("backtracking.public").__all__})
