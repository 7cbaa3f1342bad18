"""`ScoreModule`: the forward of a reward model, from a forest to one score per response.

The model is transformers' own sequence classifier with one label, on the same forest as a policy: each prompt once,
values and gradients equal to separate forwards. So what is saved is what `AutoModelForSequenceClassification` loads.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tiltlm.core.errors import ModelError
from tiltlm.core.forest import Forest
from tiltlm.core.scores import ResponseScores
from tiltlm.logprobs.head.states import float_dtype
from tiltlm.logprobs.inputs import Inputs, LayoutName, arrange
from tiltlm.logprobs.module import ForestModule
from tiltlm.logprobs.precision import Precision


class ScoreModule(ForestModule):
    """A sequence classifier with one label as a function from forests to scores."""

    def __init__(
        self, model: Any, layout: LayoutName = "shared", precision: Precision = "float32", trims: bool = True
    ) -> None:
        """Wrap a loaded model; its attention implementation is switched to what the layout needs.

        Args:
            model: A transformers sequence classifier on a causal body, or a PEFT model around one.
            layout: As for `PolicyModule`.
            precision: As for `PolicyModule`.
            trims: As for `PolicyModule`.

        Raises:
            ModelError: it has no head of one label that reads the last token's state.
        """
        super().__init__(model, layout, precision, trims)
        self._head()
        self._lay_out()

    def forward(self, forest: Forest) -> ResponseScores:
        """Score of every response of `plant(closed(trees))`, float32 (float64 for a float64 model), with gradient.

        Raises:
            ModelError: a sequence is too long.
        """
        assert len(forest.targets) == forest.num_responses, "one row a response: plant(closed(trees))"
        forest = forest.to(self.device)
        self._refuse_too_long(forest)
        with self._autocast():
            scores = self.scores_of(arrange(forest, self.layout))
        return ResponseScores.of(scores, forest.num_tokens)

    def scores_of(self, inputs: Inputs) -> Float[Tensor, " N"]:
        """The forward on arranged inputs. For `forward` and the self-check; everyone else calls the module."""
        hidden, head = inputs.read(self._body(inputs)[0]), self._head()
        with torch.autocast(hidden.device.type, enabled=False):
            scores: Tensor = head(hidden.to(float_dtype(head)))[:, 0]
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    def _head(self) -> nn.Module:
        """The linear layer on the last token's state, called `score` in every causal classifier of transformers."""
        head = getattr(self.bare_model, "score", None)
        if not isinstance(head, nn.Module) or self.config.get_text_config().num_labels != 1:
            raise ModelError(
                f"{type(self.bare_model).__name__} has no head `score` of one label on its last token; a reward model "
                "is a causal model of transformers as a sequence classifier with num_labels=1",
                code="no_score_head",
            )
        return head
