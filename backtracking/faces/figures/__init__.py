"""Figures: a result, or its saved table, in; a plotly figure out.

Nothing is computed here that could be asserted on. Every figure takes `theme` ("light" or "dark") and, where it is
known, the `model`; its caption says n, the model and the kind of interval. `figure.layout.meta` holds title and
caption as plain text.
"""

from backtracking.faces.figures.onsets import answer_flows, event_positions
from backtracking.faces.figures.rates import paired_differences, rates_by_condition
from backtracking.faces.figures.saving import save_figure, save_figures
from backtracking.faces.figures.sites import attribution_by_layer, lens_by_layer, scan_by_layer
from backtracking.faces.figures.style import Theme
from backtracking.faces.figures.tokens import token_strip
from backtracking.faces.figures.tradeoff import targeted_among_random, tradeoff_plane

__all__ = [
    "Theme",
    "answer_flows",
    "attribution_by_layer",
    "event_positions",
    "lens_by_layer",
    "paired_differences",
    "rates_by_condition",
    "save_figure",
    "save_figures",
    "scan_by_layer",
    "targeted_among_random",
    "token_strip",
    "tradeoff_plane",
]
