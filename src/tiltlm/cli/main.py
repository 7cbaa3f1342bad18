"""`tiltlm`: the command line. Results go to stdout; the log and progress go to stderr.

Each command that runs a recipe is made from its Python function in `config.calls`; the others are in `tools`. What is
heavy is imported when a command runs, so that `--help` and shell completion are quick. Exit code 0 means done, 1 a run
that failed, 2 wrong use; 130 and 143 mean that SIGINT or SIGTERM stopped the run.
"""

import io
import os
import signal
import sys
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tiltlm.cli.commands import run_function
from tiltlm.cli.launched import fail_together
from tiltlm.cli.tools import TOOLS
from tiltlm.config import calls
from tiltlm.config.command import DEFAULTS, GROUPS
from tiltlm.distributed.launched import num_launched

SIGNALS = (signal.SIGINT, signal.SIGTERM)
USAGE_ERROR = typer.BadParameter.__base__ or Exception
"""Every mistake in a command line. typer 0.29 does not export it, and takes it from click or from its own copy."""


class GroupWithDefault(TyperGroup):
    """A group in which one of the commands need not be named: `DEFAULTS` says which."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the name of the default command before arguments that begin with no name of a command."""
        is_completed = ctx.resilient_parsing and not args  # the shell asks for the names of the commands
        if not is_completed and not {*args[:1]} & {*self.commands, *ctx.help_option_names}:
            args = [DEFAULTS[ctx.info_name or ""], *args]
        return list(super().parse_args(ctx, args))


def new_app(text: str, kind: type[TyperGroup] = TyperGroup) -> typer.Typer:
    """Return an app without commands.

    Args:
        text: Its help.
        kind: How it finds the command.
    """
    return typer.Typer(
        cls=kind,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        help=text,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )


app = new_app("Tilt a language model toward what people prefer: train from preferences, and measure whether it helped.")
groups = {group: new_app(text, GroupWithDefault if group in DEFAULTS else TyperGroup) for group, text in GROUPS.items()}
for name, command in calls.COMMANDS.items():
    group, _, own_name = name.rpartition(" ")
    (groups[group] if group else app).command(name=own_name)(run_function(command))
for group, members in groups.items():
    app.add_typer(members, name=group)


for tool in TOOLS:
    app.command()(tool)


def show_version(wanted: bool) -> None:
    """Print the installed version and stop."""
    if wanted:
        from tiltlm.version import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=show_version, is_eager=True)
    ] = False,
) -> None:
    """Hold the options of the program itself."""


def stop(signum: int, frame: FrameType | None) -> None:
    """End the process as a signal asks. A second signal ends it at once, without waiting for any clean-up."""
    del frame
    for other in SIGNALS:
        signal.signal(other, lambda number, _: os._exit(128 + number))
    sys.exit(128 + signum)


def main() -> None:
    """Run a command; print an error as one message and end with its exit code.

    Errors of ours and refusals of the operating system (no rights, a full disk) are printed so. Any other exception is
    a defect of this program, and its traceback is shown.
    """
    for signum in SIGNALS:  # training replaces these handlers: it saves a checkpoint first
        signal.signal(signum, stop)
    if "_TILTLM_COMPLETE" not in os.environ and not any(flag in sys.argv[1:] for flag in ("-h", "--help")):
        from tiltlm.cli.console import start_logging

        start_logging()
    try:
        with fail_together(described, end_with):
            run_app()
    except Exception as error:
        if (found := described(error)) is None:
            raise
        end_with(found[0])
        sys.exit(found[1])


def run_app() -> None:
    """Parse the command line and run the command.

    Raises:
        ConfigError: the command line is wrong, and there are several processes: one of them prints it. A single process
            prints it and exits.
    """
    if num_launched() == 1:
        app()
        return
    try:
        code = app(standalone_mode=False)
    except Exception as error:
        if not isinstance(error, USAGE_ERROR):
            raise
        from tiltlm.core.errors import ConfigError

        wrong: Any = error
        wrong.show(text := io.StringIO())
        usage, _, message = text.getvalue().rpartition("Error: ")
        raise ConfigError(f"{message.strip()}\n{usage.strip()}", code="usage") from error
    if code:
        sys.exit(code)


def described(error: Exception) -> tuple[str, int] | None:
    """Return the message and the exit code of an error for the user; None for a defect of this program."""
    from tiltlm.core.errors import TiltError

    if isinstance(error, TiltError):
        return str(error), error.exit_code
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the operating system'}: {error.strerror}", 1
    return None


def end_with(message: str) -> None:
    """Print the error that ends the command, and append it to log.txt of the run that it ends."""
    from tiltlm.cli.console import print_error
    from tiltlm.runs.log import append_error

    print_error(message)
    append_error(message)
