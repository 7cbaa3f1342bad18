"""A command is one typed Python function. The command line is made from its signature and its docstring.

Its parameters mean:

- `config` and `**settings`: the arguments `[CONFIG] [KEY=VALUE ...]`, or without `config` only `[KEY=VALUE ...]`; what
  they may contain is read from the settings dataclass that the function passes to `resolve`;
- `grid`: the overrides `KEY=V1,V2,...` as texts, in place of settings;
- those that `command(positionals=...)` names: arguments of their own, in this order; one with a default is optional;
- the parameter that `command(arguments=...)` names: all arguments of the command line, as a list;
- `progress`: a display of progress, which the command line passes in;
- one that is named in `@command(...)`: an argument or an option, as said there;
- every other one: an option of its own, whose help is in the section `Args:` of the docstring. None may be called
  `verbose`: every command has that option.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypeVar

Call = TypeVar("Call", bound=Callable[..., Any])

OPTIONS: Mapping[str, str] = {
    "model": "Model: a folder, or a name on the Hugging Face Hub.",
    "data": "Preference data: a file, a folder, or a name on the Hugging Face Hub.",
    "objective": "Method; `tiltlm objectives` lists them.",
    "judge": "Judge: KIND or KIND:ARGUMENT, such as reward_model:FOLDER or gold, or a YAML file with its settings.",
    "reference": "Reference model: base, columns, initial, a folder, or a name on the Hub.",
    "output": "Folder of the run; it must be new or empty.",
    "prompts": "Data of any shape whose prompts are answered: a file, a folder, or a name on the Hugging Face Hub.",
    "store": "Folder of reference log-probabilities that runs share.",
}
"""Settings that may have an option of their own (`--model`), and its help."""

GROUPS: Mapping[str, str] = {
    "label": "Collect preferences of people, and make labels of them.",
    "runs": "List the runs in folders, or compare two runs.",
}
"""Groups of commands, and the help of each. `label_serve` in group `label` is the command `tiltlm label serve`."""

DEFAULTS: Mapping[str, str] = {"runs": "list"}
"""Group → the command that runs where none is named: `tiltlm runs DIR` is `tiltlm runs list DIR`."""

COMMANDS: dict[str, "Command"] = {}
"""Every command by its name (`label serve` in a group), in the order of `tiltlm --help`."""


@dataclass(frozen=True)
class Command:
    """A Python function that is a command too."""

    call: Callable[..., Any]
    options: tuple[str, ...]
    """Settings with an option of their own, by their names in `OPTIONS`."""
    argument: str | None
    """Setting that is the first argument, without `--`."""
    arguments: str | None = None
    """Parameter that takes all arguments, any number of them."""
    positionals: Mapping[str, str] = field(default_factory=dict)
    """Parameter that is an argument of its own → how help calls it."""
    has_bar: bool = True
    """Show a bar of progress while it runs. False for a command that uses the terminal itself."""

    @property
    def help(self) -> str:
        """The docstring up to its first section."""
        return re.split(r"\n\n[A-Z]\w+:\n", inspect.getdoc(self.call) or "")[0]

    @cached_property
    def helps(self) -> dict[str, str]:
        """The help of each parameter, from the section `Args:` of the docstring."""
        section = re.search(r"\n\nArgs:\n((?: +.*\n?)+)", inspect.getdoc(self.call) or "")
        entries = re.findall(r"^ {4}\**(\w+): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.MULTILINE)
        return {name: re.sub(r"\s+", " ", text) for name, text in entries}

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The parameters of the function."""
        return inspect.signature(self.call).parameters


def command(
    *options: str,
    argument: str | None = None,
    arguments: str | None = None,
    positionals: Mapping[str, str] = MappingProxyType({}),
    group: str | None = None,
    has_bar: bool = True,
) -> Callable[[Call], Call]:
    """Make a function a command under its own name, with hyphens for underscores.

    Args:
        *options: Settings with an option of their own, by their names in `OPTIONS`.
        argument: Setting that is the first argument, without `--`.
        arguments: First parameter of the function, which takes all arguments as a list.
        positionals: First parameters of the function that are an argument each → how help calls them.
        group: Group of the command, one of `GROUPS`; the name of the function begins with it.
        has_bar: Show a bar of progress while the command runs.
    """

    def register(call: Call) -> Call:
        own = call.__name__ if group is None else call.__name__.removeprefix(f"{group}_")
        name = own.replace("_", "-")
        COMMANDS[name if group is None else f"{group} {name}"] = Command(
            call, options, argument, arguments, positionals, has_bar
        )
        return call

    return register
