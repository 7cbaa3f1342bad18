"""The ladder against transformers' own server: it has no decisions, and ignores log-probabilities and formats."""

import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from support.chat_models import SAYS, write_chat_model
from tiltlm.judging import PairItem, both_orders, build_judge

pytestmark = pytest.mark.slow
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Address of the server, and the name of its model."""
    folder = write_chat_model(tmp_path_factory.mktemp("served"), says=SAYS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", folder, "--host", "127.0.0.1"]
    server = subprocess.Popen(
        [*command, "--port", str(port), "--device", "cpu"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        for _ in range(600):
            assert server.poll() is None, server.stderr.read()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                    break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1", folder
    finally:
        server.kill()
        server.communicate()


def test_a_real_server_is_asked_in_the_way_that_it_knows(served):
    url, name = served
    judge = build_judge({"kind": "pairwise", "model": name, "url": url, "concurrency": 2, "max_new_tokens": 8})
    results = both_orders(judge, [PairItem("What is 2 + 2?", "4", "5"), PairItem("p", "x", "y")])
    for result in results:
        assert [(v.mode, v.outcome, v.finish_reason) for v in result.verdicts] == [("regex", "left", "stop")] * 2
        assert (result.status, result.p) == ("inconsistent", None)
        assert all(v.raw == SAYS and v.tokens_in > 100 and v.cost is None for v in result.verdicts)


def test_a_model_that_the_server_does_not_have_is_an_error(served):
    url, _ = served
    judge = build_judge({"kind": "pairwise", "model": "other", "url": url, "mode": "regex"})
    (result,) = both_orders(judge, [PairItem("p", "x", "y")])
    assert (result.status, result.p) == ("error", None)
    assert "400" in result.verdicts[0].error
