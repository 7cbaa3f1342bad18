"""What goes wrong, as a small tree of exceptions.

Every message says what was seen, where, which rule it breaks and the way out. `exit_code` is what the command line
returns: 2 for wrong use (a setting, a file, a model that cannot serve), 1 for a run that failed.
"""


class TiltError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1


class ConfigError(TiltError, ValueError):
    """A setting is unknown, impossible, or would have no effect."""

    exit_code = 2


class DataError(TiltError, ValueError):
    """A file or row cannot be read as preference data."""

    exit_code = 2


class ModelError(TiltError, ValueError):
    """A model folder, tokenizer or architecture cannot serve here."""

    exit_code = 2


class RunError(TiltError, RuntimeError):
    """A run cannot go on: damaged checkpoint, a second writer, a run directory in use."""


class NumericsError(TiltError, ArithmeticError):
    """A number that must be finite, or equal to another, is not."""
