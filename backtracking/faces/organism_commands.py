"""Commands for the embedded model: train it, and write its model card."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from backtracking.core.errors import InputError

app = typer.Typer(no_args_is_help=True, help="The embedded model: train it again, measure it again.")
out = Console()
err = Console(stderr=True, highlight=False)


@app.command()
def train(
    folder: Annotated[Path, typer.Option("--out", help="Takes checkpoints, then the model in weights/.")],
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start again instead of continuing from a checkpoint.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda; the shipped weights come from the CPU.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads; the shipped weights were trained with 2.")] = 2,
) -> None:
    """Train the organism from scratch; interrupted, the same command continues.

    Example: backtracking organism train --out runs/organism
    """
    import torch

    from backtracking.model.organism import training

    if device != "cpu" and not torch.cuda.is_available():
        raise InputError(f"device {device} was asked for, but torch sees no GPU here; use cpu")
    torch.set_num_threads(threads)
    with Progress(console=err) as bars:
        task = bars.add_task("training")

        def show(progress: training.Progress) -> None:
            note = f"training, loss {progress.loss:.3f}"
            bars.update(task, completed=progress.step, total=progress.steps, description=note)

        written = training.train(training.TrainingConfig(), folder, resume=not fresh, progress=show, device=device)
    out.print(f"weights: {written}", soft_wrap=True, highlight=False)


@app.command()
def card(
    weights: Annotated[Path | None, typer.Option(help="Folder of the model; the shipped one if not given.")] = None,
    problems: Annotated[int, typer.Option(help="Held-out problems.")] = 300,
    samples: Annotated[int, typer.Option(help="Completions of each.")] = 4,
) -> None:
    """Measure the organism on held-out problems and write its model card, README.md in its folder."""
    from backtracking.model.organism import WEIGHTS
    from backtracking.model.organism.card import Effort, targets, write_card

    folder = weights or WEIGHTS
    with err.status("measuring") as status:
        figures = write_card(folder, effort=Effort(problems, samples), progress=status.update)
    for what, figure, holds in targets(figures):
        out.print(f"{'ok  ' if holds else 'FAIL'} {what}: {figure}", soft_wrap=True, highlight=False, markup=False)
    out.print(f"card: {folder / 'README.md'}", soft_wrap=True, highlight=False)
    if not all(holds for _, _, holds in targets(figures)):
        raise typer.Exit(1)
