"""A conversation in a terminal, or answers to the lines of stdin."""

import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from tiltlm.cli.conversation import Conversation
from tiltlm.core.errors import TiltError
from tiltlm.core.notes import visible

HELP = "Type a prompt; \\n in it is a line break. /reset starts again, /quit or Ctrl-D ends."
COLOURS = ("green", "cyan")


def answer_lines(conversations: Sequence[Conversation], lines: Iterator[str]) -> None:
    r"""Print the answer to each line of a file, one line each; a line has no memory of those before it.

    A line break is written as `\n` in prompts and answers. Answers of two models stand in a line, with a tab between.
    """
    for line in lines:
        if prompt := line.rstrip("\r\n"):
            answers = []
            for conversation in conversations:
                conversation.reset()
                answers.append(conversation.answer(prompt.replace("\\n", "\n")))
            shown = visible if sys.stdout.isatty() else str  # a file gets the answers as they are
            parts = (answer.strip("\n").replace("\n", "\\n").replace("\t", " ") for answer in answers)
            print("\t".join(map(shown, parts)), flush=True)


def talk(conversations: Sequence[Conversation], console: Console | None = None) -> None:
    """Ask for prompts and print the answers until the user ends it."""
    import readline  # noqa: F401  # input() then has a history and can be edited

    console = console or Console()
    for conversation in conversations:
        kind = "chat template" if conversation.has_template else "no chat template: it continues each text"
        console.print(Text(visible(f"{conversation.name} ({kind})"), style="bold"), soft_wrap=True)
    console.print(HELP, markup=False, style="dim")
    while True:
        try:
            prompt = input("> ")
        except EOFError:
            console.print()
            return
        match prompt.strip():
            case "/quit":
                return
            case "/reset":
                for conversation in conversations:
                    conversation.reset()
            case "":
                continue
            case _:
                _print_answers(conversations, prompt.replace("\\n", "\n"), console)


def _print_answers(conversations: Sequence[Conversation], prompt: str, console: Console) -> None:
    for conversation, colour in zip(conversations, COLOURS, strict=False):
        try:
            with console.status("…"):
                answer = conversation.answer(prompt)
        except TiltError as error:
            print(visible(f"error: {error}"), file=sys.stderr)
            continue
        name = f"{conversation.name}: " if len(conversations) > 1 else ""
        console.print(
            Text.assemble((name, "bold"), (visible(answer.strip("\n")), colour)), soft_wrap=not console.is_terminal
        )
