"""Makes the made-up reports importable: this folder is no package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
