"""What a finished run prints at its end."""

from pathlib import Path

import pytest

from tiltlm.recipes.trained_run import TrainedRun
from tiltlm.report import RunReport


@pytest.mark.parametrize(
    ("changes", "beside"),
    [
        ({}, " --beside 'my models/base'"),
        ({"adapter": "adapter"}, ""),
        ({"revision": "v2"}, ""),
    ],
)
def test_the_last_line_tries_the_model_beside_the_untrained_one(changes, beside):
    """`chat` opens folders: an adapter or a revision of the untrained model cannot be given to it."""
    model = {"path": "my models/base", "adapter": None, "revision": None} | changes
    report = RunReport("a run", config={"model": model, "objective": {"name": "dpo"}})
    run = TrainedRun(Path("runs/first"), training=None, report=report)
    assert run.summary().splitlines()[-1] == f"try it  tiltlm chat runs/first/model{beside}"
