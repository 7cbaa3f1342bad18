"""The labelling app as a process of its own, which tests can kill and start again.

As a script: `python -m support.label_server DATABASE [--port N] [--most-bytes N]` serves until it is stopped; its first
line on stdout is the address. `--most-bytes` lets no file of the process grow beyond: a disk that is full.
"""

import argparse
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from support.labelling import Browser

HOST = "127.0.0.1"


class ServerProcess:
    """A server process."""

    def __init__(self, database: str, *, port: int = 0, most_bytes: int = 0) -> None:
        roots = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, database, "--port", str(port), "--most-bytes", str(most_bytes)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
            text=True,
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address, "the server did not start"
        self.port = int(self.address.rpartition(":")[2])

    def kill(self) -> None:
        """End the process at once, as a power cut would."""
        self.process.kill()
        self._reap()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask the process to end, and return its exit code."""
        self.process.send_signal(number)
        return self._reap()

    def _reap(self) -> int:
        code = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()


def browse(address: str, token: str | None = None) -> Browser:
    """Return somebody at a server, signed in if there is a token. It is a context manager."""
    browser = Browser(httpx.Client(base_url=address, timeout=30, trust_env=False))
    if token is not None:
        answered = browser.sign_in(token)
        if answered.status_code != 200:
            browser.client.close()
            raise AssertionError(answered.text)
    return browser


def main() -> None:
    """Serve."""
    from tiltlm.labeling.store.projects import open_project
    from tiltlm.labeling.web.app import create_app
    from tiltlm.labeling.web.serving import listen, serve

    parser = argparse.ArgumentParser()
    parser.add_argument("database")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--most-bytes", type=int, default=0)
    options = parser.parse_args()
    listening = listen(HOST, options.port)
    app = create_app(open_project(options.database), hosts=[HOST])
    if options.most_bytes:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing fails, and the process goes on
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.most_bytes, resource.RLIM_INFINITY))
    address = f"http://{HOST}:{listening.getsockname()[1]}"
    number = serve(app, listening, on_ready=lambda: print(address, flush=True))
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
