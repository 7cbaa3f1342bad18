"""What all tests share: shape annotations are checked while testing, and nothing reaches for the network."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side, and threads that spin slow each other down

import pytest
from jaxtyping import install_import_hook

pytest.register_assert_rewrite("support")

# Checked packages: the torch-only ones, where shapes are the contract.
install_import_hook(["tiltlm.core", "tiltlm.rewards", "tiltlm.links", "tiltlm.objectives"], "beartype.beartype")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def stories() -> Path:
    """A real pretrained model of 260 thousand parameters, beside the checkout."""
    folder = SHARED / "models" / "stories260k"
    if not folder.exists():
        pytest.skip("needs the real small model of the shared folder beside the checkout")
    return folder


@pytest.fixture(scope="session")
def hh() -> Path:
    """1,700 real preference pairs (HH-RLHF, harmless), beside the checkout."""
    file = SHARED / "data" / "hh-harmless.jsonl.gz"
    if not file.exists():
        pytest.skip("needs the real preference pairs of the shared folder beside the checkout")
    return file
