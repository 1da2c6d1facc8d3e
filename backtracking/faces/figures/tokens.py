"""One completion, token by token, in the colour of the probability of a trigger."""

import plotly.graph_objects as go

from backtracking.faces.figures.style import MONOSPACE, Theme, laid_out, of_model, palette, plain
from backtracking.measures.trigger_probability import TriggerProbability

LINE = 50
"""Letters on one line of text."""
_WIDTH = 560
"""In pixels; wider than that, letters of one word drift apart."""


def token_strip(
    read: TriggerProbability,
    *,
    onset: int | None = None,
    around: int = 300,
    model: str | None = None,
    theme: Theme = "light",
) -> go.Figure:
    """The text of one completion; each token's colour is the probability that a trigger begins there.

    Args:
        read: The result.
        onset: Index of the onset among the sampled tokens; it is framed.
        around: Tokens shown at most: a longer completion is cut around the onset (or at its end), and the
            caption says which are shown.
        model: Named in the caption.
        theme: Light or dark.
    """
    colours, total = palette(theme), len(read.tokens)
    begin = max(0, min((onset or 0) - around // 2, total - around))
    shown = range(begin, min(begin + around, total))
    places = _places([read.tokens[index] for index in shown])
    framed = [index == onset for index in shown]
    figure = go.Figure(
        go.Bar(
            showlegend=False,
            orientation="h",
            base=[place[0] for place in places],
            x=[place[2] for place in places],
            y=[place[1] for place in places],
            width=0.86,
            textposition="none",
            marker={
                "color": [float(read.probability[index]) for index in shown],
                "cmin": 0,
                "cmax": 1,
                "colorscale": [[0, colours.middle], [1, colours.heat]],
                "line": {
                    "color": [colours.ink if each else colours.ground for each in framed],
                    "width": [2.5 if each else 0.5 for each in framed],
                },
                "colorbar": {
                    "orientation": "h", "thickness": 10, "y": 0, "yref": "container", "yanchor": "bottom",
                    "tickformat": ".0%", "ticksuffix": " ", "nticks": 5,
                },
            },
            customdata=[[index, plain(repr(read.tokens[index])), float(read.probability[index])] for index in shown],
            hovertemplate="token %{customdata[0]}: %{customdata[1]}<br>"
            "P(trigger) = %{customdata[2]:.3g}<extra></extra>",
        )
    )  # fmt: skip
    figure.add_scatter(
        x=[place[0] for place in places], y=[place[1] for place in places], text=[plain(place[3]) for place in places],
        mode="text", textposition="middle right", textfont={"family": MONOSPACE, "size": 11, "color": colours.ink},
        hoverinfo="skip", showlegend=False, cliponaxis=False,
    )  # fmt: skip
    lines = 1 + max((place[1] for place in places), default=0)
    part = "" if len(shown) == total else f"; tokens {begin} to {begin + len(shown) - 1} of {total}"
    mark = "" if onset is None else f"; framed: the onset, P = {read.probability[onset]:.2g}"
    laid_out(
        figure,
        theme=theme,
        title="Where a trigger was likely, token by token",
        caption=f"{of_model(model)}{read.condition}, problem {read.problem_id}, sample {read.sample_id}; n = 1 "
        f"completion of {total} tokens{part}{mark}; measured under {read.under}, no interval. Colour: "
        "probability that a trigger begins in this place",
        height=20 + 24 * lines,
        below=20,
        width=_WIDTH,
    )
    figure.update_layout(bargap=0)
    figure.update_xaxes(range=[0, LINE + 1], visible=False)
    figure.update_yaxes(range=[lines - 0.5, -0.5], visible=False)
    return figure


def _places(tokens: list[str]) -> list[tuple[int, int, int, str]]:
    """For each token its first column, its line, its width and its text; a line break ends a line."""
    column = line = 0
    places = []
    for token in tokens:
        text = token.replace("\n", "↵").replace("\t", "⇥") or "∎"
        width = len(text)
        if column and column + width > LINE:
            column, line = 0, line + 1
        places.append((column, line, width, text.replace(" ", "\u00a0")))
        column += width
        if "\n" in token:
            column, line = 0, line + 1
    return places
