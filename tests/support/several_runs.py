"""One of several processes that share commands; started by test_several_processes.py with a launcher's environment.

It runs the commands of a JSON file one after another, and ends with an error in its last process alone.
"""

import json
import shutil
import sys
from pathlib import Path

from tiltlm.cli.console import start_logging
from tiltlm.cli.launched import fail_together
from tiltlm.cli.main import app, described, end_with
from tiltlm.core import RunError
from tiltlm.distributed import Ranks


def cut_short(source: Path, target: Path) -> None:
    """A copy of a run as if it had been killed before its last checkpoint."""
    shutil.copytree(source, target)
    shutil.rmtree(max((target / "checkpoints").iterdir(), key=lambda path: path.name))


def main(folder: Path) -> None:
    ranks = Ranks.join()
    for command in json.loads((folder / "commands.json").read_text()):
        if "--resume" in command:
            ranks.first(lambda: cut_short(folder / "shard", folder / "again"))
        app(command, standalone_mode=False)
    if ranks.rank == ranks.size - 1:
        raise RunError("only here", code="only_here")
    ranks.sum([1.0])


if __name__ == "__main__":
    start_logging()
    with fail_together(described, end_with):
        main(Path(sys.argv[1]))
