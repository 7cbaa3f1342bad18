"""One of several processes that run commands one after the other; started by test_sharded_loops.py with a launcher's
environment.

`ended.json` then has, for each command of `commands.json`, the code of the error with which it ended in each process.
"""

import json
import sys
from pathlib import Path

from tiltlm.cli.console import start_logging
from tiltlm.cli.launched import fail_together
from tiltlm.cli.main import app, described, end_with
from tiltlm.core import TiltError
from tiltlm.distributed import Ranks
from tiltlm.judging.language import question


def main(folder: Path) -> None:
    question.MIN_MASS = 0.0  # the labels of a judge with random weights together have a probability of 1 %
    ranks, ended = Ranks.join(), []
    for command in json.loads((folder / "commands.json").read_text()):
        code = ""
        try:
            app(command, standalone_mode=False)
        except TiltError as error:
            code = error.code
        ended.append(ranks.gather(code))
    if ranks.is_first:
        (folder / "ended.json").write_text(json.dumps(ended))


if __name__ == "__main__":
    start_logging()
    with fail_together(described, end_with):
        main(Path(sys.argv[1]))
