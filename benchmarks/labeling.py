"""The vote of the labelling app, from the annotator's side: 10 people at once, over HTTP, on one machine.

    python benchmarks/labeling.py [--annotators 10] [--votes 300] [--pairs 1500] [--pause 0] [--runs 3]
                                  [--database postgresql://USER@HOST/NAME] [--json labeling.json]

The server is a process of its own (uvicorn), and so is everybody who votes. Each keeps one connection and sends the
next vote when the answer with the next pair is there, after `--pause` seconds. The answer holds the texts of two pairs
(two responses of about 1,500 characters each, with Markdown). Without a pause this is the greatest rate that the app
can take; people send a vote in 5 to 40 seconds. A SQLite file is new in each run; a PostgreSQL database must be empty,
and has one run.
"""

import argparse
import http.client
import json
import random
import secrets
import statistics
import tempfile
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tiltlm.labeling.project import ProjectSettings
from tiltlm.labeling.store.database import writing
from tiltlm.labeling.store.pairs import NewPair, add_pairs
from tiltlm.labeling.store.people import add_person, new_token
from tiltlm.labeling.store.projects import create_project, open_project

HOST = "127.0.0.1"
WORDS = (
    *("a", "answer", "as", "but", "code", "for", "if", "in", "is", "it", "model", "not", "of", "on", "one", "or"),
    *("prompt", "right", "so", "that", "the", "then", "this", "to", "we"),
)


def response(rng: random.Random) -> str:
    """Return paragraphs, a list and some code, about 1,500 characters."""
    lines = [" ".join(rng.choices(WORDS, k=12)) for _ in range(24)]
    lines[6] = f"**{lines[6]}**\n"
    lines[10:14] = [f"- {line}" for line in lines[10:14]]
    lines[14] = "\n```\n" + lines[14] + "\n```\n"
    return "\n".join(lines)


def make(database: str, num_pairs: int, overlap: int, names: list[str]) -> list[str]:
    """Make a project, and return the tokens of its people."""
    rng = random.Random(0)
    settings = ProjectSettings(overlap=overlap, extra=0)
    project = create_project(database, settings)
    pairs = [NewPair(f"Question {n}?", response(rng), response(rng)) for n in range(num_pairs)]
    with writing(project.engine) as connection:
        add_pairs(connection, settings, pairs)
        tokens = [new_token(connection, add_person(connection, name)) for name in names]
    project.engine.dispose()
    return tokens


def serve(database: str, port_to: Connection) -> None:
    """Serve a project until the process is stopped."""
    from tiltlm.labeling.web.app import create_app
    from tiltlm.labeling.web.serving import listen
    from tiltlm.labeling.web.serving import serve as serve_app

    listening = listen(HOST, 0)
    app = create_app(open_project(database), hosts=[HOST])
    serve_app(app, listening, on_ready=lambda: port_to.send(listening.getsockname()[1]))


def post(connection: http.client.HTTPConnection, path: str, cookie: str, body: Any) -> tuple[Any, Any]:
    headers = {"Content-Type": "application/json", "Sec-Fetch-Site": "same-origin", "Cookie": cookie}
    connection.request("POST", path, json.dumps(body), headers)
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{path}: {answer.status} {text[:200]!r}")
    return json.loads(text), answer


def annotate(port: int, token: str, num_votes: int, pause: float, times_to: Connection) -> None:
    """Vote, and send back how many seconds each vote took."""
    connection = http.client.HTTPConnection(HOST, port)
    _, answer = post(connection, "/api/session", "", {"token": token})
    cookie = answer.getheader("Set-Cookie", "").split(";")[0]
    items = post(connection, "/api/work", cookie, {})[0]["items"]
    rng, times = random.Random(token), []
    for _ in range(num_votes):
        time.sleep(pause * rng.uniform(0.5, 1.5))
        choice = rng.choice(("left", "right", "tie"))
        body = {"ticket": items[0]["ticket"], "key": secrets.token_hex(16), "choice": choice, "dwell_ms": 5000}
        start = time.perf_counter()
        found, _ = post(connection, "/api/votes", cookie, body)
        times.append(time.perf_counter() - start)
        items = found["items"]
    times_to.send(times)


def measure(database: str, options: argparse.Namespace) -> dict[str, float]:
    """Return milliseconds of a vote in one run, and votes a second of all people together."""
    names = [f"person-{n}" for n in range(options.annotators)]
    total = options.annotators * options.votes
    overlap = -(-2 * total // options.pairs)  # twice as many as are needed: nobody runs out of pairs
    tokens = make(database, options.pairs, min(overlap, options.annotators), names)
    context = get_context("spawn")
    port_from, port_to = context.Pipe(duplex=False)
    server = context.Process(target=serve, args=(database, port_to), daemon=True)
    server.start()
    port = port_from.recv()
    people = []
    start = time.perf_counter()
    for token in tokens:
        times_from, times_to = context.Pipe(duplex=False)
        arguments = (port, token, options.votes, options.pause, times_to)
        people.append((times_from, context.Process(target=annotate, args=arguments, daemon=True)))
        people[-1][1].start()
    times = sorted(one for times_from, _ in people for one in times_from.recv())
    seconds = time.perf_counter() - start
    server.terminate()
    server.join()
    found = {f"p{share}": 1000 * times[min(len(times) * share // 100, len(times) - 1)] for share in (50, 95, 99)}
    return {**found, "max": 1000 * times[-1], "votes_per_second": len(times) / seconds, "votes": len(times)}


def main() -> None:
    """Measure, and print the median and the spread of the runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotators", type=int, default=10)
    parser.add_argument("--votes", type=int, default=300, help="of each annotator")
    parser.add_argument("--pairs", type=int, default=1500)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between an answer and the next vote")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--database", help="address of an empty PostgreSQL database, in place of SQLite")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args()
    runs = []
    for _ in range(1 if options.database else options.runs):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(measure(options.database or str(Path(folder) / "label.db"), options))
    for name in runs[0]:
        values = sorted(run[name] for run in runs)
        print(f"{name:>16} {statistics.median(values):9.1f}   ({values[0]:.1f} to {values[-1]:.1f})")
    if options.json:
        options.json.write_text(json.dumps({"settings": vars(options) | {"json": None}, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
