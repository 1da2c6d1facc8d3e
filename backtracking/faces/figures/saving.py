"""Figures as files: a page and its JSON, and a picture where this machine has a Chrome or Chromium."""

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Literal

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from backtracking.faces.figures.style import shown_width
from backtracking.workspace.guarded import write_text

Format = Literal["html", "json", "svg", "png"]
FORMATS: tuple[Format, ...] = ("html", "json", "svg", "png")
WIDTH = 760
"""Of a picture, in pixels."""
BUNDLE = "plotly.min.js"
_log = logging.getLogger("backtracking.figures")


def save_figure(
    figure: go.Figure, folder: str | Path, name: str, *, formats: Sequence[Format] = FORMATS
) -> tuple[Path, ...]:
    """Write one figure; `save_figures` is quicker for several.

    Returns:
        The files written.
    """
    return save_figures({name: figure}, folder, formats=formats)


def save_figures(
    figures: Mapping[str, go.Figure], folder: str | Path, *, formats: Sequence[Format] = FORMATS
) -> tuple[Path, ...]:
    """Write figures, each as a page, as JSON, as SVG and as PNG.

    The pages share one `plotly.min.js` in the folder. SVG and PNG need a Chrome or Chromium (one is started for
    all figures, which takes two seconds and a quarter of one for each picture); where there is none, that is said
    once in a warning of the log and the pictures are left out.

    Args:
        figures: By name.
        folder: Where to; it is made if it is not there.
        formats: Which of them.

    Returns:
        The files written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    if "html" in formats and figures:
        bundle, script = folder / BUNDLE, get_plotlyjs()
        if not bundle.is_file() or bundle.read_text(encoding="utf-8") != script:
            write_text(bundle, script)
    for name, figure in figures.items():
        if "html" in formats:
            written.append(folder / f"{name}.html")
            write_text(written[-1], figure.to_html(include_plotlyjs="directory", config={"displaylogo": False}))
        if "json" in formats:
            written.append(folder / f"{name}.json")
            write_text(written[-1], str(figure.to_json()) + "\n")
    kinds = [kind for kind in ("svg", "png") if kind in formats]
    return (*written, *_pictures(figures, folder, kinds))


def _pictures(figures: Mapping[str, go.Figure], folder: Path, kinds: Sequence[str]) -> tuple[Path, ...]:
    wanted = {folder / f"{name}.{kind}": figure for name, figure in figures.items() for kind in kinds}
    if not wanted:
        return ()
    from choreographer.errors import BrowserFailedError
    from kaleido.errors import ChromeNotFoundError

    drawn = [  # as Kaleido names them
        {
            "fig": json.loads(str(figure.to_json())),
            "path": str(path),
            "opts": {
                "format": path.suffix[1:],
                "width": shown_width(figure, WIDTH),
                "scale": 2 if path.suffix == ".png" else 1,
            },
        }
        for path, figure in wanted.items()
    ]
    try:
        # In a thread of its own, since a notebook has a running loop of events.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(lambda: asyncio.run(_draw(drawn))).result()
    except (ChromeNotFoundError, BrowserFailedError) as error:
        _say_once(str(error).splitlines()[0])
        return ()
    return tuple(wanted)


async def _draw(drawn: Any) -> None:
    from kaleido import Kaleido

    # Without MathJax, which would be fetched from the network.
    async with Kaleido(mathjax=False) as kaleido:
        await kaleido.write_fig_from_object(drawn, cancel_on_error=True)


@cache
def _say_once(reason: str) -> None:
    _log.warning("no SVG or PNG of figures: %s Install Chrome or Chromium; HTML and JSON are written.", reason)
