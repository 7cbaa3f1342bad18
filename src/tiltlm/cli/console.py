"""Show what a command does: the log and errors on stderr. Progress is drawn by `recipes.progress`."""

import logging
import sys
import warnings

from tiltlm.core.notes import visible
from tiltlm.recipes.progress import is_first


class StderrHandler(logging.Handler):
    """A handler that writes to the present `sys.stderr`: while a bar is drawn, rich prints these lines above it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        print(visible(self.format(record)), file=sys.stderr, flush=True)


def start_logging() -> None:
    """Send the log of tiltlm to stderr, one plain line per message. With several processes only rank 0 logs.

    Details (level DEBUG) are left out until `show_details` is called; the run's own log file has them.
    """
    log = logging.getLogger("tiltlm")
    if not is_first():
        log.setLevel(logging.CRITICAL)
        warnings.simplefilter("ignore")
        return
    handler = StderrHandler(logging.INFO)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.DEBUG)
    log.propagate = False


def show_details() -> None:
    """Print details as well: layout and precision, digests, what was stored and found in stores."""
    for handler in logging.getLogger("tiltlm").handlers:
        handler.setLevel(logging.DEBUG)


def print_error(message: str) -> None:
    """Print a message on stderr, its first word in red where the terminal has colours."""
    message = visible(message)
    if not sys.stderr.isatty():
        print(f"error: {message}", file=sys.stderr)
        return
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
