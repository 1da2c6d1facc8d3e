"""The command `view`: the trace viewer of a run, served on this machine or written to one file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from backtracking.faces.bars import Bars, err
from backtracking.faces.options import RUNS, AsJson
from backtracking.faces.output import answer


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
    runs: Annotated[Path, typer.Option(help="Folder of all runs.")] = RUNS,
    as_json: AsJson = False,
) -> None:
    """Look through the completions of a run: onsets, verdicts, arms side by side, what was measured at a token.

    It is served to this machine alone until Ctrl-C. Measuring runs the model over the completions again, each
    under its own interventions, and keeps the result in the run's traces.parquet.

    With --export it is one offline HTML file instead.

    Example: backtracking view --measure 40 --export traces.html
    """
    from backtracking.faces.viewer.gallery import gallery_of
    from backtracking.faces.viewer.page import export_page
    from backtracking.faces.viewer.server import ViewerServer

    study, chosen = _opened(run, runs, only_reading=not measure), condition or []
    if measure:
        _measured(study, chosen, measure)
        study.release()
    gallery = gallery_of(study, conditions=chosen)
    if export is not None:
        path = export_page(gallery, export)
        document = {"file": path, "completions": len(gallery.entries), "bytes": path.stat().st_size}
        line = f"viewer: {path} ({len(gallery.entries)} completions, {path.stat().st_size / 1e6:.1f} MB)"
        answer(document, [line], as_json=as_json)
        return
    with ViewerServer(gallery, port=port) as server:
        line = f"viewer: {server.url} ({len(gallery.entries)} completions of {gallery.title}; Ctrl-C ends it)"
        answer({"url": server.url, "completions": len(gallery.entries)}, [line], as_json=as_json)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            err.print("viewer ended", markup=False)


def _opened(run: str | None, runs: Path, *, only_reading: bool) -> Any:
    from backtracking.experiments.config import load_config
    from backtracking.experiments.mending import changed_since_begun
    from backtracking.experiments.opening import reopen
    from backtracking.experiments.run_list import current_run
    from backtracking.experiments.runs import RunFolder

    if run is None:
        folder = current_run(runs)
    else:
        by_id = runs / run
        folder = RunFolder(by_id if (by_id / "manifest.json").is_file() else Path(run))
        folder.manifest()
    study = reopen(folder, load_config(folder.path / "config.yaml"), only_reading=only_reading)
    if changed_since_begun(folder):
        file = folder.path / "config.yaml"
        said = f"warning: {file} has changed since the run began; triggers are found by it as it is"
        err.print(said, soft_wrap=True, markup=False)
    return study


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
    err.print(f"traces: {done.new} measured now, {done.held} before{left_out}", soft_wrap=True, markup=False)
