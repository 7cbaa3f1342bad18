"""Make the picture of a report that README.md shows: the top of the page, from its title to its first figure.

    ./quickstart
    python scripts/make_report_picture.py quickstart-run/report.html

It needs Chromium or Chrome. Look at the picture: it must end below the first figure.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PICTURE = Path(__file__).parents[1] / "docs" / "figures" / "report.png"
SIZE = (1000, 1475)
"""Pixels: the width of the browser's window, and the height of what is kept."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def main(report: Path) -> None:
    """Open the report in a browser without a window, and keep its top."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"none of these browsers is installed: {', '.join(BROWSERS)}")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "report.png"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]  # also as root in a container
        subprocess.run(
            [browser, *flags, f"--window-size={SIZE[0]},{SIZE[1]}", f"--screenshot={shot}", report.resolve().as_uri()],
            check=True,
            capture_output=True,
        )
        # A palette makes the file half as large. The most distinct colours keep those of the figure's thin lines.
        picture = Image.open(shot).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    picture.save(PICTURE, optimize=True)
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
