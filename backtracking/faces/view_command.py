"""The command `view`: the trace viewer of a run, served on this machine or written to one file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from backtracking.faces.bars import Bars

out = Console()


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("view")(view)


def view(
    run: Annotated[str | None, typer.Argument(help="Run id or folder; the current run if not given.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; a free one if 0.")] = 0,
    export: Annotated[Path | None, typer.Option(help="Write one offline HTML file here instead of serving.")] = None,
    measure: Annotated[
        int, typer.Option(min=0, help="First measure this many completions that have an onset, token by token.")
    ] = 0,
    condition: Annotated[
        list[str] | None, typer.Option(help="Show and measure this condition alone; may be given several times.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
) -> None:
    """Look through the completions of a run: onsets, verdicts, arms side by side, what was measured at a token.

    It is served to this machine alone until Ctrl-C. Measuring runs the model over the completions again, each
    under its own interventions, and keeps the result in the run's traces.parquet.

    Examples:
        backtracking view

        backtracking view 20260101_120000_demo --measure 40

        backtracking view runs/20260101_120000_demo --export traces.html
    """
    from backtracking.faces.viewer.gallery import gallery_of
    from backtracking.faces.viewer.page import export_page
    from backtracking.faces.viewer.server import ViewerServer

    study, chosen = _opened(run, runs), condition or []
    if measure:
        _measured(study, chosen, measure)
    gallery = gallery_of(study, conditions=chosen)
    if export is not None:
        path = export_page(gallery, export)
        _say(f"viewer: {path} ({len(gallery.entries)} completions, {path.stat().st_size / 1e6:.1f} MB)")
        return
    with ViewerServer(gallery, port=port) as server:
        _say(f"viewer: {server.url} ({len(gallery.entries)} completions of {gallery.title}; Ctrl-C ends it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            _say("viewer ended")


def _opened(run: str | None, runs: Path) -> Any:
    from backtracking.experiments.config import load_config
    from backtracking.experiments.runs import RunFolder, current_run
    from backtracking.experiments.study import reopen

    if run is None:
        folder = current_run(runs)
    else:
        by_id = runs / run
        folder = RunFolder(by_id if (by_id / "manifest.json").is_file() else Path(run))
        folder.manifest()
    return reopen(folder, load_config(folder.path / "config.yaml"))


def _measured(study: Any, conditions: Sequence[str], most: int) -> None:
    from backtracking.core.errors import InputError
    from backtracking.experiments.traces import measure_run

    chosen = [each for each in study.folder.completions() if not conditions or each.condition in conditions]
    if not chosen:
        raise InputError(f"{study.folder.run_id} has no completions of {', '.join(conditions) or 'any condition'}")
    with Bars() as bars:
        study.progress = bars.update
        done = measure_run(study, chosen, most=most)
    left_out = f"; {done.left_out} under vectors that text cannot give back were left out" if done.left_out else ""
    _say(f"traces: {done.new} measured now, {done.held} before{left_out}")


def _say(text: str) -> None:
    out.print(text, soft_wrap=True, highlight=False, markup=False)
