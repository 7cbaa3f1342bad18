"""What all tests share: shape annotations are checked while testing, and nothing reaches for the network."""

import logging
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side, and threads that spin slow each other down

import hypothesis
import pytest
from jaxtyping import install_import_hook

pytest.register_assert_rewrite("support")

# Tests end processes and never the machine: what is written needs no wait for the disk to outlive them.
os.fsync = lambda _: None

# Checked packages: the torch-only ones, where shapes are the contract.
install_import_hook(["tiltlm.core", "tiltlm.rewards", "tiltlm.links", "tiltlm.objectives"], "beartype.beartype")

# How long an example takes depends on what else runs, and the first text waits for tables of characters.
hypothesis.settings.register_profile("tiltlm", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tiltlm")

SLOW = (
    "e2e/test_stopped_runs",
    "e2e/test_loop",
    "unit/distributed/test_sharded_steps",
    "e2e/test_estimate",
    "e2e/test_killed_commands",
    "e2e/test_hosts",
    "e2e/test_written_data",
    "architectures/test_walk",
    "e2e/test_loop_in_several_processes",
    "e2e/test_distributions",
    "e2e/test_lost_ranks",
    "e2e/labeling/test_played_page",
    "unit/training/checkpoints/test_sharded_long",
    "e2e/test_loop_acceptance",
    "e2e/test_several_processes",
    "unit/distributed/test_peak_memory",
    "e2e/test_quickstart",
    "e2e/test_catalogue",
    "docs/test_api_site",
    "e2e/test_real_data",
    "unit/costs/test_counting",
    "docs/test_code_blocks",
    "examples/test_examples",
    "unit/logprobs/test_selfcheck",
    "e2e/test_score",
    "unit/distributed/test_wrapping",
    "unit/logprobs/attention/test_compiling",
    "e2e/test_label_server",
    "conformance/test_battery",
    "e2e/test_train",
    "unit/training/checkpoints/test_sharded",
    "e2e/test_faults",
    "e2e/test_frontier",
    "e2e/test_gpu_benchmark",
    "e2e/test_compare_methods",
    "e2e/test_reward_model",
    "unit/logprobs/attention/test_flex",
    "unit/training/test_guards",
    "unit/logprobs/test_distributed",
    "unit/training/test_step",
    "unit/training/test_loop",
    "e2e/test_bad_input",
)
"""Modules that take longest, here or in ./test --long, the longest first. They start first, so that both processes end
together."""


@pytest.fixture(autouse=True)
def same_logging():
    """Leave the logger of tiltlm as it was: a command that runs in this process sets it up for a terminal."""
    log = logging.getLogger("tiltlm")
    before = log.level, log.propagate, [*log.handlers]
    yield
    log.setLevel(before[0])
    log.propagate, log.handlers[:] = before[1:]


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


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of reports are made but not drawn, which takes a third of a short run."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda _, file, **__: file.write("<svg></svg>"))


@pytest.fixture(scope="session")
def postgres_server():
    """A real PostgreSQL server, started once in each process that needs it; see support/label_databases.py."""
    from support.label_databases import PostgresServer

    server = PostgresServer()
    yield server
    server.stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slow modules first."""
    order = {Path(__file__).parent / f"{module}.py": place for place, module in enumerate(SLOW)}
    assert all(path.exists() for path in order)
    items.sort(key=lambda item: order.get(item.path, len(order)))
