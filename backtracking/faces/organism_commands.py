"""Commands for the embedded model: train it, and write its model card."""

from pathlib import Path
from typing import Annotated

import typer

from backtracking.core.errors import InputError, MissingFileError
from backtracking.faces.bars import Bars, err
from backtracking.faces.options import AsJson, Quiet
from backtracking.faces.output import answer

app = typer.Typer(no_args_is_help=True, help="The embedded model: train it again, measure it again.")


@app.command()
def train(
    folder: Annotated[Path, typer.Option("--out", help="Takes checkpoints, then the model in weights/.")],
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start again instead of continuing from a checkpoint.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda; the shipped weights come from the CPU.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads; the shipped weights were trained with 2.")] = 2,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train the organism from scratch; interrupted, the same command continues.

    Example: backtracking organism train --out runs/organism
    """
    import torch

    from backtracking.model.organism import training

    if device != "cpu" and not torch.cuda.is_available():
        raise InputError(f"device {device} was asked for, but torch sees no GPU here; use cpu")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}; give another --out") from error
    torch.set_num_threads(threads)
    loss = float("nan")
    with Bars(quiet=quiet) as bars:

        def show(progress: training.Progress) -> None:
            nonlocal loss
            loss = progress.loss
            bars.update("training", progress.step, progress.steps)

        written = training.train(training.TrainingConfig(), folder, resume=not fresh, progress=show, device=device)
    answer({"weights": written, "loss": loss}, [f"weights: {written}"], as_json=as_json)


@app.command()
def card(
    weights: Annotated[Path | None, typer.Option(help="Folder of the model; the shipped one if not given.")] = None,
    problems: Annotated[int, typer.Option(help="Held-out problems.")] = 300,
    samples: Annotated[int, typer.Option(help="Completions of each.")] = 4,
    as_json: AsJson = False,
) -> None:
    """Measure the organism on held-out problems and write its model card, README.md in its folder.

    Exit status 1 if it misses one of its targets.

    Example: backtracking organism card --weights runs/organism/weights
    """
    from backtracking.model.organism import WEIGHTS
    from backtracking.model.organism.card import Effort, targets, write_card

    folder = weights or WEIGHTS
    if not folder.is_dir():
        raise MissingFileError(f"no folder {folder}; give one that holds a model, as organism train writes it")
    with err.status("measuring") as status:
        figures = write_card(folder, effort=Effort(problems, samples), progress=status.update)
    found = targets(figures)
    path = folder / "README.md"
    document = {"card": path, "targets": [{"what": what, "figure": figure, "ok": ok} for what, figure, ok in found]}
    lines = [f"{'ok  ' if ok else 'FAIL'} {what}: {figure}" for what, figure, ok in found]
    answer(document, [*lines, f"card: {path}"], as_json=as_json)
    if not all(ok for _, _, ok in found):
        raise typer.Exit(1)
