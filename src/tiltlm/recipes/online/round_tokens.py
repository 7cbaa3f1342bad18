"""The tokens of a round, and the weights that read them."""

from collections.abc import Sequence

from tiltlm.core import Tree, build_trees
from tiltlm.core.example import Example, Response
from tiltlm.logprobs import PolicyModule
from tiltlm.online.ledger import Tokens, tokens_of_trees
from tiltlm.online.rounds import RoundFolder
from tiltlm.sampling.answers import AnswerRow, read_answers


def tree_of(row: AnswerRow) -> Tree:
    """Return the samples of a prompt for a forward."""
    assert row.prompt_ids is not None, "the sampler gives tokens"
    assert row.token_ids is not None, "the sampler gives tokens"
    return Tree(row.prompt_ids, tuple(Response(ids) for ids in row.token_ids))


def spent_tokens(
    folder: RoundFolder,
    measured: Sequence[AnswerRow],
    examples: Sequence[Example],
    *,
    has_own_reference: bool,
    trained: int,
) -> Tokens:
    """Return the tokens of a round, from its files and its steps.

    Args:
        folder: The files of the round, after its training.
        measured: The samples that were read for the KL.
        examples: The examples that were trained on.
        has_own_reference: True if the objective has a reference that reads the examples, and it is not the policy
            before the first round, whose log-probabilities the KL needs anyway.
        trained: Tokens that the steps read.
    """
    drawn = [row for path in folder.answers for row in read_answers(path)]
    of_examples = tokens_of_trees(build_trees(examples)[0])
    num_reads = has_own_reference + (folder.old_numbers is not None)
    return Tokens(
        prompts=sum(len(ids) for row in drawn if (ids := row.prompt_ids) is not None),
        sampled=sum(len(ids) for row in drawn for ids in row.token_ids or ()),
        forward=tokens_of_trees(map(tree_of, measured)) + num_reads * of_examples,
        trained=trained,
    )


def num_weights(module: PolicyModule) -> int:
    """Return the weights of a policy without its input embedding, unless that is its head too."""
    embedding, head = module.get_input_embeddings(), module.get_output_embeddings()
    is_tied = head is not None and head.weight is embedding.weight
    return sum(p.numel() for p in module.parameters()) - (0 if is_tied else embedding.weight.numel())
