"""The inputs of a model call for a forest, in each of the three layouts.

`shared` is the forest itself. `packed` and `padded` give every response its own copy of its prompt, in one row or in a
batch. They are fallbacks for models that cannot share prompts, and sharing is compared with them.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiltlm.core.forest import Forest
from tiltlm.logprobs.attention.layout import Layout, sent
from tiltlm.logprobs.layout_name import LayoutName


class Inputs(NamedTuple):
    """The keywords of a model call, and the places of the states that predict scored tokens."""

    keywords: dict[str, Any]
    """Keyword arguments of the model call."""
    predicts: Int[Tensor, " R"]
    """Index into the flattened batch of the token that predicts scored token r."""

    def read(self, hidden: Float[Tensor, "B N D"]) -> Float[Tensor, "R D"]:
        """Select the hidden states that predict scored tokens."""
        # `index_select`: the backward of plain indexing is not deterministic on a CPU once a row repeats.
        return hidden.flatten(0, 1).index_select(0, self.predicts)


def arrange(forest: Forest, layout: LayoutName, whole: bool = False) -> Inputs:
    """Return the inputs of the model call for this forest in this layout.

    Args:
        forest: The responses.
        layout: One of the three layouts.
        whole: In the shared layout, the last layer computes every token too (`last_layer.py` skips unread ones).
    """
    if layout == "padded":
        return pad(separate(forest))
    row: Forest | Sequences = forest
    trees = Layout(forest.prompt_lengths, forest.branch_lengths, whole)
    if layout == "packed":
        row = separate(forest)
        trees = Layout(row.lengths, ((),) * len(row.lengths))
    keywords = {"input_ids": row.token_ids[None], "position_ids": row.position_ids[None], "layout": trees}
    return Inputs(keywords, row.predicts)


class Sequences(NamedTuple):
    """N separate sequences one after another, each a prompt and its response."""

    token_ids: Int[Tensor, " S"]
    position_ids: Int[Tensor, " S"]
    lengths: tuple[int, ...]
    predicts: Int[Tensor, " R"]
    """Index of the token that predicts scored token r."""


def separate(forest: Forest) -> Sequences:
    """Return one sequence per response, in the order of the forest's responses."""
    source: list[np.ndarray] = []
    prompts: list[int] = []
    branch_starts: list[int] = []
    start = 0
    for prompt, branches in zip(forest.prompt_lengths, forest.branch_lengths, strict=True):
        trunk = np.arange(start, start + prompt)
        start += prompt
        for branch in branches:
            source.append(np.concatenate([trunk, np.arange(start, start + branch)]))
            prompts.append(prompt)
            branch_starts.append(start)
            start += branch
    lengths = tuple(len(s) for s in source)
    device = forest.token_ids.device

    def per_token(of_responses: list[int] | np.ndarray) -> Tensor:
        return sent(np.asarray(of_responses), device).index_select(0, forest.response_index)

    # A response's first token is predicted by the last prompt token, which comes before the response's own tokens.
    own = forest.predicts - per_token(branch_starts)
    column = per_token(prompts) + torch.where(own >= 0, own, -1)
    first = np.cumsum([0, *lengths[:-1]])
    return Sequences(
        token_ids=forest.token_ids.index_select(0, sent(np.concatenate(source), device)),
        position_ids=sent(np.concatenate([np.arange(n) for n in lengths]), device),
        lengths=lengths,
        predicts=per_token(first) + column,
    )


def pad(sequences: Sequences) -> Inputs:
    """Return the sequences as a right-padded batch.

    It has no attention mask. In a causal model no token sees the padding after it. With a mask, rows of padding could
    attend to nothing, and explicit attention would return NaN for them.
    """
    width = max(sequences.lengths)
    token_ids, num_sequences = sequences.token_ids, len(sequences.lengths)
    cells = np.concatenate([row * width + np.arange(length) for row, length in enumerate(sequences.lengths)])
    place = sent(cells, token_ids.device)
    ids = token_ids.new_zeros(num_sequences * width).index_copy(0, place, token_ids)
    return Inputs({"input_ids": ids.view(num_sequences, width)}, place.index_select(0, sequences.predicts))
