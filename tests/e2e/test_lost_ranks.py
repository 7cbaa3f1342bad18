"""A rank that freezes, is killed or fails: one rank names it, and all end with one exit code."""

import re
import signal
import time
from pathlib import Path

import pytest

from support.launching import CLI, Ended, launch, steps_of, wait_until

LIMIT = 6
SETTINGS = {
    "objective": "dpo", "learning_rate": 1e-3, "num_epochs": 2000, "batch_size": 7, "training.max_tokens": 128,
    "training.save_every": 2, "eval_fraction": 0, "model.precision": "float32", "evaluation.num_prompts": 0,
}  # fmt: skip


def command(model: str, data: Path, output: Path) -> list[str]:
    named = ["train", "--model", model, "--data", str(data), "--output", str(output)]
    return [*CLI, *named, *(f"{key}={value}" for key, value in SETTINGS.items())]


def disturb(model: str, data: Path, folder: Path, rank: int, signum: signal.Signals, size: int = 2) -> Ended:
    """Run, send a signal to one rank while it trains, and return how all end. A frozen rank is ended afterwards.

    Signs of life come once a second: two seconds of training are long enough for one that says so.
    """

    def meanwhile(processes) -> None:
        def trains() -> bool:
            return steps_of(folder / "run") >= 2 or any(p.poll() is not None for p in processes)

        wait_until(trains)
        began = time.monotonic()
        wait_until(lambda: time.monotonic() > began + 2)
        processes[rank].send_signal(signum)
        for other, process in enumerate(processes):
            if other != rank:
                process.wait(timeout=LIMIT + 90)
        processes[rank].kill()

    return launch(command(model, data, folder / "run"), folder, meanwhile, size, TILTLM_RANK_TIMEOUT=str(LIMIT))


def assert_named(message: str, rank: int) -> None:
    """The first line names the rank; then one line a rank: phase, step, the row it trains on, place in the code."""
    first, *lines = message.splitlines()
    assert re.search(rf"rank {rank} \(process \d+ on \S+\)", first)
    at_row, elsewhere = r"train, step \d+, row \S+:\d+", r"(?!train)\w[\w ]*, step \d+"
    found = [line for line in lines if re.search(rf"rank \d on \S+: ({at_row}|{elsewhere})", line)]
    assert found, message
    assert any(re.search(r"\((\w+/)+\w+\.py:\d+\)", line) for line in lines), message


def message_in(text: str) -> str:
    """Return the one error on stderr, and what follows it."""
    assert text.count("error: ") == 1, text
    return text[text.index("error: ") :]


@pytest.mark.slow
def test_a_frozen_rank_is_named_and_all_end(model, data, tmp_path):
    ended = disturb(model, data, tmp_path, 1, signal.SIGSTOP)
    assert ended.codes == [1, -signal.SIGKILL]
    message = message_in(ended.err[0])
    assert_named(message, 1)
    assert message.strip() in (tmp_path / "run" / "log.txt").read_text()
    assert ended.err[1] == ""


@pytest.mark.long
def test_a_frozen_rank_0_is_named_by_another(model, data, tmp_path):
    ended = disturb(model, data, tmp_path, 0, signal.SIGSTOP)
    assert ended.codes == [-signal.SIGKILL, 1]
    assert_named(message_in(ended.err[1]), 0)


@pytest.mark.long
def test_a_killed_rank_is_named_and_the_others_end_without_a_launcher(model, data, tmp_path):
    ended = disturb(model, data, tmp_path, 1, signal.SIGKILL, size=3)
    assert ended.codes == [1, -signal.SIGKILL, 1]
    assert_named(message_in(ended.err[0]), 1)
    assert message_in(ended.err[0]).splitlines()[0].removeprefix("error: ") in (tmp_path / "run/log.txt").read_text()
    assert ended.err[2] == ""


@pytest.mark.long
def test_a_killed_rank_0_takes_the_store_with_it_and_is_named(model, data, tmp_path):
    ended = disturb(model, data, tmp_path, 0, signal.SIGKILL)
    assert ended.codes == [-signal.SIGKILL, 1]
    message = message_in(ended.err[1])
    assert "rank 0 (process" in message


@pytest.mark.long
def test_a_defect_in_one_rank_is_printed_by_rank_0_with_its_traceback(tmp_path):
    script = tmp_path / "defect.py"
    script.write_text(
        "from tiltlm.cli.console import start_logging\n"
        "from tiltlm.cli.launched import fail_together\n"
        "from tiltlm.cli.main import described, end_with\n"
        "from tiltlm.distributed import Ranks\n"
        "start_logging()\n"
        "with fail_together(described, end_with):\n"
        "    ranks = Ranks.join(cpu=True)\n"
        "    if ranks.rank == 1:\n"
        "        raise KeyError('a defect')\n"
        "    ranks.sum([1.0])\n"
    )
    ended = launch([script], tmp_path, size=3)
    assert ended.codes == [1, 1, 1]
    message = message_in(ended.err[0])
    assert message.startswith("error: rank 1: Traceback")
    assert "KeyError: 'a defect'" in message
    assert ended.err[1:] == ["", ""]


@pytest.mark.long
def test_long_work_of_one_rank_for_all_is_no_fault(tmp_path):
    """Rank 0 works five times as long as the limit, and the others wait for it in a collective operation."""
    script = tmp_path / "works.py"
    script.write_text(
        "import time\n"
        "from tiltlm.distributed import Ranks\n"
        "def work():\n"
        "    until = time.monotonic() + 10\n"
        "    while time.monotonic() < until:\n"
        "        sum(range(1000))\n"
        "    return 'done'\n"
        "ranks = Ranks.join(cpu=True)\n"
        "assert ranks.first(work) == 'done'\n"
        "ranks.leave()\n"
    )
    ended = launch([script], tmp_path, TILTLM_RANK_TIMEOUT="2")
    assert ended.codes == [0, 0], ended.err


@pytest.mark.long
def test_a_rank_that_never_calls_the_collective_is_named(tmp_path):
    """It beats, so it is no lost one: its main thread waits for something else."""
    script = tmp_path / "waits.py"
    script.write_text(
        "import threading\n"
        "from tiltlm.distributed import Ranks\n"
        "ranks = Ranks.join(cpu=True)\n"
        "if ranks.rank == 1:\n"
        "    threading.Event().wait()\n"
        "ranks.sum([1.0])\n"
    )
    ended = launch([script], tmp_path, TILTLM_RANK_TIMEOUT="3")
    assert ended.codes == [1, 1]
    assert re.search(r"error: rank 1 \(process \d+ on \S+\)", ended.err[0])
    assert ended.err[1] == ""
