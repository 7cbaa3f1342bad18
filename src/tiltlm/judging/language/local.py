"""A model in this process as an asker: it writes nothing, the probabilities of its labels are read.

The labels are responses to the question, in the model's own chat template. All labels of a question share one forward
of the question. A model without a template gets the same as plain text.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, takewhile

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tiltlm.core.errors import ConfigError
from tiltlm.core.example import Response
from tiltlm.core.forest import Tree, pack_trees
from tiltlm.data.accounting import Defect
from tiltlm.data.rows.records import Record
from tiltlm.data.tokens.encoder import Encoded
from tiltlm.distributed import Ranks
from tiltlm.judging.digests import digest_of
from tiltlm.judging.language.question import Asker, Question, Reply, read_masses
from tiltlm.judging.language.templates import by_probability
from tiltlm.judging.scorers.encoding import encoder_of, frozen_forward, run_all_packed, tokenizer_digest
from tiltlm.models import ModelSettings, Policy, load_policy
from tiltlm.models.folders import short_name
from tiltlm.reference import model_digest
from tiltlm.reference.digests import numeric_path

CHUNK = 32
"""Groups of questions that are packed together. Replies come in groups of this size."""
START = "Answer:"
"""What the answer starts with. Without it, many models open with words of their own before they name a label."""


class LocalModel(Asker):
    """A language model in this process."""

    @classmethod
    def load(cls, path: str, *, precision: str = "auto", max_tokens: int = 8192) -> "LocalModel":
        """Load the model.

        Args:
            path: Folder, or name on the Hugging Face Hub.
            precision: As `model.precision`.
            max_tokens: Tokens of one forward.

        Raises:
            ModelError: It cannot be used.
        """
        policy = load_policy(ModelSettings(path, precision=precision), key="judge.model")  # type: ignore[arg-type]
        return cls(policy, max_tokens=max_tokens)

    def __init__(self, policy: Policy, *, max_tokens: int = 8192, ranks: Ranks | None = None) -> None:
        """Ask a model that is loaded, with the weights that it has now.

        Args:
            policy: The model. If its weights change, this asker must be made again: they are part of its digest.
            max_tokens: Tokens of one forward.
            ranks: Processes that share the forwards; all must make this asker and ask it together, with equal
                questions. None: this one alone.
        """
        self.ranks = ranks or Ranks()
        self.name = short_name(policy.settings.path)
        self.module = policy.module
        self.encoder = encoder_of(policy)
        self.max_tokens = max_tokens
        self.weights = model_digest(self.module)
        tokenizer = self.encoder.tokenizer
        added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
        self.special_tokens = tuple(dict.fromkeys([*tokenizer.all_special_tokens, *added]))
        self.digest = digest_of(
            "local",
            version=1,
            weights=self.weights,
            path=numeric_path(self.module),
            tokens=tokenizer_digest(self.encoder),
        )

    def ask(self, groups: Iterable[Sequence[Question]]) -> Iterator[tuple[Reply, ...]]:
        """Yield the replies to each group of questions, in order."""
        waiting = iter(groups)
        while chunk := list(islice(waiting, CHUNK)):
            replies = iter(self._replies([question for group in chunk for question in group]))
            for group in chunk:
                yield tuple(next(replies) for _ in group)

    def _replies(self, questions: Sequence[Question]) -> list[Reply]:
        encoded = [self._encode(question) for question in questions]
        fit = [e for e in encoded if isinstance(e, Encoded)]
        values = iter(run_all_packed(fit, self._logps, self.max_tokens, self.ranks))
        return [
            self._read(question, next(values), e)
            if isinstance(e, Encoded)
            else Reply(error=e, mode="logprobs", model=self.name)
            for question, e in zip(questions, encoded, strict=True)
        ]

    def _encode(self, question: Question) -> Encoded | str:
        """Return the question as a prompt with its labels as responses, or why that is impossible."""
        marks = [label.mark for label in question.labels]
        if self.encoder.has_template:
            turn = {"role": "user", "content": by_probability(question)}
            labels = tuple(({"role": "assistant", "content": f"{START} {mark}"},) for mark in marks)
            record = Record("question", "question", (turn,), labels)
        else:
            text = f"{by_probability(question)}\n\n"
            record = Record("question", "question", text, tuple(f"{START} {mark}" for mark in marks))
        (encoded,) = self.encoder.encode_many([record])
        if isinstance(encoded, Defect):
            return f"{encoded.code}: {encoded.detail}"
        if self.encoder.window is not None and encoded.num_tokens > self.encoder.window:
            return f"the question has {encoded.num_tokens} tokens, and the model reads {self.encoder.window}"
        ids = [tuple(int(i) for i in response.token_ids[:-1]) for response in encoded.responses]
        common = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*ids, strict=False)))
        self._check_labels(marks, ids)
        prompt_ids = np.concatenate([encoded.prompt_ids, encoded.responses[0].token_ids[:common]])
        responses = tuple(Response(r.token_ids[common:-1], ended=False) for r in encoded.responses)
        return Encoded(prompt_ids, responses, encoded.changes)

    def _check_labels(self, marks: Sequence[str], ids: Sequence[tuple[int, ...]]) -> None:
        """Require that no label starts with another one: its probability would include that of the longer one.

        Raises:
            ConfigError: One does.
        """
        for i, short in enumerate(ids):
            for j, long in enumerate(ids):
                if i != j and long[: len(short)] == short:
                    raise ConfigError(
                        f"{self.name} writes the labels {marks[i]!r} and {marks[j]!r} with the same first tokens, so "
                        "their probabilities cannot be told apart; use another model",
                        code="same_labels",
                        key="judge.model",
                    )

    def _logps(self, trees: Sequence[Tree]) -> ArrayLike:
        return frozen_forward(self.module, lambda: self.module(pack_trees(trees)).seq_logps)

    def _read(self, question: Question, logps: NDArray[np.float64], encoded: Encoded) -> Reply:
        masses = {label.word: float(p) for label, p in zip(question.labels, np.exp(logps), strict=True)}
        reply = read_masses(masses)
        facts = {"mode": "logprobs", "model": self.name, "tokens_in": len(encoded.prompt_ids)}
        return Reply(**{**vars(reply), **facts})
