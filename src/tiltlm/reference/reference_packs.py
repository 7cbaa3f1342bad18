"""The reference pass over data: which sequences go into which forward when no gradient is needed.

Unlike a step of training it may take its sequences in any order and apart from their rows: prompts are still computed
once, packs are larger, and a prompt with very many responses is cut.
"""

from collections.abc import Iterator, Sequence

from tiltlm.core.example import Response, TokenIds
from tiltlm.core.forest import Tree
from tiltlm.reference.store.shard import context_digest, token_bytes

ContextAndResponse = tuple[TokenIds, TokenIds]
"""A context and a response to it."""


def contexts_and_responses(trees: Sequence[Tree]) -> list[ContextAndResponse]:
    """Every response with its context, in the order of `plant(trees)`."""
    return [(tree.prompt_ids, response.token_ids) for tree in trees for response in tree.responses]


def reference_packs(asked: Sequence[ContextAndResponse], max_tokens: int) -> Iterator[list[Tree]]:
    """Trees in packs of at most `max_tokens` input tokens; a longer sequence is a pack of its own.

    Every token of a response is scored, whatever counts in the row that it comes from. Largest trees first: what does
    not fit into memory fails at once, and trees of a pack are of similar length.
    """
    pack: list[Tree] = []
    room = max_tokens
    for tree in sorted(_trees(asked, max_tokens), key=lambda tree: -tree.num_tokens):
        if pack and tree.num_tokens > room:
            yield pack
            pack, room = [], max_tokens
        pack.append(tree)
        room -= tree.num_tokens
    if pack:
        yield pack


def _trees(asked: Sequence[ContextAndResponse], max_tokens: int) -> Iterator[Tree]:
    """One tree a context, or several where its responses exceed `max_tokens`."""
    members: dict[bytes, list[ContextAndResponse]] = {}
    for context, response in asked:
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
