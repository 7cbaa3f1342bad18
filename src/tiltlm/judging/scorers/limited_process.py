"""The other process of unit tests: it limits itself, runs a program and its tests, and reports which tests passed.

It imports nothing of tiltlm and runs as a script in Python's isolated mode. The request comes on stdin, the report goes
to a pipe of its own. The program cannot end the report early and count as passed: only a complete report is one.

Limited are processor time, memory, the size of files, the number of open files, and, where the system allows a
process to leave its network namespace (Linux with user namespaces), the network. Not limited are reading files that the
user can read, and writing small files elsewhere. It is a guard against accidents, not against an attacker.
"""

import contextlib
import ctypes
import json
import os
import sys

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
MAX_FILE = 16 << 20
"""Bytes of one file that the program may write."""
MAX_OPEN = 64


def leave_network() -> bool:
    """Put this process in a network namespace without interfaces, and return whether that worked."""
    with contextlib.suppress(OSError, AttributeError):
        return bool(ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0)
    return False


def limit(seconds: float, megabytes: int) -> None:
    """Limit what this process may use, as far as the system knows such limits."""
    try:
        import resource
    except ImportError:
        return
    wanted = {
        "RLIMIT_CPU": int(seconds) + 1,
        "RLIMIT_AS": megabytes << 20,
        "RLIMIT_FSIZE": MAX_FILE,
        "RLIMIT_NOFILE": MAX_OPEN,
        "RLIMIT_CORE": 0,
    }
    for name, value in wanted.items():
        with contextlib.suppress(ValueError, OSError, AttributeError):
            resource.setrlimit(getattr(resource, name), (value, value))


def run(program: str, tests: list[str]) -> dict[str, object]:
    """Run a program and then each test in its names, and return which tests passed."""
    names: dict[str, object] = {"__name__": "program"}
    try:
        exec(compile(program, "response", "exec"), names)
    except BaseException as error:  # SystemExit too: a program that ends has not passed
        return {"passed": [False] * len(tests), "note": f"{type(error).__name__}: {error}"[:200]}
    passed, note = [], ""
    for test in tests:
        try:
            exec(compile(test, "test", "exec"), names)
            passed.append(True)
        except BaseException as error:
            passed.append(False)
            note = note or f"{type(error).__name__}: {error}"[:200]
    return {"passed": passed, "note": note}


def main() -> None:
    """Read the request, run it, and write the report."""
    request = json.load(sys.stdin)
    report = os.fdopen(int(sys.argv[1]), "w")
    is_offline = leave_network()
    limit(request["seconds"], request["megabytes"])
    result = run(request["program"], request["tests"])
    report.write(json.dumps({**result, "token": request["token"], "offline": is_offline}))
    report.flush()
    os._exit(0)  # threads of the program do not keep the process alive


if __name__ == "__main__":
    main()
