"""Progress bars on standard error, so that standard output holds results alone."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

err = Console(stderr=True, highlight=False)


class Bars:
    """Progress bars on standard error: one per task, by name."""

    def __init__(self, *, quiet: bool = False) -> None:
        """Draw on standard error, or nothing at all."""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=err,
            disable=quiet,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, task: str, done: int, total: int) -> None:
        """Show how far a task is; a task appears when it is first named."""
        if task not in self._tasks:
            self._tasks[task] = self._progress.add_task(task, total=total)
        self._progress.update(self._tasks[task], completed=done, total=total)
