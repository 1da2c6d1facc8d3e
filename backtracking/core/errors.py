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


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder that should be there and is not."""

    def __str__(self) -> str:
        """Return the message plain."""
        return str(self.args[0])


class AlignmentError(ValueError):
    """Grading fails on the gold answers themselves."""


class ReceiptError(RuntimeError):
    """An intervention touched other positions than the tokens that were sampled say it should."""
