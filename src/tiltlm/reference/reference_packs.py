"""The packs of a reference pass, which needs no gradient.

Unlike a training step, the pass may take sequences in any order and separate the responses of a row. Prompts are still
computed once, packs are larger, and a prompt with very many responses is split into several trees.
"""

from collections.abc import Iterator, Sequence

from tiltlm.core.example import Response, TokenIds
from tiltlm.core.forest import Tree
from tiltlm.reference.store.shard import context_digest, token_bytes

ContextAndResponse = tuple[TokenIds, TokenIds]
"""A context and a response to it."""


def contexts_and_responses(trees: Sequence[Tree]) -> list[ContextAndResponse]:
    """Return every response with its context, in the order of `pack_trees(trees)`."""
    return [(tree.prompt_ids, response.token_ids) for tree in trees for response in tree.responses]


def reference_packs(sequences: Sequence[ContextAndResponse], max_tokens: int) -> Iterator[list[Tree]]:
    """Yield packs of trees with at most `max_tokens` input tokens; a longer sequence is a pack of its own.

    Every token of a response is scored, even if its row scores only some. The largest trees come first, so running out
    of memory shows at once, and the trees of a pack have similar lengths.
    """
    pack: list[Tree] = []
    room = max_tokens
    for tree in sorted(_trees(sequences, max_tokens), key=lambda tree: -tree.num_tokens):
        if pack and tree.num_tokens > room:
            yield pack
            pack, room = [], max_tokens
        pack.append(tree)
        room -= tree.num_tokens
    if pack:
        yield pack


def _trees(sequences: Sequence[ContextAndResponse], max_tokens: int) -> Iterator[Tree]:
    """Yield one tree per context, or several if its responses exceed `max_tokens`."""
    members: dict[bytes, list[ContextAndResponse]] = {}
    for context, response in sequences:
        members.setdefault(context_digest(token_bytes(context)), []).append((context, response))
    for group in members.values():
        context = group[0][0]
        branches: list[Response] = []
        room = max_tokens - len(context)
        for _, response in group:
            if branches and len(response) - 1 > room:
                yield Tree(context, tuple(branches))
                branches, room = [], max_tokens - len(context)
            branches.append(Response(response))
            room -= len(response) - 1
        yield Tree(context, tuple(branches))
