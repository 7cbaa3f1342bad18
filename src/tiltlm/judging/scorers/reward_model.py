"""Reward models as scorers: a sequence classifier with one label, ours or any of transformers.

Classifiers on a causal body run through the same forward as in training: each prompt once. Others (BERT, DeBERTa) read
prompt and response as a pair of texts, in padded batches.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from tiltlm.core.errors import ConfigError, ModelError
from tiltlm.core.forest import Tree, pack_trees, with_score_token
from tiltlm.judging.digests import digest_of
from tiltlm.judging.judge import Item, Role, Score, Scorer
from tiltlm.judging.judge_settings import JudgeSettings
from tiltlm.judging.scorers.encoding import encoder_of, frozen_forward, score_items, tokenizer_digest
from tiltlm.models import ModelSettings, load_scorer
from tiltlm.models import Scorer as LoadedScorer
from tiltlm.models.folders import Located, check_reachable, short_name
from tiltlm.models.foreign_code import check_weights, without_pickles
from tiltlm.reference import model_digest
from tiltlm.reference.digests import numeric_path


class RewardModel(Scorer):
    """A causal sequence classifier with one label: its score at the last token of a response."""

    def __init__(self, loaded: LoadedScorer, *, max_tokens: int = 8192, role: Role = "held_out") -> None:
        """Take a loaded model, with its weights of now: they are part of the digest.

        Args:
            loaded: The model.
            max_tokens: Tokens of one forward.
            role: Its role.
        """
        self.role = role
        self.name = short_name(loaded.settings.path)
        self.encoder = encoder_of(loaded)
        self.module = loaded.module
        self.max_tokens = max_tokens
        self.digest = digest_of(
            "reward_model",
            version=1,
            weights=model_digest(self.module),
            path=numeric_path(self.module),
            tokens=tokenizer_digest(self.encoder),
        )

    def score(self, items: Iterable[Item]) -> Iterator[Score]:
        """Yield a score for each item, in order; an error for one that the model's window cannot hold."""
        return score_items(items, self.encoder, self._run, self.max_tokens)

    def _run(self, trees: Sequence[Tree]) -> ArrayLike:
        forest = pack_trees(with_score_token(trees))
        return frozen_forward(self.module, lambda: self.module(forest).scores)


class PairClassifier(Scorer):
    """A bidirectional classifier with one label: it reads prompt and response as a pair of texts."""

    def __init__(self, path: str, *, max_tokens: int = 8192, role: Role = "held_out") -> None:
        """Load the model.

        Args:
            path: Folder, or name on the Hugging Face Hub.
            max_tokens: Tokens of one padded batch.
            role: Its role.

        Raises:
            ModelError: It does not have one label, or its weights are incomplete.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        if Path(path).is_dir():
            check_weights(Path(path), "judge.model")
        else:
            check_reachable(Located(path, None, path, is_folder=False, key="judge.model"))
        with without_pickles("judge.model"):
            model, info = AutoModelForSequenceClassification.from_pretrained(
                path, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
        if model.config.num_labels != 1 or info["missing_keys"]:
            raise ModelError(
                f"judge.model={path} has {model.config.num_labels} labels and {len(info['missing_keys'])} missing "
                "tensors; a reward model has one label and all its weights",
                code="no_score_head",
                key="judge.model",
            )
        self.role = role
        self.name = short_name(path)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        self.model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self.window = getattr(model.config, "max_position_embeddings", None)
        self.max_tokens = max_tokens
        self.digest = digest_of(
            "pair_classifier", version=1, weights=_weights_digest(model), vocabulary=self.tokenizer.get_vocab()
        )

    def score(self, items: Iterable[Item]) -> Iterator[Score]:
        """Yield a score for each item, in order; an error for one that the model's window cannot hold."""
        waiting = iter(items)
        while chunk := list(islice(waiting, 64)):
            encoded = [self.tokenizer(_prompt_text(item), item.response) for item in chunk]
            lengths = [len(e.input_ids) for e in encoded]
            scores: list[Score | None] = [None] * len(chunk)
            fits = [i for i, length in enumerate(lengths) if self.window is None or length <= self.window]
            for batch in _batches(sorted(fits, key=lambda i: lengths[i]), lengths, self.max_tokens):
                padded = self.tokenizer.pad([encoded[i] for i in batch], return_tensors="pt").to(self.model.device)
                with torch.no_grad():
                    values = self.model(**padded).logits[:, 0].double().cpu().numpy()
                for i, value in zip(batch, values, strict=True):
                    ok = bool(np.isfinite(value))
                    scores[i] = Score(float(value) if ok else None, "" if ok else f"the score is {value}")
            for score, length in zip(scores, lengths, strict=True):
                too_long = f"prompt and response have {length} tokens, and the model reads {self.window}"
                yield Score(None, too_long) if score is None else score


def _batches(order: Sequence[int], lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Yield indices of rising length in batches of at most `max_tokens` padded tokens."""
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) + 1) * lengths[index] > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _prompt_text(item: Item) -> str:
    """Return a prompt as plain text; of a conversation, its turns with blank lines between them."""
    if isinstance(item.prompt, str):
        return item.prompt
    return "\n\n".join(str(turn.get("content", "")) for turn in item.prompt)


def _weights_digest(model: Any) -> str:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def reward_model(settings: JudgeSettings, role: Role) -> RewardModel | PairClassifier:
    """Load the reward model that settings name."""
    path = str(settings.model)
    if _is_bidirectional(path):
        if settings.precision != "auto":
            raise ConfigError(
                "judge.precision has no effect for a bidirectional classifier; remove it",
                code="no_effect",
                key="judge.precision",
            )
        return PairClassifier(path, max_tokens=settings.max_tokens, role=role)
    return RewardModel(load_judge(path, settings.precision), max_tokens=settings.max_tokens, role=role)


def load_judge(path: str, precision: str) -> LoadedScorer:
    """Load a causal reward model.

    Args:
        path: Folder, or name on the Hugging Face Hub.
        precision: As `model.precision`.

    Raises:
        ModelError: It has no score head, or cannot be used.
    """
    loaded = load_scorer(ModelSettings(path, precision=precision))  # type: ignore[arg-type]
    if any(note.code == "new_score_head" for note in loaded.notes):
        raise ModelError(
            f"judge.model={path} is a language model without a score head, so its scores would be random; train a "
            "reward model from it (objective reward_model), or name one",
            code="no_score_head",
            key="judge.model",
        )
    return loaded


def _is_bidirectional(path: str) -> bool:
    """Return whether transformers has a classifier for a model whose head is not the `score` of causal classifiers.

    A folder that cannot be read is left to `load_scorer`, whose messages say what is wrong.
    """
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoConfig

    if not Path(path).is_dir():
        check_reachable(Located(path, None, path, is_folder=False, key="judge.model"))
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        kind: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
        with torch.device("meta"):  # no weights are made
            return kind is not None and not hasattr(kind(config), "score")
    except (OSError, ValueError, KeyError, RuntimeError):
        return False
