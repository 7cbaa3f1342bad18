"""What a DPO step has to compute.

The necessary work counts every prompt token once, the vocabulary only for scored tokens, and nothing twice:
recomputation, padding and repeated prompts are not in it. Element-wise work (norms, rotations, softmax, AdamW) is not
counted either, so the fraction of the peak that a step reaches stays below one for that reason too.
"""

from collections.abc import Mapping, Sequence

from tiltlm.core import Tree
from tiltlm.costs.lengths import attended_pairs


def step_flops(
    trees: Sequence[Tree], shape: Mapping[str, int], with_reference: bool, whole_last_layer: bool = False
) -> float:
    """Floating-point operations of one optimiser step's matrix products.

    6·N_body·T + 6·d·V·rows + 12·L·d·A, and a third of that for a reference forward: T input tokens, N_body weights of
    the layers' matrices, A pairs (query, key) that attend. Of the last layer, an inner token of a prompt needs keys and
    values only, unless `whole_last_layer` says that it is given all.
    """
    width, layers, inner = shape["hidden_size"], shape["num_hidden_layers"], shape["intermediate_size"]
    narrow = width * shape["num_key_value_heads"] // shape["num_attention_heads"]  # of keys and of values
    body = layers * (2 * width * width + 2 * width * narrow + 3 * width * inner)
    tokens = sum(tree.num_tokens for tree in trees)
    unread = sum(len(tree.prompt_ids) - 1 for tree in trees) * (2 * width * width + 3 * width * inner)
    unread *= not whole_last_layer
    rows = sum(response.num_tokens for tree in trees for response in tree.responses)
    attended = sum(attended_pairs(tree) for tree in trees)
    forward = 2 * (body * tokens - unread) + 2 * width * shape["vocab_size"] * rows + 4 * layers * width * attended
    return forward * (4 if with_reference else 3)
