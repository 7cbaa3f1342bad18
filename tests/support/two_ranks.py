"""One of several processes that train together; started as `python -m support.two_ranks`
by test_wrapping.py, with a launcher's environment.

The first process writes the gradient of every scenario and the end of whole runs.
"""

import signal
import sys
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import save_file

from support.toy_experts import make_policy
from support.toy_training import VOCABULARY, SortedMargins, ToyPolicy, ToyReference, rows
from tiltlm.core import ConfigError
from tiltlm.distributed.parallelism import Parallelism
from tiltlm.distributed.ranks import Ranks
from tiltlm.distributed.sharding import Sharding
from tiltlm.distributed.wrapping import full_tensor, reshard, wrap
from tiltlm.logprobs import PolicyModule, ScoreModule
from tiltlm.logprobs.checkpointing import enable_checkpointing
from tiltlm.objectives import aot, aot_unpaired, bco, dpo, kto, reward_model, sft
from tiltlm.reference.moving import MovingReference
from tiltlm.runs.directory import RunDirectory
from tiltlm.training.guards import Interrupted
from tiltlm.training.loop import train_loop
from tiltlm.training.recorder import Listener
from tiltlm.training.step import Stepper
from tiltlm.training.training_settings import TrainingSettings

OBJECTIVES = {
    "dpo": dpo(), "kto": kto(), "bco": bco(0.3), "sft": sft(), "sorted": SortedMargins(), "aot": aot(0.3),
    "aot_unpaired": aot_unpaired(0.3),
}  # fmt: skip
MODELS = [(tied, lora) for tied in (False, True) for lora in (False, True)]
STEPS = [(name, num) for name in OBJECTIVES for num in (5, 1, 8)]
RUNS = ("dpo", "sorted")


class Signalled(ToyPolicy):
    """Sends its own process SIGTERM in its n-th forward."""

    at = 0

    def forward(self, forest):
        if self.num_forwards + 1 == self.at:
            signal.raise_signal(signal.SIGTERM)
        return super().forward(forest)


def language_model(tied, lora):
    """A real architecture, with checkpointing: what is wrapped when it matters."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).double().train()
    enable_checkpointing(model)
    if lora:
        model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
        model = model.double()
    return PolicyModule(model)


def routed_step(ranks, name, parallel="replicate"):
    """A step of a mixture of experts, its load-balancing loss beside the objective's."""
    return step(ranks, name, 5, parallel, policy=make_policy(), coef=0.5)


def score_model(lora):
    """A reward model of the same architecture, whose scores are of size 1."""
    torch.manual_seed(0)
    config = language_model(False, False).config
    config.num_labels, config.pad_token_id = 1, None
    model = transformers.LlamaForSequenceClassification(config).double().train()
    model.score.weight.data.mul_(20)
    if lora:
        settings = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="SEQ_CLS")
        model = peft.get_peft_model(model, settings).double()
    return ScoreModule(model)


def score_step(ranks, lora, parallel="replicate"):
    """A step of a reward model."""
    return step(ranks, "reward_model", 5, parallel, policy=score_model(lora))


def model_step(ranks, tied, lora, parallel="replicate"):
    """A step of a real architecture, without reference."""
    return step(ranks, "sorted", 5, parallel, policy=language_model(tied, lora))


def step(ranks, name, num, parallel="replicate", past_the_wrapper=False, policy=None, coef=0.0):
    """Loss, metrics and gradient of a step; the second of two alike, for a wrapper may be right only once."""
    policy = policy or ToyPolicy(seed=1, dtype=torch.float64)
    objective = reward_model(0.1) if name == "reward_model" else OBJECTIVES[name]
    reference = ToyReference(ToyPolicy(seed=2, dtype=torch.float64), name="other") if name in OBJECTIVES else None
    module = wrap(policy, ranks, Parallelism(parallel))
    root = policy if past_the_wrapper else module
    stepper = Stepper(root, objective, reference, max_tokens=20, ranks=ranks, noise=1e-6, router_aux_loss_coef=coef)
    stepper.train(rows(num))
    policy.zero_grad()
    outcome = stepper.train(rows(num))
    tallies = ranks.gather(outcome.metric_sums)
    means = sum(tallies[1:], start=tallies[0]).means()
    return {
        "loss": torch.tensor([outcome.loss, outcome.aux_loss or 0.0], dtype=torch.float64),
        "metrics": torch.tensor([means[key] for key in sorted(means)], dtype=torch.float64),
        **{
            f"gradient of {key}": full_tensor(p.grad).clone() for key, p in policy.named_parameters() if p.requires_grad
        },
    }


def train(ranks, folder, name, parallel="replicate", resume=False, stop_at=0):
    """Weights and losses at the end of a run; the last process gets a signal in its forward `stop_at`."""
    policy = Signalled(seed=1, dtype=torch.float64)
    policy.at = stop_at if ranks.rank == ranks.size - 1 else 0
    settings = TrainingSettings(
        num_epochs=2, batch_size=5, max_tokens=20, learning_rate=0.02, save_every=2, parallel=parallel
    )
    with RunDirectory.open(folder, resume=resume, ranks=ranks) as run:
        result = train_loop(
            policy, rows(12), rows(5, seed=1), OBJECTIVES[name], ToyReference(policy), settings, run, "fingerprint",
            resume=resume, ranks=ranks, listener=Listener(note=lambda note: None),
        )  # fmt: skip
    losses = [record.get("loss", record.get("eval_loss")) for record in result.history]
    weights = {key: full_tensor(p.detach()).clone() for key, p in policy.named_parameters()}
    return weights | ({"losses": torch.tensor(losses, dtype=torch.float64)} if ranks.is_first else {})


def moving(ranks, folder, lora, parallel="replicate"):
    """Policy and reference after three steps, of which the second moved the reference."""
    policy = language_model(True, lora)
    settings = TrainingSettings(
        num_epochs=1, batch_size=5, max_tokens=20, learning_rate=0.02, adam_epsilon=1e-3, parallel=parallel
    )
    if sharding := Sharding.of(settings.parallelism, ranks):
        sharding.divide(policy)
    reference = MovingReference(policy, 0.4, 2, 40)
    with RunDirectory.open(folder, ranks=ranks) as run:
        train_loop(
            policy, rows(12), (), OBJECTIVES["dpo"], reference, settings, run, "fingerprint",
            ranks=ranks, listener=Listener(note=lambda note: None),
        )  # fmt: skip
    reshard(policy)
    weights = {key: full_tensor(p.detach()).clone() for key, p in policy.named_parameters() if p.requires_grad}
    return weights | {f"reference {key}": full_tensor(tensor).clone() for key, tensor in reference.tensors().items()}


def stopped_and_resumed(ranks, folder):
    """A run that is stopped in the middle and resumed."""
    try:
        train(ranks, folder, "dpo", "shard", stop_at=16)
    except Interrupted as stop:
        if stop.exit_code == 143:
            return train(ranks, folder, "dpo", "shard", resume=True)
    raise AssertionError("the signal to one process did not stop the run")


def refused(ranks, folder):
    """Whether an error of the first process reaches every other."""
    try:
        RunDirectory.open(folder, ranks=ranks)
    except ConfigError:
        return all(ranks.gather(True))
    return False


def main(folder):
    ranks = Ranks.join(cpu=True)
    results = {}
    for parallel in ("replicate", "shard"):
        for name, num in STEPS:
            results[f"{parallel} {name} {num}"] = step(ranks, name, num, parallel)
        for name in RUNS:
            results[f"{parallel} run {name}"] = train(ranks, folder / f"{parallel}-{name}", name, parallel)
        for tied, lora in MODELS:
            results[f"{parallel} model {tied} {lora}"] = model_step(ranks, tied, lora, parallel)
        for name in RUNS:
            results[f"{parallel} routed {name}"] = routed_step(ranks, name, parallel)
        for lora in (False, True):
            results[f"{parallel} scorer {lora}"] = score_step(ranks, lora, parallel)
            results[f"{parallel} moving {lora}"] = moving(ranks, folder / f"{parallel}-moving-{lora}", lora, parallel)
    results["past the wrapper"] = step(ranks, "dpo", 5, past_the_wrapper=True)
    results["resumed"] = stopped_and_resumed(ranks, folder / "stopped")
    results["refused"] = {"everywhere": torch.tensor(refused(ranks, folder / "stopped"))}
    if ranks.is_first:
        flat = {
            f"{title}|{key}": value.contiguous() for title, found in results.items() for key, value in found.items()
        }
        save_file(flat, folder / "results.safetensors")
    ranks.leave()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
