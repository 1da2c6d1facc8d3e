"""What went wrong, in one line that names the value and the remedy.

The command line prints these lines and exits with status 2; anything else is a bug and keeps its
traceback.
"""


class InputError(ValueError):
    """Something the caller gave cannot be used; the message names it and says what to do."""


class UnknownSiteError(InputError, KeyError):
    """A site or hook point that the model does not have."""

    def __str__(self) -> str:
        """Return the message plain: a KeyError would put it in quotes."""
        return str(self.args[0])


class UnknownProblemError(InputError, KeyError):
    """A completion of a problem that is not among those given."""

    def __str__(self) -> str:
        """Return the message plain."""
        return str(self.args[0])


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder that should be there and is not."""

    def __str__(self) -> str:
        """Return the message plain."""
        return str(self.args[0])


class UnwritableFileError(InputError, OSError):
    """A file that should be written and cannot be: a full disk, a folder without the right to write."""

    def __str__(self) -> str:
        """Return the message plain."""
        return str(self.args[0])


class DamagedFileError(InputError):
    """A file that was written whole and is not whole any more."""

    def __init__(self, file: object, reason: str, remedy: str) -> None:
        """Name the file, what is wrong with it, and what to do."""
        super().__init__(f"{file} is damaged ({reason}); {remedy}")
        self.reason = reason


class NotFiniteError(InputError, FloatingPointError):
    """Activations became so large that the logits are no numbers any more."""


class AlignmentError(ValueError):
    """Grading fails on the gold answers themselves."""


class ReceiptError(RuntimeError):
    """An intervention touched other positions than the tokens that were sampled say it should."""


class FailedUnitsError(RuntimeError):
    """Units of work that failed each time they were tried; everything else was done."""
