"""How the data of a run chat: what a model folder needs beside weights, configuration and tokenizer."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from tiltlm.runs.directory import RunDirectory
from tiltlm.storage.files import read_json


@dataclass(frozen=True)
class Chat:
    """The chat template that rendered the data of a run, and the token that ended its responses."""

    FILE: ClassVar[str] = "chat.json"

    template: str | None
    """Jinja text; None: the tokenizer's own, unchanged."""
    response_end: int | None
    """None: the tokenizer's own end token."""

    def write(self, run: RunDirectory) -> None:
        """Write `chat.json` into the folder of a run, in rank 0 only: a checkpoint can then become a model folder."""
        run.write_json(self.FILE, asdict(self))

    @classmethod
    def of_run(cls, run: Path) -> "Chat | None":
        """Read what a run has written; None for a run of a version that wrote no such file."""
        found = read_json(run / cls.FILE)
        return None if found is None else cls(**found)
