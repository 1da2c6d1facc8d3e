"""One figure for any result's table: on each row an estimate and its interval."""

import textwrap

import pandas as pd
import plotly.graph_objects as go

from backtracking.core.errors import InputError
from backtracking.faces.figures.style import FONT, palette

_LABEL_WIDTH = 32


def intervals_by_row(
    table: pd.DataFrame, value: str, *, label: str = "condition", title: str, axis: str, scale: float = 100.0
) -> go.Figure:
    """Draw a column of estimates, one row each, with the intervals beside it; a dotted line marks 0.

    A row whose estimate is missing is named and has no point.

    Args:
        table: A result's `to_pandas()`.
        value: Column of the estimate, such as `right` with its `right_low` and `right_high`; to `value` belong
            `low` and `high`, to `regraded_value` so `regraded_low` and `regraded_high`.
        label: Column that names the rows.
        title: Of the figure; a second line, after `<br>`, is a caption.
        axis: What the numbers are, with their unit.
        scale: Numbers are multiplied by it: 100 makes shares per cent, 1 leaves them.

    Raises:
        InputError: The table lacks one of the columns.
    """
    stem = value.removesuffix("value") if value.endswith("value") else f"{value}_"
    low, high = f"{stem}low", f"{stem}high"
    lacking = [name for name in (label, value, low, high) if name not in table]
    if lacking:
        raise InputError(f"the table has no column {lacking[0]!r}; it has {', '.join(map(str, table.columns))}")
    middle, ends = scale * table[value], (scale * table[low], scale * table[high])
    names = ["<br>".join(textwrap.wrap(str(name), _LABEL_WIDTH)) for name in table[label]]
    lines = max((name.count("<br>") for name in names), default=0) + 1
    figure = go.Figure(
        go.Scatter(
            x=middle, y=list(range(len(names))), mode="markers", marker={"size": 10, "color": palette("light").first},
            error_x={"type": "data", "array": ends[1] - middle, "arrayminus": middle - ends[0], "thickness": 2},
            customdata=[[name, a, b] for name, a, b in zip(table[label], *ends, strict=True)],
            hovertemplate="%{customdata[0]}: %{x:.3g} [%{customdata[1]:.3g}, %{customdata[2]:.3g}]<extra></extra>",
        )
    )  # fmt: skip
    figure.add_vline(x=0, line_dash="dot", line_color="#777", line_width=1)
    heading, _, caption = title.partition("<br>")
    figure.update_layout(
        title={"text": heading + (f"<br><sub>{caption}</sub>" if caption else ""), "x": 0.01, "font": {"size": 16}},
        template="plotly_white",
        font={"family": FONT, "size": 14},
        xaxis={"title": axis, "zeroline": False},
        yaxis={
            "tickvals": list(range(len(names))), "ticktext": names, "range": [len(names) - 0.5, -0.5],
            "ticksuffix": "  ", "automargin": True, "showgrid": False, "zeroline": False,
        },
        height=170 + (16 + 18 * lines) * len(names),
        margin={"l": 10, "r": 20, "t": 80, "b": 60},
    )  # fmt: skip
    return figure
