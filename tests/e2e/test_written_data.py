"""Commands that write data: a full disk, SIGTERM and SIGKILL leave the whole output or none, and no temporary file."""

import json
import random
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

import tiltlm
from support.errors import raises
from tiltlm.core import RunError
from tiltlm.storage.files import check_writable

NUM_MOMENTS = 3
"""Times that each command is stopped by each signal."""


def write_pairs(path, count):
    """Write pairs with texts that no compression shrinks much."""
    with path.open("w") as file:
        for i in range(count):
            texts = [f"{random.Random(3 * i + k).getrandbits(1200):x}" for k in range(3)]
            file.write(json.dumps(dict(zip(("prompt", "chosen", "rejected"), texts, strict=True))) + "\n")
    return path


@contextmanager
def file_size_limit(num_bytes):
    """Let the system refuse to write files beyond a size, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def calls(data, folder):
    """Return each command as a name, a Python call, and what it writes."""
    written = {"progress": False}
    return {
        "convert.jsonl": lambda: tiltlm.convert(data, folder / "o.jsonl", to="trl", overwrite=True, **written),
        "convert.csv.gz": lambda: tiltlm.convert(data, folder / "o.csv.gz", to="trl", overwrite=True, **written),
        "convert.parquet": lambda: tiltlm.convert(data, folder / "o.parquet", to="trl", overwrite=True, **written),
        "convert.dataset": lambda: tiltlm.convert(data, folder / "o", to="trl", overwrite=True, **written),
        "split": lambda: tiltlm.split(data=data, output=folder / "parts", overwrite=True, **written),
        "fix": lambda: tiltlm.check(data=data, fix=folder / "clean.jsonl", overwrite=True, **written),
        "html": lambda: tiltlm.check(data=data, html=folder / "check.html", **written),
        "stats": lambda: tiltlm.stats(data=data, html=folder / "stats.html", overwrite=True, **written),
    }


def content(folder):
    """Return all files below a folder, with their bytes."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    "name", ["convert.jsonl", "convert.csv.gz", "convert.parquet", "convert.dataset", "split", "fix", "html", "stats"]
)
@pytest.mark.parametrize("has_earlier", [False, True])
def test_a_full_disk(tmp_path, monkeypatch, name, has_earlier):
    """Nothing changes: what an earlier call wrote stays whole."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda _, file, **__: file.write("<svg></svg>"))
    folder = tmp_path / "out"
    folder.mkdir()
    if has_earlier:
        calls(write_pairs(tmp_path / "few.jsonl", 20), folder)[name]()
    before = content(folder)
    assert bool(before) == has_earlier
    call = calls(write_pairs(tmp_path / "pairs.jsonl", 200), folder)[name]
    check_writable(folder)
    with file_size_limit(10_000), raises(RunError, "not_writable") as caught:
        call()
    assert str(folder) in str(caught.value) or "TMPDIR" in str(caught.value)
    assert content(folder) == before
    call()
    assert content(folder) != before


def command(name, data, folder):
    """Return the arguments of a command, and the files that it writes."""
    arguments, files = {
        "convert": (["convert", data, folder / "o.parquet", "--to", "trl"], ["o.parquet"]),
        "split": (["split", data, "--output", folder / "parts"], ["parts/train.jsonl", "parts/split.json"]),
        "check": (["check", data, "--fix", folder / "clean.jsonl"], ["clean.jsonl", "clean.left-out.jsonl"]),
        "stats": (["stats", data, "--html", folder / "stats.html"], ["stats.html"]),
    }[name]
    return [sys.executable, "-m", "tiltlm", *map(str, arguments)], files


@pytest.mark.long
@pytest.mark.parametrize("name", ["convert", "split", "check", "stats"])
def test_commands_that_are_killed(tmp_path, name):
    data = write_pairs(tmp_path / "pairs.jsonl", 3000)
    whole = tmp_path / "whole"
    whole.mkdir()
    arguments, files = command(name, data, whole)
    start = time.monotonic()
    subprocess.run(arguments, check=False, capture_output=True)
    seconds = time.monotonic() - start
    expected = content(whole)
    assert expected.keys() >= set(files)
    for signum in (signal.SIGTERM, signal.SIGKILL):
        for moment in range(NUM_MOMENTS):
            folder = tmp_path / f"{signum}-{moment}"
            folder.mkdir()
            arguments, _ = command(name, data, folder)
            with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
                try:
                    process.wait(seconds * random.Random(f"{name}{signum}{moment}").uniform(0.3, 1.0))
                except subprocess.TimeoutExpired:
                    process.send_signal(signum)
                said = process.communicate()[1].decode()
            assert process.returncode in (0, 1, -signum, 128 + signum), said
            found = content(folder)
            left = {file for file in found if file.startswith(".") or "/." in file or ".tmp" in file}
            assert not left or signum == signal.SIGKILL, "only SIGKILL leaves a temporary file"
            for file in found.keys() - left:
                if not file.endswith(".html"):  # a page has its date
                    assert found[file] == expected[file], f"{file} is not whole"
            if moment < NUM_MOMENTS - 1:
                continue
            again = subprocess.run([*arguments, "--overwrite"], check=False, capture_output=True)
            assert again.returncode in (0, 1), again.stderr
            assert content(folder).keys() == expected.keys(), "the next call cleans up"
