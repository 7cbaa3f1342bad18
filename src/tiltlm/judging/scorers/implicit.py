"""The implicit reward of a policy: β·(log π(y|x) − log π_ref(y|x)), what direct alignment has trained it to mean.

Source: Rafailov et al. 2023, arXiv 2305.18290, section 4.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from numpy.typing import ArrayLike

from tiltlm.core.errors import ConfigError
from tiltlm.core.forest import Tree, pack_trees
from tiltlm.judging.digests import digest_of
from tiltlm.judging.judge import Item, Role, Score, Scorer
from tiltlm.judging.judge_settings import JudgeSettings
from tiltlm.judging.scorers.encoding import encoder_of, frozen_forward, score_items, tokenizer_digest
from tiltlm.models import ModelSettings, load_policy
from tiltlm.models.folders import short_name
from tiltlm.reference import ReferenceSettings, build_reference, model_digest
from tiltlm.reference.digests import numeric_path


class ImplicitReward(Scorer):
    """The log-ratio of a policy and its reference, in nats times β."""

    def __init__(
        self,
        model: str,
        reference: str,
        *,
        beta: float = 1.0,
        mean: bool = False,
        precision: str = "auto",
        max_tokens: int = 8192,
        role: Role = "held_out",
    ) -> None:
        """Load both models.

        Args:
            model: Folder or name of the policy.
            reference: Folder or name of the reference; `base`: the policy without its adapter.
            beta: Factor of the log-ratio.
            mean: Divide by the number of tokens of the response, its end token included.
            precision: As `model.precision`.
            max_tokens: Tokens of one forward.
            role: Its role.

        Raises:
            ConfigError: The reference is not the name of a model.
            ModelError: A model cannot be used, or the tokenizers differ.
        """
        if reference in ("auto", "initial", "columns", "moving"):
            raise ConfigError(
                f"judge.reference is {reference!r}; name a model folder, or base for a policy with an adapter",
                code="unknown_name",
                key="judge.reference",
            )
        policy = load_policy(ModelSettings(model, precision=precision), key="judge.model")  # type: ignore[arg-type]
        self.reference = build_reference(
            ReferenceSettings(reference, cache=False), policy, is_needed=True, max_tokens=max_tokens
        )
        self.module = policy.module
        self.encoder = encoder_of(policy)
        self.beta = beta
        self.mean = mean
        self.max_tokens = max_tokens
        self.role = role
        self.name = f"implicit reward of {short_name(model)}"
        self.digest = digest_of(
            "implicit",
            version=1,
            weights=model_digest(self.module),
            reference=self.reference.digest,
            path=numeric_path(self.module),
            tokens=tokenizer_digest(self.encoder),
            beta=beta,
            mean=mean,
        )

    def score(self, items: Iterable[Item]) -> Iterator[Score]:
        """Yield a score for each item, in order; an error for one that the model's window cannot hold."""
        return score_items(items, self.encoder, self._run, self.max_tokens, drops_end=True)

    def _run(self, trees: Sequence[Tree]) -> ArrayLike:
        def rewards() -> torch.Tensor:
            responses = self.reference.attach(self.module(pack_trees(trees)), trees)
            ratios = responses.seq_logps - responses.ref_sums
            return self.beta * (ratios / responses.num_tokens if self.mean else ratios)

        return frozen_forward(self.module, rewards)


def implicit(settings: JudgeSettings, role: Role) -> ImplicitReward:
    """Load the policy and the reference that settings name."""
    return ImplicitReward(
        str(settings.model),
        str(settings.reference),
        beta=settings.beta,
        mean=settings.mean,
        precision=settings.precision,
        max_tokens=settings.max_tokens,
        role=role,
    )
