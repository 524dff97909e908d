"""Which exceptions are a person's to act on: they are shown as their message alone, all others with a traceback."""

from __future__ import annotations

MISTAKES = (ValueError, OSError, ArithmeticError)


def is_mistake(error: Exception) -> bool:
    """Whether one of `MISTAKES` is of config, data or arguments, or a run that is not finite.

    A division by zero or an overflow is none: it is a fault of the program.
    """
    if not isinstance(error, ArithmeticError):
        return True
    from opengait.engine.hooks import NonFiniteError  # here, since the help texts of the command line need no torch

    return isinstance(error, NonFiniteError)
