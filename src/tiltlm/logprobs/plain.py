"""The oracle: one unpadded forward a sequence with the model's stock attention and full logits.

Slow, obvious, and what every layout must equal, in values and gradients. Tests, the self-check and anyone who doubts a
number use it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tiltlm.core.example import Response, TokenIds
from tiltlm.core.forest import Tree
from tiltlm.logprobs.head import select_logps


def separate_logps(model: Any, prompt_ids: TokenIds, response: Response) -> Float[Tensor, " r"]:
    """Log-probability of each scored token of one response to one prompt, in nats, with gradient.

    Args:
        model: A causal language model with its stock attention active.
        prompt_ids: The prompt.
        response: The response; its `scored` tokens, or all.

    Returns:
        float32, or float64 for a float64 model.
    """
    ids = torch.tensor([*prompt_ids, *response.token_ids], device=model.device)
    logits = model(input_ids=ids[None, :-1], use_cache=False).logits[0, len(prompt_ids) - 1 :]
    logps = select_logps(logits, ids[len(prompt_ids) :])
    if response.scored is None:
        return logps
    return logps.index_select(0, torch.tensor(response.scored, dtype=torch.long, device=logps.device))


def plain_logps(model: Any, trees: Sequence[Tree]) -> Float[Tensor, " R"]:
    """`separate_logps` of all responses of these trees, in the order of `plant(trees)`."""
    return torch.cat([separate_logps(model, tree.prompt_ids, r) for tree in trees for r in tree.responses])
