"""`tiltlm`: one thin command a task. Results go to stdout, notes and progress to stderr.

Nothing heavy is imported before a command runs, so that `--help` answers at once. Exit code 0 is done, 1 a run that
failed, 2 wrong use; 130 and 143 are a run stopped by SIGINT and SIGTERM.
"""

import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tiltlm.cli.launched import fail_together, is_first

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Tilt a language model toward what people prefer: train from preferences, and measure whether it helped.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG] [KEY=VALUE ...]", help="A YAML file, and settings that go before it."),
]
Model = Annotated[str | None, typer.Option("--model", help="Model folder, or name on the Hugging Face Hub.")]
Data = Annotated[str | None, typer.Option("--data", help="Preference data: a file, a folder, or a name on the Hub.")]
ObjectiveName = Annotated[str | None, typer.Option("--objective", help="Method; `tiltlm objectives` lists them.")]
Output = Annotated[str | None, typer.Option("--output", help="Folder of the run; new or empty.")]
Store = Annotated[str | None, typer.Option("--store", help="Folder of reference log-probabilities shared by runs.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest sound checkpoint of the run.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete the run that is there and start again.")]


def split_settings(arguments: list[str] | None, **options: str | None) -> tuple[str | None, dict[str, Any]]:
    """The configuration file, if the first argument is one, and everything that goes before it."""
    from tiltlm.config import parse_overrides

    arguments = list(arguments or [])
    config = arguments.pop(0) if arguments and "=" not in arguments[0] else None
    overrides = parse_overrides(arguments)
    overrides.update({key.replace("__", "."): value for key, value in options.items() if value is not None})
    return config, overrides


@app.command()
def quickstart(
    output: Annotated[str, typer.Option("--output", help="Folder of the run.")] = "quickstart-run",
    overwrite: Overwrite = False,
    seed: Annotated[int, typer.Option(help="Of the samples, the labels and the order of training.")] = 0,
) -> None:
    """A small alignment run, offline, in minutes.

    Samples from a bundled tiny model, labels by a gold reward, trains DPO, and reports what was gained beside what was
    possible.
    """
    from tiltlm.cli.console import progress, quiet_libraries
    from tiltlm.config import calls

    quiet_libraries()
    with progress() as draw:
        result = calls.quickstart(output=output, overwrite=overwrite, seed=seed, progress=draw)
    typer.echo(result.summary())


@app.command()
def train(
    settings: Settings = None,
    model: Model = None,
    data: Data = None,
    objective: ObjectiveName = None,
    output: Output = None,
    store: Store = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a policy from preferences and report whether it helped."""
    from tiltlm.cli.console import progress, quiet_libraries
    from tiltlm.config import calls

    config, overrides = split_settings(
        settings, model=model, data=data, objective=objective, output=output, reference__store=store
    )
    quiet_libraries()
    with progress() as draw:
        result = calls.train(config, resume=resume, overwrite=overwrite, progress=draw, **overrides)
    if is_first():
        typer.echo(result.summary())


@app.command()
def score(
    settings: Settings = None,
    model: Model = None,
    data: Data = None,
    objective: ObjectiveName = None,
    reference: Annotated[str | None, typer.Option("--reference", help="Reference: base, columns, or a folder.")] = None,
    store: Store = None,
    per_example: Annotated[
        Path | None, typer.Option("--per-example", help="Write a JSON line per example to this file.")
    ] = None,
) -> None:
    """Loss and metrics of the whole data as one step, as JSON."""
    from tiltlm.cli.console import progress, quiet_libraries
    from tiltlm.config import calls

    config, overrides = split_settings(
        settings, model=model, data=data, objective=objective, reference=reference, reference__store=store
    )
    quiet_libraries()
    with progress() as draw:
        result = calls.score(config, per_example=per_example, progress=draw, **overrides)
    typer.echo(json.dumps(result, indent=2, ensure_ascii=False))


@app.command()
def sweep(
    settings: Annotated[
        list[str],
        typer.Argument(metavar="[CONFIG] KEY=V1,V2,... ...", help="Each key takes all its values, all combinations."),
    ],
    model: Model = None,
    data: Data = None,
    objective: ObjectiveName = None,
    output: Output = None,
    store: Store = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the runs that are complete, do the others.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Runs over a grid, and one page to compare them."""
    from tiltlm.cli.console import progress, quiet_libraries
    from tiltlm.config import calls

    grid = [s for s in settings if "=" in s]
    config = next((s for s in settings if "=" not in s), None)
    overrides = {"model": model, "data": data, "objective": objective, "output": output, "reference.store": store}
    given = {key: value for key, value in overrides.items() if value is not None}
    quiet_libraries()
    with progress() as draw:
        result = calls.sweep(config, grid, resume=resume, overwrite=overwrite, progress=draw, **given)
    typer.echo(result.summary())


@app.command()
def objectives(name: Annotated[str | None, typer.Argument(help="One method, in full.")] = None) -> None:
    """The catalogue of methods, or one in full."""
    from tiltlm.recipes.catalogue import describe_method, overview

    typer.echo(describe_method(name) if name else overview())


@app.command()
def preview(
    data: Annotated[str, typer.Argument(help="Preference data.")],
    settings: Settings = None,
    model: Annotated[str, typer.Option("--model", help="Whose tokenizer and chat template to use.")] = "",
    objective: Annotated[str, typer.Option("--objective", help="Method the rows are prepared for.")] = "dpo",
    rows: Annotated[int, typer.Option("--rows", help="How many rows to show.")] = 3,
) -> None:
    """The first rows as tokens, with what is scored marked."""
    from tiltlm.cli.console import quiet_libraries
    from tiltlm.cli.preview_text import print_preview
    from tiltlm.config import calls

    if not model:
        raise typer.BadParameter("name a model: its tokenizer cuts the text into tokens", param_hint="--model")
    quiet_libraries()
    config, overrides = split_settings(settings, model=model, data=data, objective=objective)
    print_preview(calls.preview(config, rows=rows, **overrides))


def show_version(wanted: bool) -> None:
    """Print the installed version and stop."""
    if wanted:
        from importlib.metadata import version

        typer.echo(version("tiltlm"))
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=show_version, is_eager=True)
    ] = False,
) -> None:
    """Options of the program itself."""


def main() -> None:
    """Entry point: run a command, turn an error of ours into one message and its exit code."""
    for signum in (signal.SIGINT, signal.SIGTERM):  # a training run puts its own in place and commits first
        signal.signal(signum, lambda number, _: sys.exit(128 + number))
    if not any(flag in sys.argv[1:] for flag in ("-h", "--help")):
        from tiltlm.cli.console import begin_notes

        begin_notes()
    try:
        with fail_together():
            app()
    except Exception as error:
        from tiltlm.core.errors import TiltError

        if not isinstance(error, TiltError):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
