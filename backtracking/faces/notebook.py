"""Notebook views: a number for every token of a completion, shown on its text.

The default is plain HTML of this library: no script, no network. circuitsvis draws the same with its own
controls; its script is put into the cell (1.3 MB), since it would else be fetched from a network.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backtracking.core.completions import Completion
from backtracking.core.errors import InputError
from backtracking.core.markup import escaped, visible

_BOX = "white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate;font-family:ui-monospace,monospace"
_POSITIVE, _NEGATIVE = "230,159,0", "86,180,233"


@dataclass(frozen=True)
class Html:
    """A piece of HTML that a notebook shows."""

    text: str

    def _repr_html_(self) -> str:
        return self.text


def show_tokens(completion: Completion, values: Sequence[float] | np.ndarray, *, circuitsvis: bool = False) -> Html:
    """The completion's text, every token shaded by its value; the value stands in the tooltip.

    Orange is positive, blue negative, and the largest magnitude is the fullest shade; the scale stands below.
    A token without a value (NaN) is left plain.

    Args:
        completion: What was sampled.
        values: One number for each sampled id.
        circuitsvis: Draw with circuitsvis instead; works without a network too.

    Raises:
        InputError: There are more or fewer values than ids.
    """
    numbers = np.asarray(values, dtype=float)
    if numbers.shape != (len(completion.ids),):
        raise InputError(f"values have the shape {numbers.shape}; give one for each of {len(completion.ids)} ids")
    tokens = [completion.token_text(index) for index in range(len(numbers))]
    return Html(_circuitsvis(tokens, numbers) if circuitsvis else _plain(completion, tokens, numbers))


def _plain(completion: Completion, tokens: Sequence[str], values: np.ndarray) -> str:
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if len(finite) else 0.0
    spans = []
    for index, (token, value) in enumerate(zip(tokens, values.tolist(), strict=True)):
        told = f"{value:.4g}" if np.isfinite(value) else "no value"
        title = f"token {index}, id {completion.ids[index]}: {told}"
        spans.append(f'<span title="{title}" style="{_shade(value, largest)}">{escaped(token)}</span>')
    scale = f"shades: orange positive, blue negative, fullest at {largest:.3g}; {len(tokens)} tokens"
    return f'<div><div dir="auto" style="{_BOX}">{"".join(spans)}</div><small>{scale}</small></div>'


def _shade(value: float, largest: float) -> str:
    if not np.isfinite(value) or not largest or not value:
        return ""
    strength = abs(value) / largest
    colour = _POSITIVE if value > 0 else _NEGATIVE
    line = "solid" if value > 0 else "dotted"
    return f"background:rgba({colour},{0.6 * strength:.2f});border-bottom:2px {line} rgba({colour},{strength:.2f})"


def _circuitsvis(tokens: Sequence[str], values: np.ndarray) -> str:
    """Drawn by circuitsvis, its script in the cell; a token can neither end the script nor be read as HTML."""
    from circuitsvis.utils.convert_props import convert_props
    from circuitsvis.utils.render import render_local

    properties = {
        "tokens": [visible(token) for token in tokens],
        "values": [value if np.isfinite(value) else 0.0 for value in values.tolist()],
    }
    written = convert_props(properties)
    safe = written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return render_local("ColoredTokens", **properties).replace(written, safe)
