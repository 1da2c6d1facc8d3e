"""Progress on standard error, so that standard output holds results alone.

On a terminal, and in a notebook that can draw, bars move. Anywhere else (a pipe, a file, a job's log) moving
bars would be control characters, so a plain line is written now and then.
"""

import importlib.util
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

err = Console(stderr=True, highlight=False)
EVERY = 15.0
"""Seconds between two plain lines, at least."""


class Bars:
    """One task per name: a moving bar, or plain lines where nothing can move."""

    def __init__(
        self, *, quiet: bool = False, console: Console = err, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Draw on standard error, or nothing at all if `quiet`."""
        self._quiet, self._console, self._clock = quiet, console, clock
        self._moving = not quiet and can_move(console)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not self._moving,
        )
        self._tasks: dict[str, TaskID] = {}
        self._told: set[str] = set()
        """Tasks that have a plain line and are not done: their last line is to say that they are."""
        self._last_line = clock()

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, task: str, done: int, total: int) -> None:
        """Show how far a task is; a task appears when it is first named."""
        if self._moving:
            if task not in self._tasks:
                self._tasks[task] = self._progress.add_task(task, total=total)
            self._progress.update(self._tasks[task], completed=done, total=total)
        elif not self._quiet and (self._clock() - self._last_line >= EVERY or (task in self._told and done >= total)):
            self._last_line = self._clock()
            self._told = self._told - {task} if done >= total else self._told | {task}
            self._console.print(f"{task}: {done} of {total}", markup=False, soft_wrap=True)


def can_move(console: Console) -> bool:
    """Whether a bar can be redrawn: on a terminal that knows how, or in a notebook with ipywidgets."""
    if console.is_jupyter:
        return importlib.util.find_spec("ipywidgets") is not None
    return console.is_terminal and not console.is_dumb_terminal
