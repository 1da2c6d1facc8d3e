"""The command line as a user calls it: in a process of its own, new or forked from the tests' (torch is loaded)."""

import os
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, NoReturn

from backtracking.cli import main

Done = subprocess.CompletedProcess


def command(folder: Path, *arguments: object, **options: Any) -> Done:
    """A new interpreter, as from a shell."""
    return subprocess.run(
        [sys.executable, "-m", "backtracking.cli", *map(str, arguments)],
        cwd=folder, capture_output=True, text=True, timeout=200, **options,
    )  # fmt: skip


def forked(folder: Path, *arguments: object) -> Done:
    """The same in a copy of this process, which need not load its libraries again.

    The copy has no threads but its own: PyTorch works with one in the tests.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if not child:
            signal.alarm(200)  # a command that hangs ends
            _become_the_command(folder, [str(each) for each in arguments], out.fileno(), err.fileno())
        _, status = os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        return Done(arguments, os.waitstatus_to_exitcode(status), out.read(), err.read())


def _become_the_command(folder: Path, arguments: list[str], out: int, err: int) -> NoReturn:
    status = 1
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        os.chdir(folder)
        sys.argv = ["backtracking", *arguments]
        main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - shown here, since a copy of the tests must not go on
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
