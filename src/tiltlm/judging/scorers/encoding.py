"""Items as tokens, and many of them in few forwards: each prompt once, packs under a budget of tokens.

The encoder is the one of training, with the judge's own tokenizer, template and end token. So a reward model reads what
it was trained on, and there is never a second beginning token.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from tiltlm.core.example import Example, Response
from tiltlm.core.forest import Tree, build_trees
from tiltlm.data.accounting import Defect
from tiltlm.data.rows.cells import Content
from tiltlm.data.rows.records import Record
from tiltlm.data.tokens.encoder import Encoded, Encoder
from tiltlm.distributed import Ranks
from tiltlm.judging.digests import digest_of
from tiltlm.judging.judge import Item, Score
from tiltlm.logprobs import plan
from tiltlm.logprobs.module import ForestModule, evaluating
from tiltlm.models import Loaded
from tiltlm.models import Scorer as RewardModel

CHUNK = 256
"""Items that are tokenised and packed together. Scores come in groups of this size."""


def encoder_of(model: Loaded) -> Encoder:
    """Return the encoder of a judge's model."""
    rows = len(model.module.get_input_embeddings().weight)
    return Encoder(
        model.tokenizer,
        model.end_token_id,
        getattr(model.module.config.get_text_config(), "max_position_embeddings", None),
        num_embeddings=rows if rows < len(model.tokenizer) else None,
        reads_whole=isinstance(model, RewardModel),
    )


def tokenizer_digest(encoder: Encoder) -> str:
    """Return a digest of how text becomes tokens: vocabulary, template, end token."""
    return digest_of(
        "tokenizer",
        vocabulary=encoder.tokenizer.get_vocab(),
        tokenizer=type(encoder.tokenizer).__name__,
        template=encoder.template.source if encoder.template else None,
        end=encoder.end_token_id,
    )


def record_of(prompt: str | Sequence[Mapping[str, Any]], responses: Sequence[str], encoder: Encoder) -> Record:
    """Return responses with their prompt as a record: text becomes turns if the model has a chat template."""
    if not isinstance(prompt, str):
        turns: Content = tuple(dict(turn) for turn in prompt)
        return Record("item", "item", turns, tuple(({"role": "assistant", "content": text},) for text in responses))
    record = Record("item", "item", prompt, tuple(responses))
    return record.as_chat() if encoder.has_template else record


def score_items(
    items: Iterable[Item],
    encoder: Encoder,
    run: Callable[[Sequence[Tree]], ArrayLike],
    max_tokens: int,
    *,
    drops_end: bool = False,
) -> Iterator[Score]:
    """Yield a score for each item, in order.

    Args:
        items: Responses with their prompts.
        encoder: Tokenises them.
        run: Returns one number for each response of a pack of trees, in their order.
        max_tokens: Tokens of one pack.
        drops_end: Leave the end token of cut responses out, for judges that read its probability.
    """
    waiting = iter(items)
    while chunk := list(islice(waiting, CHUNK)):
        encoded = encoder.encode_many([record_of(item.prompt, [item.response], encoder) for item in chunk])
        if drops_end:
            encoded = [
                e if item.ended or isinstance(e, Defect) else _without_end(e)
                for item, e in zip(chunk, encoded, strict=True)
            ]
        problems = [problem_of(e, encoder) for e in encoded]
        fit = [e for e, problem in zip(encoded, problems, strict=True) if not problem and not isinstance(e, Defect)]
        values = iter(run_packed(fit, run, max_tokens))
        for problem, e in zip(problems, encoded, strict=True):
            if problem or isinstance(e, Defect):
                yield Score(None, error=problem)
                continue
            value, tokens = float(next(values)), e.num_tokens
            if np.isfinite(value):
                yield Score(value, tokens_in=tokens)
            else:
                yield Score(None, error=f"the score is {value}", tokens_in=tokens)


def _without_end(encoded: Encoded) -> Encoded:
    """Return a response without its last token, unless that is all it has."""
    (response,) = encoded.responses
    if len(response.token_ids) < 2:
        return encoded
    return replace(encoded, responses=(Response(response.token_ids[:-1], ended=False),))


def problem_of(encoded: Encoded | Defect, encoder: Encoder) -> str:
    """Return why an item cannot be scored; "" if it can."""
    if isinstance(encoded, Defect):
        return f"{encoded.code}: {encoded.detail}"
    if encoder.window is not None and encoded.num_tokens > encoder.window:
        return f"prompt and response have {encoded.num_tokens} tokens, and the model reads {encoder.window}"
    return ""


def run_packed(
    encoded: Sequence[Encoded], run: Callable[[Sequence[Tree]], ArrayLike], max_tokens: int
) -> NDArray[np.float64]:
    """Return one number for each item with one response: trees of all items, cut into packs."""
    return np.array([values[0] for values in run_all_packed(encoded, run, max_tokens)])


def run_all_packed(
    encoded: Sequence[Encoded],
    run: Callable[[Sequence[Tree]], ArrayLike],
    max_tokens: int,
    ranks: Ranks | None = None,
) -> list[NDArray[np.float64]]:
    """Return the numbers of the responses of each item.

    Args:
        encoded: The items.
        run: As for `score_items`.
        max_tokens: Tokens of one pack.
        ranks: Processes that share the packs; all must call this function together, with equal arguments. None: this
            one alone.
    """
    if not encoded:
        return []
    examples = [Example(str(i), e.prompt_ids, e.responses) for i, e in enumerate(encoded)]
    trees, slots = build_trees(examples)
    ends = np.cumsum([len(tree.responses) for tree in trees])
    values = np.empty(ends[-1])
    packs = list(plan([tree.num_tokens for tree in trees], max_tokens))
    of_packs = (ranks or Ranks()).map(lambda pack: np.asarray(run([trees[t] for t in pack]), dtype=np.float64), packs)
    for pack, found in zip(packs, of_packs, strict=True):
        places = np.concatenate([np.arange(ends[t] - len(trees[t].responses), ends[t]) for t in pack])
        values[places] = found
    return [values[list(slot)] for slot in slots]


def frozen_forward(module: ForestModule, function: Callable[[], torch.Tensor]) -> NDArray[np.float64]:
    """Return what a forward computes, in evaluation mode and without gradient."""
    with evaluating(module), torch.no_grad():
        values: Any = function().double().cpu().numpy()
    return np.asarray(values, dtype=np.float64)
