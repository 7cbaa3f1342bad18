"""The forest: prompts and their responses packed into one row, each prompt once.

A tree is a prompt and the distinct responses to it. Trees follow one another without padding. The positions of a
response continue those of its prompt. A response token attends to its prompt and to earlier tokens of its own response
only. The last token of a response predicts nothing that is scored, so it is a target and never an input.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tiltlm.core.device import to_device
from tiltlm.core.example import Example, Response, TokenIds, token_ids


@dataclass(frozen=True, eq=False)
class Tree:
    """One prompt and its distinct responses."""

    prompt_ids: TokenIds
    responses: tuple[Response, ...]

    @property
    def num_tokens(self) -> int:
        """Input tokens of this tree: all but the last token of each response."""
        return len(self.prompt_ids) + sum(len(r.token_ids) - 1 for r in self.responses)


def build_trees(
    examples: Sequence[Example], part: Literal["responses", "partners"] = "responses"
) -> tuple[list[Tree], list[list[int]]]:
    """Build trees of distinct prompts and responses, and the index of every example's responses in them.

    Examples with the same prompt, or the same response to it, share its computation. Their weights stay separate.

    Args:
        examples: Rows of data.
        part: Which responses of the examples to use.

    Returns:
        The trees, in order of first appearance, and per example the index of each of its responses (or partners)
        among the N responses of `pack_trees(trees)`, counted tree by tree.
    """
    prompts: dict[bytes, int] = {}
    branches: list[dict[tuple[bytes, bytes], int]] = []
    members: list[list[Response]] = []
    prompt_ids: list[TokenIds] = []
    local: list[list[tuple[int, int]]] = []
    for example in examples:
        tree = prompts.setdefault(example.prompt_ids.tobytes(), len(prompts))
        if tree == len(branches):
            branches.append({})
            members.append([])
            prompt_ids.append(example.prompt_ids)
        slots = []
        for response in getattr(example, part):
            branch = branches[tree].setdefault(response.key, len(branches[tree]))
            if branch == len(members[tree]):
                members[tree].append(response)
            slots.append((tree, branch))
        local.append(slots)
    first = np.concatenate([[0], np.cumsum([len(m) for m in members])]).astype(int).tolist()
    trees = [Tree(p, tuple(m)) for p, m in zip(prompt_ids, members, strict=True)]
    return trees, [[first[t] + b for t, b in slots] for slots in local]


def with_score_token(trees: Sequence[Tree]) -> list[Tree]:
    """Return trees for a reward model: append one unread token to every response and score only that position.

    The response's own last token thereby becomes an input, and row n of the forest (R = N) is its state. Positions and
    attention do not change.
    """

    def append_token(response: Response) -> Response:
        num_tokens = len(response.token_ids)
        return Response(token_ids([*response.token_ids, 0]), response.ended, scored=token_ids([num_tokens]))

    return [Tree(tree.prompt_ids, tuple(map(append_token, tree.responses))) for tree in trees]


@dataclass(frozen=True, eq=False)
class Forest:
    """Token ids and layout of one pack. T input tokens, N responses, R scored tokens."""

    token_ids: Int[Tensor, " T"]
    """Token id of each input token."""
    position_ids: Int[Tensor, " T"]
    """Position of each input token in its own prompt and response."""
    prompt_lengths: tuple[int, ...]
    """Tokens of each prompt, tree by tree."""
    branch_lengths: tuple[tuple[int, ...], ...]
    """Input tokens of each response, one fewer than its tokens, tree by tree; 0 for a one-token response."""
    predicts: Int[Tensor, " R"]
    """Index of the input token whose state predicts scored token r; the last prompt token occurs several times."""
    targets: Int[Tensor, " R"]
    """Token id of scored token r."""
    response_index: Int[Tensor, " R"]
    """Index, among the N responses, of the one that scored token r belongs to; ascending."""
    num_tokens: Int[Tensor, " N"]
    """Scored tokens of each response."""

    def to(self, device: torch.device | str) -> "Forest":
        """Return the forest with its tensors on `device`."""
        return to_device(self, device)

    @property
    def num_responses(self) -> int:
        """N."""
        return len(self.num_tokens)


def pack_trees(trees: Sequence[Tree]) -> Forest:
    """Lay trees out as one packed row. Responses are numbered tree by tree."""
    ids: list[TokenIds] = []
    positions: list[np.ndarray] = []
    predicts: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    counts: list[int] = []
    start = 0
    for tree in trees:
        prompt = len(tree.prompt_ids)
        ids.append(tree.prompt_ids)
        positions.append(np.arange(prompt))
        last, start = start + prompt - 1, start + prompt
        for response in tree.responses:
            inputs = response.token_ids[:-1]
            rows = np.concatenate([[last], np.arange(start, start + len(inputs))])
            scored = np.arange(len(response.token_ids)) if response.scored is None else response.scored
            ids.append(inputs)
            positions.append(np.arange(prompt, prompt + len(inputs)))
            predicts.append(rows[scored])
            targets.append(response.token_ids[scored])
            counts.append(len(scored))
            start += len(inputs)

    def tensor(parts: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(parts).astype(np.int64))

    return Forest(
        token_ids=tensor(ids),
        position_ids=tensor(positions),
        prompt_lengths=tuple(len(t.prompt_ids) for t in trees),
        branch_lengths=tuple(tuple(len(r.token_ids) - 1 for r in t.responses) for t in trees),
        predicts=tensor(predicts),
        targets=tensor(targets),
        response_index=tensor([np.repeat(np.arange(len(counts)), counts)]),
        num_tokens=torch.tensor(counts, dtype=torch.int64),
    )
