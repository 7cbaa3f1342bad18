"""The plain way: one unpadded forward per sequence with the model's stock attention and full logits.

It is slow and simple. Values and gradients of every layout must equal it. Tests and the self-check compare with it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiltlm.core.example import Response, TokenIds
from tiltlm.core.forest import Tree


def select_logps(logits: Float[Tensor, "R V"], targets: Int[Tensor, " R"]) -> Float[Tensor, " R"]:
    """Return the log softmax of each row at its target, in float32 at least."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.log_softmax(logits, dim=-1).gather(1, targets[:, None])[:, 0]


def separate_logps(model: Any, prompt_ids: TokenIds, response: Response) -> Float[Tensor, " r"]:
    """Return the log-probability of each scored token of one response to one prompt, in nats, with gradient.

    Args:
        model: A causal language model with its stock attention active.
        prompt_ids: The prompt.
        response: The response; its `scored` tokens are read, or all where it names none.

    Returns:
        One value per token, float32, or float64 for a float64 model.
    """
    ids = torch.tensor([*prompt_ids, *response.token_ids], device=model.device)
    logits = model(input_ids=ids[None, :-1], use_cache=False).logits[0, len(prompt_ids) - 1 :]
    logps = select_logps(logits, ids[len(prompt_ids) :])
    if response.scored is None:
        return logps
    return logps.index_select(0, torch.tensor(response.scored, dtype=torch.long, device=logps.device))


def plain_logps(model: Any, trees: Sequence[Tree]) -> Float[Tensor, " R"]:
    """Return `separate_logps` of all responses of these trees, in the order of `pack_trees(trees)`."""
    return torch.cat([separate_logps(model, tree.prompt_ids, r) for tree in trees for r in tree.responses])


def plain_scores(model: Any, trees: Sequence[Tree]) -> Float[Tensor, " N"]:
    """Return the stock classifier's score of each response, one unpadded forward per sequence, with gradient.

    The configuration's padding token is removed for the call: a response may end in that token, and the classifier
    would read the score before it.

    Args:
        model: A sequence classifier with one label and its stock attention active.
        trees: Prompts and responses.

    Returns:
        One score per response, in the order of `pack_trees(trees)`.
    """
    config = model.config.get_text_config()
    pad_token_id, config.pad_token_id = config.pad_token_id, None
    try:
        rows = [torch.tensor([[*t.prompt_ids, *r.token_ids]], device=model.device) for t in trees for r in t.responses]
        return torch.cat([model(input_ids=row, use_cache=False).logits[0] for row in rows])
    finally:
        config.pad_token_id = pad_token_id
