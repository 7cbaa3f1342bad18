"""One of several processes that measure a policy together; started as `python -m support.measuring_ranks`.

The first process writes what all of them found, and all check that they found the same.
"""

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers

from tiltlm.core import Comparison, Example, NumericsError, Response, token_ids
from tiltlm.distributed import Ranks
from tiltlm.distributed.parallelism import Parallelism
from tiltlm.distributed.wrapping import is_sharded, wrap
from tiltlm.evaluation import draw_samples, measure_examples
from tiltlm.evaluation.alike_pairs import mean_ches
from tiltlm.evaluation.third_responses import choose_third_responses, third_logps, top_token_logps
from tiltlm.logprobs import PolicyModule, ScoreModule
from tiltlm.objectives import dpo, reward_model, sft
from tiltlm.reference.model import ModelReference
from tiltlm.reference.weights import base_weights, other_weights
from tiltlm.sampling import SamplingSettings, sample
from tiltlm.sampling.decoding import Mixture
from tiltlm.sampling.engines.rescoring import token_logps

VOCABULARY, END = 40, 3
MAX_TOKENS = 48
KINDS = [(tied, lora) for tied in (False, True) for lora in (False, True)]


def config(tied: bool) -> Any:
    return transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tied, bos_token_id=1, eos_token_id=END,
    )  # fmt: skip


def policy_of(tied: bool, lora: bool, seed: int = 0) -> PolicyModule:
    """A language model in float64 that is far from uniform, so that samples say what the weights are."""
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(config(tied)).double().eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(8)
    if lora:
        settings = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
        model = peft.get_peft_model(model, settings).double().eval()
    return PolicyModule(model)


def scorer() -> ScoreModule:
    torch.manual_seed(0)
    settings = config(False)
    settings.num_labels, settings.pad_token_id = 1, None
    return ScoreModule(transformers.LlamaForSequenceClassification(settings).double().eval())


def examples(num: int) -> list[Example]:
    """Pairs of unlike length at prompts of unlike length; two of three have a prompt of their own."""
    rng = np.random.default_rng(5)

    def drawn(low: int, high: int) -> np.ndarray:
        return token_ids(rng.integers(4, VOCABULARY, rng.integers(low, high)))

    prompts = [drawn(2, 9) for _ in range(num)]
    return [
        Example(
            f"row {i}",
            prompts[i - (i % 3 == 2)],
            (Response(drawn(1, 12)), Response(drawn(1, 12))),
            (Comparison(i % 2, 1 - i % 2),),
        )
        for i in range(num)
    ]


def plain_samples(drawn: Any) -> list[list[tuple[list[int], bool, list[float]]]]:
    return [[(one.token_ids.tolist(), one.ended, one.token_logps.tolist()) for one in own] for own in drawn]


def passes(module: PolicyModule, reference: ModelReference, ranks: Ranks) -> dict[str, Any]:
    """Held-out passes and samples with one model."""
    rows = examples(8)
    prompts = [rows[i].prompt_ids for i in (0, 1, 3, 4, 6)]
    asked = {"seed": 7, "end_token_ids": [END], "ranks": ranks}
    greedy = sample(module, prompts, 1, SamplingSettings(9, temperature=0.0), **asked)
    draws = draw_samples(module, prompts, n=3, max_new_tokens=9, reference=reference, max_tokens=MAX_TOKENS, **asked)
    third = choose_third_responses(prompts, draws.samples, [own[0] for own in greedy], rows)
    kl = draws.sequence_kl()
    assert kl is not None
    return {
        "mean_ches": mean_ches(module, rows, MAX_TOKENS, ranks).tolist(),  # the first that runs a sharded module
        "rows": measure_examples(module, rows, dpo(0.3), reference, MAX_TOKENS, ranks),
        "one row": measure_examples(module, rows[:1], dpo(0.3), reference, MAX_TOKENS, ranks),
        "greedy": plain_samples(greedy),
        "samples": plain_samples(draws.samples),
        "logps": draws.logps.tolist(),
        "ref_logps": draws.ref_logps.tolist(),
        "kl": kl.k1.estimate,
        "third": third_logps(module, third, MAX_TOKENS, ranks).tolist(),
        "token_logps": [
            [logps.tolist() for logps in own]
            for own in token_logps(module, prompts, [[s.response for s in own] for own in draws.samples], ranks)
        ],
        "top": top_token_logps(module, rows, MAX_TOKENS, ranks).tolist(),
    }


def draws_of(module: PolicyModule, reference: ModelReference, ranks: Ranks) -> dict[str, Any]:
    """Draws that divide unevenly: one prompt, several batches, prompts whose samples all end at once, a mixture."""
    rows = examples(9)
    prompts = [row.prompt_ids for row in rows]
    asked = {"seed": 3, "end_token_ids": [END], "ranks": ranks}
    every = list(range(VOCABULARY))
    mixture = Mixture(reference.weights.policy, reference.in_place, 0.5)
    return {
        "one prompt": plain_samples(sample(module, prompts[:1], 4, SamplingSettings(8), **asked)),
        "batches": plain_samples(sample(module, prompts, 3, SamplingSettings(8, max_rows=4), **asked)),
        "tempered": plain_samples(sample(module, prompts, 2, SamplingSettings(8, temperature=1.4, top_k=9), **asked)),
        "at once": plain_samples(sample(module, prompts, 2, SamplingSettings(8), **{**asked, "end_token_ids": every})),
        "mixture": plain_samples(sample(module, prompts[:3], 2, SamplingSettings(8), **asked, mixture=mixture)),
    }


def measured(ranks: Ranks, tied: bool, lora: bool, parallel: str | None) -> dict[str, Any]:
    """What the processes find about one model; `parallel` None: it is whole, as in one process."""
    policy, other = policy_of(tied, lora), policy_of(tied, False, seed=1)
    weights = base_weights(policy, keep_copy=False) if lora else other_weights(other)
    if parallel == "shard":
        policy.train()  # as it is between two steps
        for module in (policy, other):
            wrap(module, ranks, Parallelism("shard"))
            assert is_sharded(module)
    reference = ModelReference("reference", weights, None, MAX_TOKENS)
    found = passes(policy, reference, ranks)
    if not tied:
        found |= draws_of(policy, reference, ranks)
    if parallel == "shard":
        assert all(hasattr(parameter, "to_local") for parameter in policy.parameters()), "gathered weights are left"
    return found


def scored(ranks: Ranks, parallel: str | None) -> dict[str, Any]:
    """What the processes find about a reward model."""
    module = scorer()
    if parallel == "shard":
        wrap(module, ranks, Parallelism("shard"))
    return {"rows": measure_examples(module, examples(8), reward_model(0.1), None, MAX_TOKENS, ranks)}


def not_finite(ranks: Ranks, parallel: str) -> list[str]:
    """The errors about a policy with a damaged weight: every process must raise them, whatever its share is."""
    module = policy_of(False, False)
    with torch.no_grad():
        module.get_input_embeddings().weight[examples(2)[1].prompt_ids[0]] = torch.nan
    wrap(module, ranks, Parallelism(parallel))
    rows = examples(2)
    asked = {"seed": 7, "end_token_ids": [END], "ranks": ranks}
    prompts = [row.prompt_ids for row in rows]
    return [
        raised(lambda: sample(module, prompts, 2, SamplingSettings(4), **asked)),
        raised(lambda: measure_examples(module, rows, sft(), None, MAX_TOKENS, ranks)),
    ]


def raised(act: Callable[[], Any]) -> str:
    try:
        act()
    except NumericsError as error:
        return str(error)
    return "nothing was raised"


def main(folder: Path) -> None:
    ranks = Ranks.join(cpu=True)
    found = {}
    for parallel in ("replicate", "shard"):
        for tied, lora in KINDS:
            found[parallel, tied, lora] = measured(ranks, tied, lora, parallel)
        found[parallel, "scorer"] = scored(ranks, parallel)
        found[parallel, "not finite"] = not_finite(ranks, parallel)
    assert ranks.gather(pickle.dumps(found)) == [pickle.dumps(found)] * ranks.size, "the processes found unlike numbers"
    if ranks.is_first:
        (folder / "found.pickle").write_bytes(pickle.dumps(found))
    ranks.leave()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
