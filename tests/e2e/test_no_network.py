"""Nothing is sent or fetched unless it is asked for: not on import, not by training from local files, no telemetry."""

import json
import os
import subprocess
import sys

import pytest

GUARD = """
import socket, sys, json
calls = []

def refuse(name):
    def call(*arguments, **_):
        target = arguments[1] if name in ("connect", "connect_ex", "sendto") else arguments[0]
        if isinstance(target, str | bytes) or name == "getaddrinfo" or target[0] not in ("127.0.0.1", "::1"):
            calls.append([name, repr(target)])
            raise OSError(101, "Network is unreachable")
        return real[name](*arguments)
    return call

real = {name: getattr(socket.socket, name) for name in ("connect", "connect_ex")}
for name in real:
    setattr(socket.socket, name, refuse(name))
socket.getaddrinfo = refuse("getaddrinfo")
socket.gethostbyname = refuse("gethostbyname")
"""
"""Refuses and records each connection to another machine and each look-up of a name, in the process that runs it."""


def calls_of(code: str, *arguments: object) -> list:
    """Return what a Python program tried to reach; it must end well."""
    unset = (
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_DATASETS_OFFLINE",
        "HF_HUB_DISABLE_TELEMETRY",
        "DO_NOT_TRACK",
    )
    environment = {key: value for key, value in os.environ.items() if key not in unset}
    done = subprocess.run(
        [sys.executable, "-c", f"{GUARD}\n{code}\nprint(json.dumps(calls))", *map(str, arguments)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_guard_sees_a_connection_and_a_name():
    code = "import contextlib\n" + "".join(
        f"with contextlib.suppress(OSError): {call}\n"
        for call in ("socket.create_connection(('192.0.2.1', 80), 1)", "socket.getaddrinfo('example.org', 80)")
    )
    assert [name for name, _ in calls_of(code)] == ["getaddrinfo", "getaddrinfo"]
    code = "s = socket.socket()\ntry: s.connect(('192.0.2.1', 80))\nexcept OSError: s.close()"
    assert [name for name, _ in calls_of(code)] == ["connect"]


@pytest.mark.slow
def test_importing_everything_and_training_reach_nothing(model, data, tmp_path):
    code = (
        "import tiltlm\n"
        "for name in dir(tiltlm): getattr(tiltlm, name)\n"
        "import transformers, datasets, accelerate, peft\n"
        "tiltlm.train(model=sys.argv[1], data=sys.argv[2], objective='dpo', output=sys.argv[3], max_steps=2,\n"
        "    eval_fraction=0.25, progress=False, **{'evaluation.num_prompts': 2, 'evaluation.num_samples': 1,\n"
        "    'evaluation.max_new_tokens': 4, 'training.trackers': ['tensorboard']})\n"
        "tiltlm.runs_list(sys.argv[3]).summary()"
    )
    assert calls_of(code, model, data, tmp_path / "run") == []
