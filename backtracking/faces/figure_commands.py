"""The command that draws every figure of a run into a folder."""

from pathlib import Path
from typing import Annotated

import typer

from backtracking.faces.bars import err
from backtracking.faces.options import RUNS, AsJson
from backtracking.faces.output import answer


def figures(
    run: Annotated[str | None, typer.Argument(help="Folder or id of a run; the current one if not given.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; the run's own figures/ if not given.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of all runs.")] = RUNS,
    kinds: Annotated[str, typer.Option("--formats", help="Of html, json, svg and png.")] = "html,json,svg,png",
    theme: Annotated[str, typer.Option(help="light or dark.")] = "light",
    as_json: AsJson = False,
) -> None:
    """Draw every figure of a run: as a page, as JSON, and as SVG and PNG where there is a Chrome or Chromium.

    The model of the run is loaded to read one completion token by token.

    Example: backtracking figures --out figures --formats svg
    """
    from backtracking.core.errors import InputError
    from backtracking.experiments.config import load_config
    from backtracking.faces.figures import save_figures
    from backtracking.faces.figures.saving import FORMATS, Format
    from backtracking.faces.figures.style import PALETTES, Theme
    from backtracking.faces.run_figures import example_of, figures_of_run, find_run
    from backtracking.model.loading import load_model
    from backtracking.model.tokens import tokens_that_begin

    chosen: list[Format] = [each for each in FORMATS if each in kinds.split(",")]
    unknown = sorted(set(kinds.split(",")) - set(FORMATS))
    if unknown:
        raise InputError(f"no format {unknown[0]!r}; there are {', '.join(FORMATS)}")
    named: Theme | None = next((each for each in PALETTES if each == theme), None)
    if named is None:
        raise InputError(f"no theme {theme!r}; there are {', '.join(PALETTES)}")
    folder = find_run(run, runs)
    config = load_config(folder.path / "config.yaml")
    section = config.model
    model = load_model(
        section.hf_id, device=section.device, dtype=section.torch_dtype, revision=section.revision,
        trust_remote_code=section.trust_remote_code,
    )  # fmt: skip
    triggers = tokens_that_begin(model.tokenizer, config.lexicon().strict)
    drawn = figures_of_run(folder, example=example_of(folder, model, trigger_ids=triggers), theme=named)
    if not drawn:
        raise InputError(f"{folder.run_id} has no tables to draw yet; finish it with backtracking run")
    written = save_figures(drawn, out or folder.path / "figures", formats=chosen)
    unfinished = "" if folder.manifest().get("status") == "finished" else ", which is not finished: others may follow"
    err.print(f"{len(drawn)} figures of {folder.run_id}{unfinished}", soft_wrap=True, highlight=False, markup=False)
    answer({"run_id": folder.run_id, "files": list(written)}, map(str, written), as_json=as_json)
