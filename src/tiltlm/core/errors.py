"""Exceptions: everything this package raises on purpose.

Every message says what was seen, where, which rule it breaks and what to do. Messages may be reworded at any time;
`code`, `key` and `row` are stable, so programs and tests read those. `exit_code` is the exit code of the command line:
2 for wrong use (a setting, a file, an unsuitable model), 1 for a run that failed.
"""

from typing import Any


class TiltError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1

    def __init__(self, message: str, *, code: str, key: str | None = None, row: str | None = None) -> None:
        """Create an error with a stable code.

        Args:
            message: A sentence or two for the user.
            code: The broken rule in snake case, such as `not_positive`. It never changes, and one rule has one code.
            key: The setting, option or argument at fault, such as `training.batch_size`; None if there is none.
            row: The row of data or the example at fault, such as `pairs.jsonl:7`; None if there is none.
        """
        super().__init__(message)
        self.code = code
        self.key = key
        self.row = row

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with all attributes: errors of worker processes and other ranks are raised again in this process."""
        return _unpickle, (type(self), self.args, self.__dict__)


class ConfigError(TiltError, ValueError):
    """A setting is unknown, impossible, or would have no effect."""

    exit_code = 2


class DataError(TiltError, ValueError):
    """A file or row cannot be read as preference data."""

    exit_code = 2


class ModelError(TiltError, ValueError):
    """A model folder, tokenizer or architecture cannot be used."""

    exit_code = 2


class RunError(TiltError, RuntimeError):
    """A run cannot continue: a damaged checkpoint, a second writer, a run directory in use."""


class NumericsError(TiltError, ArithmeticError):
    """A number is not finite, or differs from one that it must equal."""


def is_own_mistake(error: BaseException) -> bool:
    """Return whether an error is a mistake in tiltlm: raised by its own code, or by torch for it, and not on purpose.

    Errors of a model's code, or of a call that a model's `forward` does not accept, are not.
    """
    if isinstance(error, TiltError):
        return False
    trace, code = error.__traceback__, []
    while trace is not None:
        code.append((trace.tb_frame.f_globals.get("__name__", ""), trace.tb_frame.f_code.co_name))
        trace = trace.tb_next
    outside_torch = (
        module for module, name in reversed(code) if not module.startswith("torch.") or name == _MODEL_CALL
    )
    return next(outside_torch, "").startswith("tiltlm.")


_MODEL_CALL = "_call_impl"
"""The function of torch that calls a module's `forward`."""


def _unpickle(kind: type[TiltError], arguments: tuple[str, ...], attributes: dict[str, Any]) -> TiltError:
    error = kind.__new__(kind, *arguments)
    error.args = arguments
    error.__dict__.update(attributes)
    return error
