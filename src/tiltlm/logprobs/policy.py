"""`PolicyModule`: the one forward, from a forest to one log-probability per scored token.

It is what data parallelism wraps and what trainer, reference, scoring and evaluation call, always through the wrapped
root: a call past the wrapper leaves ranks unsynchronised without a word. Saving and `generate` go to the child.
"""

import inspect
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiltlm.core.forest import Forest
from tiltlm.core.logps import Extra, ResponseLogps
from tiltlm.logprobs.experts import count, experts_per_token, sequence_counts
from tiltlm.logprobs.head.find import Head, find_head
from tiltlm.logprobs.head.states import States, affine
from tiltlm.logprobs.head.token_values import TokenValues, token_values
from tiltlm.logprobs.inputs import Inputs, LayoutName, arrange
from tiltlm.logprobs.module import ForestModule
from tiltlm.logprobs.precision import Precision


class PolicyModule(ForestModule):
    """A causal language model as a function from forests to log-probabilities."""

    def __init__(
        self,
        model: Any,
        layout: LayoutName = "shared",
        precision: Precision = "float32",
        head: Head | None = None,
        trims: bool = True,
    ) -> None:
        """Wrap a loaded model; its attention implementation is switched to what the layout needs.

        Args:
            model: A transformers causal language model, or a PEFT model around one.
            layout: `shared`: each prompt once. `packed`: one row, prompts repeated. `padded`: a batch, stock attention.
            precision: `float32`: the dtype of the weights, no autocast. `bf16`: matrix products under autocast.
            head: How hidden states become log-probabilities; None: found by a probe.
            trims: In a shared row, the last layer leaves out what nobody reads (`last_layer.py`).
        """
        super().__init__(model, layout, precision, trims)
        self.head = head or find_head(self.bare_model)
        self._lay_out()

    def forward(
        self,
        forest: Forest,
        extras: frozenset[Extra] = frozenset(),
        beside: States | None = None,
        routing: bool = False,
    ) -> ResponseLogps:
        """Log-probability of every scored token, float32 (float64 for a float64 model), with gradient.

        Values and gradients are those of separate, unpadded forwards.

        Args:
            forest: The responses.
            extras: What else is wanted of every scored token.
            beside: The reference's states for this forest, where an extra reads them; its log-probabilities are then
                part of the result.
            routing: Also count what the routers of a mixture of experts do; the last layer is then computed whole.

        Raises:
            ModelError: a sequence is too long, the reference's vocabulary is of another size, or there are no routers.
            ConfigError: an extra reads the reference's states and there are none.
        """
        forest = forest.to(self.device)
        self._refuse_too_long(forest)
        chosen = experts_per_token(self.bare_model) if routing else 0
        asked = {"output_router_logits": True} if routing else {}
        with self._autocast():
            rows, output = self._rows(arrange(forest, self.layout, whole=routing), **asked)
            values = self._values(rows, forest.targets, extras, beside)
        routers = count(output.router_logits, sequence_counts(forest, self.layout), chosen) if routing else None
        return ResponseLogps(
            values.logps,
            forest.response_index,
            forest.num_tokens,
            ref_token_logps=values.ref_logps,
            log_collisions=values.log_collisions,
            entropies=values.entropies,
            ref_kls=values.ref_kls,
            ref_entropy_shares=values.ref_entropy_shares,
            router_loads=None if routers is None else routers.loads,
            router_probabilities=None if routers is None else routers.probabilities,
        )

    def values_of(self, inputs: Inputs, targets: Int[Tensor, " R"]) -> TokenValues:
        """The forward on arranged inputs, for the self-check; everyone else calls the module."""
        rows, _ = self._rows(inputs)
        return self._values(rows, targets, frozenset(), None)

    def _values(
        self, rows: Tensor, targets: Int[Tensor, " R"], extras: frozenset[Extra], beside: States | None
    ) -> TokenValues:
        return token_values(self.head, rows, self.get_output_embeddings(), targets, extras, beside)

    @torch.no_grad()
    def states(self, forest: Forest) -> States:
        """What this policy, as a reference, lends to the forward of another over the same forest: no gradient.

        Of its head it holds the tensors themselves where it is plain, and a copy where an adapter is part of it. A head
        of unknown shape lends its logits, rows × vocabulary.
        """
        forest = forest.to(self.device)
        self._refuse_too_long(forest)
        with self._autocast():
            rows, _ = self._rows(arrange(forest, self.layout))
        module = self.get_output_embeddings()
        match self.head.route:
            case "fused":
                return States(
                    rows, module.weight.detach(), None if module.bias is None else module.bias.detach(), self.head
                )
            case "module":
                return States(rows, *affine(module, rows.shape[1]), self.head)
            case "model":
                return States(rows, None, None, self.head)

    def _rows(self, inputs: Inputs, **asked: bool) -> tuple[Float[Tensor, "R D"], Any]:
        """What the head reads for each scored token; of a head of unknown shape, the model's own logits. And all that
        the model returned."""
        if self.head.route == "model":
            return own_logits(self.bare_model, inputs, **asked)
        output = self._body(inputs, **asked)
        return inputs.read(output[0]), output


def own_logits(model: Any, inputs: Inputs, **asked: bool) -> tuple[Float[Tensor, "R V"], Any]:
    """The model's own logits at the rows that predict, for heads of unknown shape; and all that it returned.

    Rows are named once each; a 1-D index serves every model that takes one, and repeats follow afterwards.
    """
    rows, repeat = torch.unique(inputs.predicts, return_inverse=True)
    keep = {"logits_to_keep": rows} if _keeps_rows(model, inputs) else {}
    output = model(**inputs.keywords, use_cache=False, **keep, **asked)
    logits: Tensor = output.logits.flatten(0, 1)
    if not keep:
        logits = logits.index_select(0, rows)
    return logits.index_select(0, repeat), output


def _keeps_rows(model: Any, inputs: Inputs) -> bool:
    """A 1-D index names columns, which are rows of the flattened batch only where the batch is one row."""
    one_row = len(inputs.keywords["input_ids"]) == 1
    return one_row and "logits_to_keep" in inspect.signature(model.forward).parameters
