"""Where a run's numbers can go besides its own log: Weights & Biases and TensorBoard.

Both are optional packages (`pip install -e '.[log]'` in the checkout), imported when a config asks for them.
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from backtracking.core.errors import InputError

SinkName = Literal["wandb", "tensorboard"]
PROJECT = "backtracking"
LONGEST = 120
"""Seconds that W&B may take to begin, and to send what is left at the end; then it has failed."""


class Sink(Protocol):
    """Takes numbers by name."""

    def write(self, numbers: Mapping[str, float]) -> None:
        """Take one more measurement of each."""
        ...

    def close(self) -> None:
        """Write out what is held back."""
        ...


class TensorBoard:
    """An event file in `tensorboard/` of the run's folder; the step of a number counts its measurements."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        """Open the file; TensorBoard takes the run's name from its folder and shows no config."""
        from torch.utils.tensorboard import SummaryWriter

        del name, config
        self._writer = SummaryWriter(str(folder / "tensorboard"))
        self._steps: dict[str, int] = {}

    def write(self, numbers: Mapping[str, float]) -> None:
        """Append the numbers and let readers see them."""
        for name, value in numbers.items():
            step = self._steps.get(name, 0)
            self._writer.add_scalar(name, value, step)
            self._steps[name] = step + 1
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class WeightsAndBiases:
    """A W&B run in the project `backtracking`, its files in `wandb/` of the run's folder.

    Nothing is printed, and neither the console nor the code is uploaded. A run that is continued is another
    W&B run of the same group. With WANDB_MODE=offline nothing is sent until `wandb sync`.
    """

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        """Begin the run."""
        import wandb

        settings = wandb.Settings(
            silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True,
            init_timeout=LONGEST, finish_timeout=LONGEST, finish_timeout_raises=True,
        )  # fmt: skip
        self._run = wandb.init(
            project=PROJECT, name=name, group=name, dir=str(folder), config=dict(config), settings=settings,
            reinit="create_new",
        )  # fmt: skip

    def write(self, numbers: Mapping[str, float]) -> None:
        """Log one step."""
        self._run.log(dict(numbers))

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


SINKS: dict[SinkName, Callable[[Path, str, Mapping[str, Any]], Sink]] = {
    "wandb": WeightsAndBiases,
    "tensorboard": TensorBoard,
}


def require_sinks(names: Sequence[SinkName]) -> None:
    """Refuse sinks that cannot begin, before anything is run; nothing is sent.

    Raises:
        InputError: A package is missing, or W&B is to send without a key.
    """
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # a folder of that name is no package
            raise InputError(
                f"run.log_sinks asks for {name}, which is not installed; run in the checkout: "
                "pip install -e '.[log]', or leave it out"
            )
    if "wandb" in names and os.environ.get("WANDB_MODE") not in ("offline", "disabled", "dryrun"):
        import wandb

        if not wandb.login(prompt=False):
            raise InputError(
                "run.log_sinks asks for wandb, but there is no WANDB_API_KEY; set it, or set WANDB_MODE=offline"
            )


def sink_errors() -> tuple[type[Exception], ...]:
    """What a sink may raise without stopping the run.

    These are the ways in which other people's code fails for reasons that are not the run's: files and network
    (OSError, EOFError), a writer that was closed or a service that died (RuntimeError), a package that does not fit
    its neighbours (ImportError, AttributeError, LookupError, TypeError, ValueError, ArithmeticError), and the
    errors of W&B itself, of which some are no wandb.Error. Interrupts and a full memory stop the run, as ever.
    """
    common: tuple[type[Exception], ...] = (
        OSError, EOFError, RuntimeError, ImportError, AttributeError, LookupError, TypeError, ValueError,
        ArithmeticError,
    )  # fmt: skip
    if "wandb" not in sys.modules:
        return common
    import wandb
    from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

    return (*common, wandb.Error, HandleAbandonedError, MailboxClosedError)
