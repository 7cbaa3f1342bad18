"""`ScoreModule`: the forward of a reward model, from a forest to one score per response.

The model is transformers' own sequence classifier with one label. It reads the same forests as a policy: each prompt
once, with values and gradients equal to separate forwards. `AutoModelForSequenceClassification` loads what is saved.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tiltlm.core.errors import ModelError
from tiltlm.core.forest import Forest
from tiltlm.core.scores import ResponseScores
from tiltlm.logprobs.head.states import float_dtype
from tiltlm.logprobs.inputs import Inputs, arrange
from tiltlm.logprobs.layout_name import LayoutName
from tiltlm.logprobs.module import ForestModule
from tiltlm.logprobs.precision import Precision


class ScoreModule(ForestModule):
    """A sequence classifier with one label as a function from forests to scores."""

    def __init__(
        self, model: Any, layout: LayoutName = "shared", precision: Precision = "float32", trims: bool = True
    ) -> None:
        """Wrap a loaded model and switch its attention implementation to the one that the layout needs.

        Args:
            model: A transformers sequence classifier on a causal body, or a PEFT model around one.
            layout: As for `PolicyModule`.
            precision: As for `PolicyModule`.
            trims: As for `PolicyModule`.

        Raises:
            ModelError: the model has no head with one label that reads the last token's state.
        """
        super().__init__(model, layout, precision, trims)
        self.score_head()
        self._lay_out()

    def forward(self, forest: Forest) -> ResponseScores:
        """Return the score of every response of `pack_trees(with_score_token(trees))`, with gradient.

        Scores are float32, or float64 for a float64 model.

        Raises:
            ModelError: a sequence is too long.
        """
        assert len(forest.targets) == forest.num_responses, "one row per response: pack_trees(with_score_token(trees))"
        forest = forest.to(self.device)
        self._refuse_too_long(forest)
        with self._autocast():
            scores = self.scores_of(arrange(forest, self.layout))
        return ResponseScores(scores, forest.num_tokens)

    def scores_of(self, inputs: Inputs) -> Float[Tensor, " N"]:
        """Run the forward on arranged inputs, for `forward` and the self-check; all others call the module."""
        hidden, head = inputs.read(self._body(inputs)[0]), self.score_head()
        with torch.autocast(hidden.device.type, enabled=False):
            scores: Tensor = head(hidden.to(float_dtype(head)))[:, 0]
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    def score_head(self) -> nn.Module:
        """Return the linear layer on the last token's state, `score` in every causal classifier of transformers."""
        head = getattr(self.bare_model, "score", None)
        if not isinstance(head, nn.Module) or self.config.get_text_config().num_labels != 1:
            raise ModelError(
                f"{type(self.bare_model).__name__} has no head `score` with one label on its last token; a reward "
                "model must be a causal sequence classifier of transformers with num_labels=1",
                code="no_score_head",
            )
        return head
