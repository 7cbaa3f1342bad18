"""The data path at scale: pairs from a file to the packs of every step, in bounded memory.

    python benchmarks/data_scale.py [--pairs 1000000] [--model FOLDER] [--json FILE]
    python benchmarks/data_scale.py --commands     # instead: check, stats and split of the same pairs

Generates the pairs (lengths as in HH-RLHF: prompt 113, chosen 39, rejected 49 tokens in the mean, log-normal), then
measures in processes of their own: loading them for the first time (`cold`), loading them again (`kept`), and what
training reads: the steps of an epoch with every pack cut (`plan`, batch 64, packs of 4,096 tokens) and every example
once in order (`iterate`). Seconds, rows a second, the largest resident set of the process, and the memory of the
process together with those it starts.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LENGTHS = {"prompt": 113, "chosen": 39, "rejected": 49}
TEXT = (
    "once upon a time there was little girl named lily she loved to play outside in the park one day saw big red ball "
    "it very happy and her mom said yes"
)
WORDS = TEXT.split()
BATCH_SIZE, MAX_TOKENS = 64, 4096
COMMANDS = ("check", "stats", "split")


def generate(path: Path, num_pairs: int, tokens_per_word: float, seed: int = 0) -> None:
    """Pairs of random words, with the lengths of HH-RLHF."""
    rng = random.Random(seed)

    def text(mean: int) -> str:
        tokens = rng.lognormvariate(-0.125, 0.5) * mean  # whose mean is `mean`
        return " ".join(rng.choices(WORDS, k=max(1, round(tokens / tokens_per_word))))

    with path.open("w", encoding="utf-8") as file:
        for _ in range(num_pairs):
            pair = {part: " " * (part != "prompt") + text(mean) for part, mean in LENGTHS.items()}
            file.write(json.dumps(pair) + "\n")


def measure(phases: dict[str, Callable[[], int]]) -> dict[str, dict[str, float]]:
    """Each phase: seconds by the clock, of them this process's own work, and its largest resident set until then."""
    found = {}
    for name, act in phases.items():
        started, worked = time.perf_counter(), time.process_time()
        num_rows = act()
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - worked
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        found[name] = {
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "rows_per_second": num_rows / seconds,
            "peak_gib": peak,
        }
    return found


def run_watched(command: list[Any]) -> tuple[bytes, float]:
    """What a process writes, and the most memory, in GiB, that it and its descendants had together.

    Memory is proportional set size, sampled twice a second: pages that processes share are counted once.
    """
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, start_new_session=True) as process:
        most = 0.0
        while process.poll() is None:
            most = max(most, session_memory(process.pid))
            time.sleep(0.5)
        assert process.stdout is not None
        out = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"the measured process ended with {process.returncode}")
    return out, most


def session_memory(session: int) -> float:
    """Proportional set size of all processes of a session, in GiB."""
    total = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(entry.name)) == session:
                rollup = (entry / "smaps_rollup").read_text()
                total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        except (OSError, StopIteration):
            continue  # it ended meanwhile
    return total / 2**20


def run_phase(phase: str, model: Path, pairs: Path, cache: Path) -> dict[str, dict[str, float]]:
    """What one process does."""
    from transformers import AutoTokenizer

    from tiltlm.data import DataSettings, Encoder, load_data
    from tiltlm.training.packs import cut_into_packs
    from tiltlm.training.timetable import Timetable
    from tiltlm.training.training_settings import TrainingSettings

    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded: list[Any] = []

    def load() -> int:
        encoder = Encoder(tokenizer, tokenizer.eos_token_id, window=512)
        loaded.append(load_data(DataSettings(train=str(pairs), cache=str(cache)), encoder, "pairs"))
        return int(loaded[0].accounting.total)

    def timetable() -> Timetable:
        settings = TrainingSettings(batch_size=BATCH_SIZE, max_tokens=MAX_TOKENS)
        return Timetable.of(loaded[0].train, loaded[0].fingerprint, settings)

    def plan() -> int:
        table, train = timetable(), loaded[0].train
        for step in range(table.num_steps):
            cut_into_packs([train[i] for i in table.rows(step)], MAX_TOKENS, num_ranks=1)
        return len(train)

    def iterate() -> int:
        num_tokens = sum(len(e.prompt_ids) + sum(len(r.token_ids) for r in e.responses) for e in loaded[0].train)
        assert num_tokens > 0
        return len(loaded[0].train)

    phases: dict[str, Callable[[], int]] = {phase: load}
    return measure(phases if phase == "cold" else {**phases, "plan": plan, "iterate": iterate})


def run_commands(pairs: Path, parts: Path) -> None:
    """Print the time and the memory of each command."""
    for name in COMMANDS:
        output = ["--output", parts] if name == "split" else []
        started = time.perf_counter()
        _, most = run_watched([sys.executable, "-m", "tiltlm", name, pairs, *output])
        print(f"{name:8} {time.perf_counter() - started:8.1f} s, with its processes {most:.2f} GiB", flush=True)


def tokens_per_word(model: Path) -> float:
    """Of the tokenizer on these words."""
    from transformers import AutoTokenizer

    return len(AutoTokenizer.from_pretrained(model)(TEXT, add_special_tokens=False).input_ids) / len(WORDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(__file__).resolve().parents[2] / "shared" / "models" / "stories260k"
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--model", type=Path, default=beside, help="folder with a tokenizer")
    parser.add_argument("--folder", type=Path, help="where the pairs go, and stay; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--commands", action="store_true", help="measure commands about data instead of loading")
    parser.add_argument("--phase", choices=["cold", "kept"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.phase:
        print(json.dumps(run_phase(args.phase, args.model, args.folder / "pairs.jsonl", args.folder / "cache")))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        pairs, cache = folder / "pairs.jsonl", folder / "cache"
        generate(pairs, args.pairs, tokens_per_word(args.model))
        if args.commands:
            run_commands(pairs, folder / "parts")
            return
        results: dict[str, Any] = {"pairs": args.pairs, "cores": len(os.sched_getaffinity(0)), "phases": {}}
        for phase in ("cold", "kept"):
            command = [sys.executable, __file__, "--phase", phase, "--folder", folder, "--model", args.model]
            out, most = run_watched(command)
            phases = json.loads(out)
            results["phases"] |= {name: {**figures, "process_tree_gib": most} for name, figures in phases.items()}
        results["pairs_bytes"] = pairs.stat().st_size
        results["kept_bytes"] = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
    print(f"{args.pairs:,} pairs, {results['cores']} cores, {results['pairs_bytes'] / 1e9:.2f} GB of text, ", end="")
    print(f"{results['kept_bytes'] / 1e9:.2f} GB tokenised")
    for phase, figures in results["phases"].items():
        print(
            f"{phase:8} {figures['seconds']:8.1f} s (own work {figures['cpu_seconds']:6.1f} s) "
            f"{figures['rows_per_second']:10,.0f} rows/s  resident at most "
            f"{figures['peak_gib']:.2f} GiB, with its processes {figures['process_tree_gib']:.2f} GiB"
        )
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
