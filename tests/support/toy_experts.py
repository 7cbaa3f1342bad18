"""A tiny mixture of experts."""

import torch
import transformers

from support.toy_training import VOCABULARY
from tiltlm.logprobs import PolicyModule

EXPERTS, CHOSEN = 4, 2


def make_policy(num_layers=2, dtype=torch.float64):
    """A tiny mixture with routers that are sure of themselves."""
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=num_layers,
        num_attention_heads=2, num_key_value_heads=1, num_local_experts=EXPERTS, num_experts_per_tok=CHOSEN,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config).to(dtype)
    model.set_experts_implementation("eager")  # the grouped kernel has no float64
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate.weight" in name:
                parameter.mul_(40)
    return PolicyModule(model)
