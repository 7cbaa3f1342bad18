"""Wait for what a process does, without a fixed time."""

import subprocess
import time
from collections.abc import Callable


def wait_for(condition: Callable[[], object], process: subprocess.Popen, seconds: float = 300.0) -> None:
    """Wait until a condition holds. It fails if the process ends before, or after so many seconds."""
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.02)
