"""How long `tiltlm --help` takes, as a whole process: median, and fastest to slowest.

    python benchmarks/help_time.py [--repeats 21]

The command of this python's environment is measured. Target: at most 0.2 s.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

TARGET_SECONDS = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=21)
    repeats = parser.parse_args().repeats
    command = [str(Path(sys.executable).with_name("tiltlm")), "--help"]
    subprocess.run(command, check=True, capture_output=True)  # bytecode and the file cache are warm from here on
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    verdict = "met" if median <= TARGET_SECONDS else "missed"
    print(f"tiltlm --help: {median:.3f} s ({min(seconds):.3f} to {max(seconds):.3f}, {repeats} runs); "
          f"target at most {TARGET_SECONDS} s: {verdict}")  # fmt: skip


if __name__ == "__main__":
    main()
