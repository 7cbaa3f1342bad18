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
    """Write a commented YAML file with every setting."""
    from tiltlm.config.starting_file import new_file

    text, lost = new_file(file, source, model=model, data=data, objective=objective, output=output)
    for line in lost:
        print(line, file=sys.stderr)
    if file is None:
        typer.echo(text, nl=False)
    else:
        typer.echo(f"{file}  (edit it, then: tiltlm train {file})")


def chat(
    model: Annotated[str, typer.Argument(help="Model: a folder, or a name on the Hugging Face Hub.")],
    beside: Annotated[str | None, typer.Option(help="A second model, which answers too.")] = None,
    temperature: Annotated[float, typer.Option(help="0 takes the most probable token.")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option(help="An answer is cut after this many tokens.")] = 256,
    seed: Annotated[int, typer.Option(help="The same seed and prompts give the same answers.")] = 0,
) -> None:
    """Try a model in the terminal, or with the lines of stdin."""
    from tiltlm.recipes.progress import quiet_libraries, show_progress

    with show_progress() as draw:
        draw("import torch, transformers", 0, 0)
        from tiltlm.cli.chat import answer_lines, talk
        from tiltlm.cli.conversation import open_conversation

        names = [model] if beside is None else [model, beside]
        conversations = []
        for name in names:
            draw("load the model", 0, 0)
            with quiet_libraries():
                conversations.append(
                    open_conversation(name, temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
                )
    if sys.stdin.isatty():
        talk(conversations)
    else:
        answer_lines(conversations, iter(sys.stdin))


def report(run: Annotated[Path, typer.Argument(help="Folder of a finished run or of a sweep.")]) -> None:
    """Make the page of a run or of a sweep again."""
    from tiltlm.recipes.trained_run import report_again

    typer.echo(str(report_again(run)))


TOOLS = (objectives, settings, init, chat, report)
"""In the order of `tiltlm --help`."""
