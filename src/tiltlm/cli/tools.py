"""Commands around a run: lists of methods and settings, a file to start from, trying a model, a report made again.

Each imports what it needs when it runs.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tiltlm.config.command import OPTIONS


def objectives(
    name: Annotated[str | None, typer.Argument(help="Name of a method; without it, all are listed.")] = None,
) -> None:
    """List the methods, or describe one of them in full."""
    from tiltlm.config.notebook import describe_objective

    typer.echo(describe_objective(name))


def settings(
    name: Annotated[
        str | None, typer.Argument(metavar="[SECTION]", help="A section or a setting; without it, all are listed.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: key, type, default, meaning.")] = False,
) -> None:
    """List the settings of a run, with defaults and meaning."""
    from tiltlm.config.listing import as_plain, describe_settings, find_settings

    plain = json.dumps(as_plain(find_settings(name)), indent=2, ensure_ascii=False) if as_json else None
    typer.echo(describe_settings(name) if plain is None else plain)


def init(
    file: Annotated[Path | None, typer.Argument(help="The new file; without it, the settings are printed.")] = None,
    model: Annotated[str | None, typer.Option(help=OPTIONS["model"])] = None,
    data: Annotated[str | None, typer.Option(help=OPTIONS["data"])] = None,
    objective: Annotated[str | None, typer.Option(help=OPTIONS["objective"])] = None,
    output: Annotated[str | None, typer.Option(help=OPTIONS["output"])] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="A YAML file of TRL or axolotl to translate.", show_default=False)
    ] = None,
) -> None:
    """Write a commented YAML file with every setting, to start from."""
    from tiltlm.config.starting_file import new_file

    text, lost = new_file(file, source, model=model, data=data, objective=objective, output=output)
    for line in lost:
        print(line, file=sys.stderr)
    if file is None:
        typer.echo(text, nl=False)
    else:
        typer.echo(f"{file}  (edit it, then: tiltlm train {file})")


TOOLS = (objectives, settings, init)
"""In the order of `tiltlm --help`."""
