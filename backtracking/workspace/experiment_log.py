"""The log of a run: JSON lines in its folder, and where the config asks for it, the same numbers elsewhere.

The file is the record. A sink is a convenience: one that fails is dropped, said once and written to the file,
and the run goes on.
"""

import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psutil
import torch

from backtracking.workspace.log_sinks import SINKS, Sink, SinkName, sink_errors

Level = Literal["debug", "info", "warning", "error"]
Write = Callable[..., None]
"""Appends one line to the file: `write(event, **values)`."""
GIB = 2**30


class ExperimentLog:
    """Lines with a time, an event and a level; the numbers among their values go to the sinks too."""

    def __init__(
        self,
        write: Write,
        *,
        folder: Path,
        name: str,
        sinks: Sequence[SinkName] = (),
        config: dict[str, Any] | None = None,
    ) -> None:
        """Open the sinks, and write what machine this is.

        Args:
            write: Appends a line to the run's own log.
            folder: Of the run; the sinks keep their files in it.
            name: Of the run, in the sinks.
            sinks: Names of the sinks.
            config: Shown beside the run by a sink that can.
        """
        self._write = write
        self._sinks: dict[SinkName, Sink] = {}
        for sink in sinks:
            with self._guarded(sink):
                self._sinks[sink] = SINKS[sink](folder, name, config or {})
        self.log("machine", **machine())

    @property
    def sinks(self) -> tuple[SinkName, ...]:
        """The sinks that have not failed."""
        return tuple(self._sinks)

    def log(self, event: str, *, level: Level = "info", **values: Any) -> None:
        """Write one line.

        Raises:
            OSError: The run's own log cannot be written.
        """
        self._write(event, level=level, **values)
        numbers = {f"{event}/{name}": float(value) for name, value in values.items() if _is_number(value)}
        if numbers:
            for name, sink in list(self._sinks.items()):
                with self._guarded(name):
                    sink.write(numbers)

    def unit(self, *, tokens: int, seconds: float, **values: Any) -> None:
        """Write that a unit of work is done: sampled tokens, seconds, and tokens per second.

        The seconds are of a clock that never goes back; a unit too short for it has no rate.
        """
        if seconds > 0:
            values |= {"tokens_per_second": round(tokens / seconds, 1)}
        self.log("unit", tokens=tokens, seconds=round(seconds, 3), **values)

    @contextmanager
    def timed(self, event: str, **values: Any) -> Iterator[None]:
        """Write how long the block took when it ends; where it raises, at level error with the kind of the error."""
        start = time.monotonic()
        try:
            yield
        except BaseException as error:
            self.log(event, level="error", **values, seconds=_since(start), error=type(error).__name__)
            raise
        self.log(event, **values, seconds=_since(start))

    def end(self, event: str = "finished", **values: Any) -> None:
        """Write the last line and close the sinks."""
        self.log(event, **values)
        for name, sink in list(self._sinks.items()):
            with self._guarded(name):
                sink.close()
        self._sinks.clear()

    @contextmanager
    def _guarded(self, name: SinkName) -> Iterator[None]:
        """Drop the sink if the block fails in one of the ways of `sink_errors`; anything else is a bug of ours."""
        try:
            yield
        except sink_errors() as error:
            self._sinks.pop(name, None)
            reason = without_secrets(f"{type(error).__name__}: {error}")
            self._write("sink failed", level="warning", sink=name, reason=reason)
            warnings.warn(f"the log sink {name} failed and is dropped, the run goes on ({reason})", stacklevel=3)


def machine() -> dict[str, Any]:
    """Processor, memory, GPU and versions of this machine; no name or address."""
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / GIB, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def without_secrets(text: str) -> str:
    """The text on one line, with the value of every token and key of the environment taken out."""
    for name, value in os.environ.items():
        if len(value) >= 8 and name.upper().endswith(("TOKEN", "KEY", "SECRET", "PASSWORD")):
            text = text.replace(value, f"<{name}>")
    return " ".join(text.split())[:300]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _since(start: float) -> float:
    return round(time.monotonic() - start, 3)
