"""What is wrong with data on disk or with how a config asks for it."""

from __future__ import annotations


class DataError(ValueError):
    """A file, folder or setting that cannot be used; the message names it and says what was expected."""


class UnsafePickleError(DataError):
    """A data file that asks for something else than arrays and plain containers; nothing of it was run."""
