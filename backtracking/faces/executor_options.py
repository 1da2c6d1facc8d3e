"""Options that say who samples a run: this process, or the workers of a Ray cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from backtracking.core.errors import InputError

NAMES = ("local", "ray")
ExecutorOption = Annotated[
    str,
    typer.Option(
        "--executor",
        help="Who samples: local (this process) or ray (workers on a cluster); the results are the same.",
        autocompletion=lambda: list(NAMES),
    ),
]
Address = Annotated[
    str | None,
    typer.Option("--address", help="Of the Ray cluster: auto, or host:port; without it Ray is started here."),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", help="Ray workers; one per GPU if not given, or one per machine without GPUs."),
]
GpusPerWorker = Annotated[
    int, typer.Option("--gpus-per-worker", help="More than 1 for a model that model.device_map spreads.")
]
Store = Annotated[
    str | None,
    typer.Option(
        "--store", help="Where Ray workers keep finished units too: a folder or URL, such as s3://bucket/units."
    ),
]


@contextmanager
def executor_of(name: str, *, address: str | None, workers: int | None, gpus: int, store: str | None) -> Iterator[Any]:
    """The executor that the options name; it is closed at the end.

    Raises:
        InputError: There is none of that name, or an option is not for it.
    """
    from backtracking.experiments.executors import LocalExecutor

    if name not in NAMES:
        raise InputError(f"unknown executor {name!r}; use {' or '.join(NAMES)}")
    given = {
        "--address": address,
        "--workers": workers,
        "--store": store,
        "--gpus-per-worker": None if gpus == 1 else gpus,
    }
    unused = [option for option, value in given.items() if value is not None]
    if name == "local":
        if unused:
            raise InputError(f"{unused[0]} is for --executor ray; add that, or leave {unused[0]} out")
        yield LocalExecutor()
        return
    from backtracking.experiments.ray_executor import RayExecutor
    from backtracking.experiments.remote_store import RemoteStore

    if store is not None and "://" not in store:  # workers stand in other folders
        store = str(Path(store).absolute())
    held = None if store is None else RemoteStore(store)
    executor = RayExecutor(address=address, workers=workers, gpus=gpus, store=held)
    try:
        yield executor
    finally:
        executor.close()
