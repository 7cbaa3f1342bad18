"""From a forest to the inputs of a model call, in each of the three layouts.

`shared` is the forest as it lies. `packed` and `padded` give every response its own copy of its prompt, in one row or
in a batch: fallbacks for models that cannot share, and what sharing is compared with.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiltlm.core.forest import Forest
from tiltlm.logprobs.attention.layout import Layout, sent

LayoutName = Literal["shared", "packed", "padded"]


class Inputs(NamedTuple):
    """A model call and where its scored states are."""

    keywords: dict[str, Any]
    """Keyword arguments of the model call."""
    predicts: Int[Tensor, " R"]
    """Index into the flattened batch of the token that predicts scored token r."""

    def read(self, hidden: Float[Tensor, "B N D"]) -> Float[Tensor, "R D"]:
        """The hidden states that predict."""
        # `index_select`: the backward of plain indexing is not deterministic on a CPU once a row repeats.
        return hidden.flatten(0, 1).index_select(0, self.predicts)


def arrange(forest: Forest, layout: LayoutName, whole: bool = False) -> Inputs:
    """The inputs of the model call for this forest under this layout.

    Args:
        forest: The responses.
        layout: Which of the three.
        whole: The last layer too computes every token of a shared row (`last_layer.py` leaves out what nobody reads).
    """
    if layout == "shared":
        trees = Layout(forest.prompt_lengths, forest.branch_lengths, whole=whole)
        return _row(forest.token_ids, forest.position_ids, trees, forest.predicts)
    apart = separate(forest)
    if layout == "packed":
        alone = Layout(apart.lengths, ((),) * len(apart.lengths))
        return _row(apart.token_ids, apart.position_ids, alone, apart.predicts)
    return pad(apart)


def _row(token_ids: Tensor, position_ids: Tensor, layout: Layout, predicts: Tensor) -> Inputs:
    keywords = {"input_ids": token_ids[None], "position_ids": position_ids[None], "layout": layout}
    return Inputs(keywords, predicts)


class Sequences(NamedTuple):
    """N separate sequences, a prompt and its response each, one after another."""

    token_ids: Int[Tensor, " S"]
    position_ids: Int[Tensor, " S"]
    lengths: tuple[int, ...]
    predicts: Int[Tensor, " R"]
    """Index of the token that predicts scored token r."""


def separate(forest: Forest) -> Sequences:
    """One sequence a response, in the order of the forest's responses."""
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

    def of_response(numbers: list[int] | np.ndarray) -> Tensor:
        return sent(np.asarray(numbers), device).index_select(0, forest.response_index)

    # A response's first token is predicted by the last prompt token, which lies before the response's own.
    own = forest.predicts - of_response(branch_starts)
    column = of_response(prompts) + torch.where(own >= 0, own, -1)
    first = np.cumsum([0, *lengths[:-1]])
    return Sequences(
        token_ids=forest.token_ids.index_select(0, sent(np.concatenate(source), device)),
        position_ids=sent(np.concatenate([np.arange(n) for n in lengths]), device),
        lengths=lengths,
        predicts=of_response(first) + column,
    )


def pad(sequences: Sequences) -> Inputs:
    """Sequences as a right-padded batch.

    There is no attention mask: nothing causal sees what follows it, and rows of padding that may look nowhere are
    where explicit attention turns into NaN.
    """
    width = max(sequences.lengths)
    token_ids, num_sequences = sequences.token_ids, len(sequences.lengths)
    cells = np.concatenate([row * width + np.arange(length) for row, length in enumerate(sequences.lengths)])
    place = sent(cells, token_ids.device)
    ids = token_ids.new_zeros(num_sequences * width).index_copy(0, place, token_ids)
    return Inputs({"input_ids": ids.view(num_sequences, width)}, place.index_select(0, sequences.predicts))
