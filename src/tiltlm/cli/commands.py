"""Make the command line of a command from its Python function: arguments, options, help, and what is printed."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from tiltlm.config.command import OPTIONS, Command
from tiltlm.recipes.progress import is_first, show_progress, silent

OVERRIDES = ("[CONFIG] [KEY=VALUE ...]", "A YAML file, then KEY=VALUE overrides, such as training.seed=1.")
VERBOSE = "Print details too: layout, precision, digests, reference store. log.txt of a run always has them."
ONLY_OVERRIDES = ("[KEY=VALUE ...]", "Settings, such as sampling.top_p=0.9.")
GRID = ("[CONFIG] KEY=V1,V2,... ...", "A YAML file, then keys with their values; every combination is run.")
NAMED = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
NUMBERS = (bool, int, float, bool | None, int | None, float | None)


def run_function(command: Command) -> Callable[..., None]:
    """Return the function that typer makes a command from: it takes what the user writes, and runs the command."""
    has_grid = "grid" in command.parameters
    shows_progress = command.has_bar and "progress" in command.parameters
    settings = (*([command.argument] if command.argument else []), *command.options)

    def run(**given: Any) -> None:
        from tiltlm.cli.console import show_details

        if given.pop("verbose"):
            show_details()
        with show_progress() if command.has_bar else nullcontext(silent) as draw:
            draw("check the settings", 0, 0)
            positional, overrides = read_arguments(given)
            shown = {"progress": draw} if shows_progress else {}
            result = command.call(*positional, **given, **shown, **overrides)
        if is_first():
            print_result(result)
        if code := getattr(result, "exit_code", 0):
            raise typer.Exit(code)

    def read_arguments(given: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Take the configuration, the overrides and the settings with options out of what the user wrote."""
        from tiltlm.config.resolve import parse_overrides
        from tiltlm.config.schema import Text

        positional: list[Any] = []
        overrides: dict[str, Any] = {}
        if command.positionals:
            positional = [given.pop(name) for name in command.positionals]
            overrides = dict(parse_overrides(given.pop("arguments", None) or []))
        elif command.arguments:
            positional = [given.pop(command.arguments) or []]
        elif "config" not in command.parameters:
            overrides = dict(parse_overrides(given.pop("arguments", None) or []))
            refuse_options(overrides)
        elif "arguments" in given:
            config, pairs = split_arguments(given.pop("arguments") or [])
            positional = [config, pairs] if has_grid else [config]
            overrides = {} if has_grid else dict(parse_overrides(pairs))
            refuse_options(overrides)
        for name in settings:
            if (text := given.pop(name)) is not None:
                overrides[name] = Text(text)
        return positional, overrides

    def refuse_options(overrides: dict[str, Any]) -> None:
        """Refuse `rows=2` where `--rows` is an option of the command."""
        for name in overrides:
            if name in command.parameters and name != command.argument:
                from tiltlm.core import ConfigError

                option = f"--{name.replace('_', '-')}"
                raise ConfigError(
                    f"{name} is an option; write {option} in place of {name}=", code="unknown_setting", key=name
                )

    parameters = signature_of(command)
    run.__name__, run.__doc__ = command.call.__name__, command.help
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def signature_of(command: Command) -> list[inspect.Parameter]:
    """Return the parameters of a command line: first arguments, then options."""
    found = []

    def add(name: str, kind: Any, info: Any, default: Any = None) -> None:
        found.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])
        )

    if command.argument:
        info = typer.Argument(metavar=command.argument.upper(), help=OPTIONS[command.argument], show_default=False)
        add(command.argument, str, info, inspect.Parameter.empty)
    for name, metavar in command.positionals.items():
        one = typer.Argument(metavar=metavar, help=command.helps[name], show_default=False)
        default = command.parameters[name].default
        add(name, str if default is inspect.Parameter.empty else str | None, one, default)
    if command.arguments:
        name = command.arguments
        many = typer.Argument(metavar=name.upper(), help=command.helps[name], show_default=False)
        add(name, list[str] | None, many)
    if "config" in command.parameters:
        has_grid = "grid" in command.parameters
        metavar, text = GRID if has_grid else OVERRIDES
        argument = typer.Argument(metavar=metavar, help=text)
        add("arguments", list[str] | None, argument, inspect.Parameter.empty if has_grid else None)
    elif any(p.kind is inspect.Parameter.VAR_KEYWORD for p in command.parameters.values()):
        add("arguments", list[str] | None, typer.Argument(metavar=ONLY_OVERRIDES[0], help=ONLY_OVERRIDES[1]))
    for name in command.options:
        add(name, str | None, typer.Option(f"--{name}", help=OPTIONS[name]))
    for name, parameter in command.parameters.items():
        given = (*command.options, command.argument, *command.positionals, "progress")
        of_its_own = parameter.kind in NAMED and name not in given
        if of_its_own:
            kind = parameter.annotation if parameter.annotation in NUMBERS else str | None
            # One that is on, off or left out gets a second option, `--no-...`, from typer.
            names = () if parameter.annotation == bool | None else (option_of(name),)
            add(name, kind, typer.Option(*names, help=command.helps[name]), parameter.default)
    add("verbose", bool, typer.Option("--verbose", "-v", help=VERBOSE), False)
    return found


def option_of(name: str) -> str:
    """Return the option of a parameter. An underscore at its end keeps it apart from a word of Python: `from_`."""
    return f"--{name.rstrip('_').replace('_', '-')}"


def split_arguments(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the configuration file and the `KEY=VALUE` overrides.

    The file is the first argument without `=`, or the first that exists: folders of a sweep have `=` in their names.
    """
    at = next((i for i, text in enumerate(arguments) if "=" not in text or Path(text).is_file()), None)
    config = None if at is None else arguments[at]
    return config, [text for i, text in enumerate(arguments) if i != at]


def print_result(result: Any) -> None:
    """Print the result of a command on stdout: a table of findings, a summary, rows as tokens, or JSON."""
    from tiltlm.core.notes import printable_json

    if getattr(result, "prints_json", False):
        typer.echo(printable_json(result.to_dict()))
    elif hasattr(result, "findings"):
        from tiltlm.cli.check_text import print_check

        print_check(result)
    elif hasattr(result, "summary"):
        from tiltlm.cli.summary_text import print_summary

        print_summary(result)
    elif isinstance(result, list):
        from tiltlm.cli.preview_text import print_preview

        print_preview(result)
    else:
        typer.echo(printable_json(result))
