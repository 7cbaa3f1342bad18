"""The command line in a process whose rank 1 fails while it draws samples; started with a launcher's environment."""

import os
from typing import Never

from tiltlm.cli.main import main
from tiltlm.core import RunError
from tiltlm.sampling import sampler


def fail(draws: object) -> Never:
    raise RunError(f"only here, after {type(draws).__name__}", code="only_here")


if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        sampler._unpack = fail
    main()
