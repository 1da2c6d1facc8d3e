"""How every figure looks: Okabe and Ito's colours on a light or a dark ground, one template, titles that wrap."""

import html
import textwrap
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go

from backtracking.core.errors import InputError

Theme = Literal["light", "dark"]
FONT = "system-ui, -apple-system, 'Segoe UI', sans-serif"
MONOSPACE = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"
_TITLE_WIDTH, _CAPTION_WIDTH = 38, 58
"""Letters on one line that a window of 400 pixels shows."""


@dataclass(frozen=True)
class Palette:
    """The colours of one theme; those of data are Okabe and Ito's, told apart by the colour-blind."""

    ground: str
    ink: str
    soft: str
    line: str
    middle: str
    """Of a scale: no change."""
    first: str
    """Backtracking, onsets, more."""
    second: str
    """Accuracy, controls, less."""
    region: str
    flows: tuple[str, ...]
    """Fixed, same right answer, broken, another wrong answer, same wrong answer, unknown."""
    heat: str
    """Of a probability of one; the letters on it are `ink`."""


PALETTES: dict[Theme, Palette] = {
    "light": Palette(
        ground="#ffffff", ink="#1b1f24", soft="#57606a", line="#d0d7de", middle="#f6f6f6",
        first="#0072B2", second="#D55E00", region="rgba(0, 158, 115, 0.13)",
        flows=("#009E73", "#56B4E9", "#D55E00", "#CC79A7", "#E69F00", "#b8bec4"), heat="#E69F00",
    ),
    "dark": Palette(
        ground="#0d1117", ink="#e6edf3", soft="#9aa4af", line="#343b44", middle="#1c222a",
        first="#56B4E9", second="#E69F00", region="rgba(0, 158, 115, 0.28)",
        flows=("#009E73", "#56B4E9", "#D55E00", "#CC79A7", "#E69F00", "#767e87"), heat="#a85400",
    ),
}  # fmt: skip


def palette(theme: Theme) -> Palette:
    """The colours of a theme.

    Raises:
        InputError: There is no such theme.
    """
    if theme not in PALETTES:
        raise InputError(f"no theme {theme!r}; there are {', '.join(PALETTES)}")
    return PALETTES[theme]


def template(colours: Palette) -> go.layout.Template:
    """The template of every figure."""
    axis = {
        "gridcolor": colours.line,
        "linecolor": colours.line,
        "zeroline": False,
        "automargin": True,
        "title": {"standoff": 8},
    }
    return go.layout.Template(
        layout={
            "paper_bgcolor": colours.ground,
            "plot_bgcolor": colours.ground,
            "font": {"family": FONT, "size": 14, "color": colours.ink},
            "title": {
                "font": {"size": 16}, "x": 0.01, "xanchor": "left", "yref": "container", "y": 1, "yanchor": "top",
                "pad": {"t": 16},
            },
            "xaxis": axis,
            "yaxis": axis,
            "legend": {
                "orientation": "h", "x": 0, "xref": "container", "y": 0, "yref": "container", "yanchor": "bottom",
            },
            "hoverlabel": {"font": {"family": FONT}},
            "colorway": [colours.first, colours.second, *colours.flows],
        }
    )  # fmt: skip


def laid_out(
    figure: go.Figure,
    *,
    theme: Theme,
    title: str,
    caption: str,
    height: int,
    x: str = "",
    y: str = "",
    below: int = 0,
    width: int | None = None,
) -> go.Figure:
    """Give a figure the template, a title with its caption, and the height that its plot needs.

    Args:
        figure: With its traces.
        theme: Light or dark.
        title: One line.
        caption: What the reader must know: n, model, interval.
        height: Of the plot without title and legend, in pixels.
        x: Title of the axis.
        y: Title of the axis.
        below: Room for a long legend or a scale, in pixels more.
        width: The most the figure should have, in pixels.
    """
    heading = textwrap.wrap(title, _TITLE_WIDTH)
    lines = textwrap.wrap(caption, _CAPTION_WIDTH)
    text = "<br>".join([*map(plain, heading), *(f"<sub>{plain(line)}</sub>" for line in lines)])
    above = 34 + 20 * len(heading) + 20 * len(lines)
    traces: list[Any] = list(figure.data)
    named = any(trace.showlegend is not False and trace.name for trace in traces)
    below += 50 + (46 if named else 0)
    figure.update_layout(
        template=template(palette(theme)),
        title={"text": text},
        meta={"title": title, "caption": caption} | ({} if width is None else {"width": width}),
        height=height + above + below,
        margin={"l": 12, "r": 16, "t": above, "b": below},
    )
    figure.update_xaxes(title_text=x)
    figure.update_yaxes(title_text=y)
    return figure


def plain(text: object) -> str:
    """Text that plotly shows as it is, tags included."""
    return html.escape(str(text), quote=False)


def shown_width(figure: go.Figure, otherwise: int) -> int:
    """The width a picture of the figure should have, in pixels."""
    meta = figure.to_dict()["layout"].get("meta") or {}
    return int(meta.get("width", otherwise))


def counted(values: Any) -> str:
    """Return `480`, or `470 to 480` where they differ."""
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"


def of_model(model: str | None) -> str:
    """How a caption begins where the model is known."""
    return "" if model is None else f"{model}; "


def bars(table: pd.DataFrame, name: str, *, scale: float = 100.0) -> dict[str, Any]:
    """Error bars from `name_low` and `name_high` of a table."""
    high = scale * (table[f"{name}_high"] - table[name])
    low = scale * (table[name] - table[f"{name}_low"])
    return {"type": "data", "array": high.tolist(), "arrayminus": low.tolist(), "thickness": 2, "width": 5}


def interval(table: pd.DataFrame, name: str) -> list[str]:
    """Each row's estimate with its interval, in per cent, for the hover text."""
    columns = (table[name], table[f"{name}_low"], table[f"{name}_high"])
    return [f"{100 * v:.1f} [{100 * low:.1f}, {100 * high:.1f}]" for v, low, high in zip(*columns, strict=True)]
