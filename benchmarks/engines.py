"""The own sampler beside continuous batching of transformers: tokens drawn a second, in turns, in one process.

    python benchmarks/engines.py [--shape nano] [--threads 2] [--repeats 3] [--device cpu]
        [--prompts 16] [--samples 8] [--tokens 64]

Both are the engines of `tiltlm sample`, with the log-probabilities at temperature 1 that it writes: continuous batching
needs one more forward for these. Prompts have 40 to 250 tokens. In the case `ending` an answer ends after 24 tokens in
the mean, in `full` none ends.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from sampling import END, MAX_NEW_TOKENS, NUM_PROMPTS, NUM_SAMPLES, VOCABULARIES, build
from workload import SHAPES

from tiltlm.core.example import token_ids
from tiltlm.logprobs import PolicyModule
from tiltlm.sampling import SamplingSettings
from tiltlm.sampling.engines.generate_batch import GenerateBatchEngine
from tiltlm.sampling.engines.own import OwnEngine


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=list(VOCABULARIES), default="nano")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompts", type=int, default=NUM_PROMPTS)
    parser.add_argument("--samples", type=int, default=NUM_SAMPLES)
    parser.add_argument("--tokens", type=int, default=MAX_NEW_TOKENS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rng = np.random.default_rng(0)
    vocabulary = VOCABULARIES[args.shape]
    prompts = [token_ids(rng.integers(1, vocabulary, length)) for length in rng.integers(40, 251, args.prompts)]
    for ending in (False, True):
        policy = PolicyModule(build(SHAPES[args.shape], vocabulary, ending, args.device).eval(), layout="padded")
        engines = [OwnEngine(policy, ""), GenerateBatchEngine(policy, "")]
        rates: dict[str, list[float]] = {engine.name: [] for engine in engines}
        for repeat in range(-1, args.repeats):  # the first one warms up
            for engine in engines:
                start = time.perf_counter()
                batch = engine.draw(
                    prompts, args.samples, SamplingSettings(args.tokens), seed=repeat + 1, end_token_ids=[END]
                )
                seconds = time.perf_counter() - start
                if repeat >= 0:
                    tokens = sum(len(answer.token_ids) for own in batch.answers for answer in own)
                    rates[engine.name].append(tokens / seconds)
        for name, found in rates.items():
            each = ", ".join(f"{rate:,.0f}" for rate in found)
            print(
                f"{args.shape} {'ending' if ending else 'full'} {name}: {statistics.median(found):,.0f} ({each})",
                flush=True,
            )


if __name__ == "__main__":
    main()
