"""`PolicyModule`: the one forward, from a forest to one log-probability per scored token.

Trainer, reference, scoring and evaluation all call it, through the root that data parallelism wraps (see `module.py`).
"""

import inspect
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiltlm.core.errors import ConfigError, ModelError
from tiltlm.core.forest import Forest
from tiltlm.core.logps import Extra, ResponseLogps
from tiltlm.logprobs.experts import count, experts_per_token, sequence_counts
from tiltlm.logprobs.head.find import find_head
from tiltlm.logprobs.head.states import Head, States, affine
from tiltlm.logprobs.head.token_values import TokenValues, token_values
from tiltlm.logprobs.head.value_head import ValueHead
from tiltlm.logprobs.inputs import Inputs, arrange
from tiltlm.logprobs.layout_name import LayoutName
from tiltlm.logprobs.module import ForestModule
from tiltlm.logprobs.precision import Precision


class PolicyModule(ForestModule):
    """A causal language model as a function from forests to log-probabilities."""

    forward_methods = ("attention_routes", "states", "language_model")

    def __init__(
        self,
        model: Any,
        layout: LayoutName = "shared",
        precision: Precision = "float32",
        head: Head | None = None,
        trims: bool = True,
    ) -> None:
        """Wrap a loaded model and switch its attention implementation to the one that the layout needs.

        Args:
            model: A transformers causal language model, or a PEFT model around one.
            layout: `shared`: each prompt once. `packed`: one row, prompts repeated. `padded`: a batch, stock attention.
            precision: `float32`: the dtype of the weights, no autocast. `bf16`: matrix products under autocast.
            head: How hidden states become log-probabilities; None means that a probe finds it.
            trims: In a shared row, the last layer skips what is not read (`last_layer.py`).
        """
        super().__init__(model, layout, precision, trims)
        self.head = head or find_head(self.bare_model)
        self.value_head: ValueHead | None = None
        self._lay_out()

    def add_value_head(self, *, shares_body: bool = False) -> None:
        """Add the value head of a critic, which is trained with the policy and not saved with its model.

        Args:
            shares_body: Let the gradient of the values reach the policy's own layers.

        Raises:
            ModelError: the policy computes its own logits, so there are no states to read.
        """
        if self.head.route == "model":
            raise ModelError(
                f"{type(self.bare_model).__name__} computes its logits in a way of its own, so a critic has no states "
                "to read; use an objective without a critic, such as grpo or rloo",
                code="no_states",
                key="model.path",
            )
        self.value_head = ValueHead(self.config.get_text_config().hidden_size, shares_body, self.device)

    def forward(
        self,
        forest: Forest,
        extras: frozenset[Extra] = frozenset(),
        reference_states: States | None = None,
        routing: bool = False,
    ) -> ResponseLogps:
        """Return the log-probability of every scored token, in nats, with gradient.

        Values and gradients are those of separate, unpadded forwards. Values are float32, or float64 for a float64
        model.

        Args:
            forest: The responses.
            extras: Further numbers to compute per scored token.
            reference_states: The reference's states for this forest, where an extra reads them. The result then
                contains the reference's log-probabilities too.
            routing: Also count what the routers of a mixture of experts do. The last layer then computes every token.

        Raises:
            ModelError: a sequence is too long, the reference's vocabulary has another size, or there are no routers.
            ConfigError: an extra reads the reference's states and `reference_states` is None, or the value head and
                there is none.
        """
        forest = forest.to(self.device)
        self._refuse_too_long(forest)
        chosen = experts_per_token(self.bare_model) if routing else 0
        options = {"output_router_logits": True} if routing else {}
        with self._autocast():
            rows, output = self._rows(arrange(forest, self.layout, whole=routing), **options)
            head = self.get_output_embeddings()
            values = token_values(self.head, rows, head, forest.targets, extras, reference_states)
        of_critic: dict[Extra, Tensor] = {"values": self._value_head()(rows)} if "values" in extras else {}
        routers = count(output.router_logits, sequence_counts(forest, self.layout), chosen) if routing else None
        return ResponseLogps(
            values.logps,
            forest.response_index,
            forest.num_tokens,
            ref_token_logps=values.ref_logps,
            extras={**values.extras, **of_critic},
            router_loads=None if routers is None else routers.loads,
            router_probabilities=None if routers is None else routers.probabilities,
        )

    def _value_head(self) -> ValueHead:
        if self.value_head is None:
            raise ConfigError(
                "this objective has a critic, and the policy has no value head; `tiltlm loop` adds one",
                code="no_value_head",
                key="objective",
            )
        return self.value_head

    def values_of(self, inputs: Inputs, targets: Int[Tensor, " R"]) -> TokenValues:
        """Run the forward on arranged inputs, for the self-check; all others call the module."""
        rows, _ = self._rows(inputs)
        return token_values(self.head, rows, self.get_output_embeddings(), targets)

    @torch.no_grad()
    def states(self, forest: Forest) -> States:
        """Return what the forward of another policy over the same forest needs of this reference; no gradient.

        It contains the tensors of a plain head themselves, and a copy of a head with an adapter. For a head of unknown
        shape it contains the logits, rows × vocabulary.
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

    def language_model(self, **keywords: Any) -> Any:
        """Call the transformers model with its own keywords, for decoding with a cache, and return its output.

        Call it inside `stock_attention`. Do not call the child `model` instead: the weights of
        a sharded policy would not be gathered for it.
        """
        return self.model(**keywords)

    def _rows(self, inputs: Inputs, **options: bool) -> tuple[Float[Tensor, "R D"], Any]:
        """Return the state that the head reads for each scored token, and the model's output.

        For a head of unknown shape, return the model's own logits instead of states.
        """
        if self.head.route == "model":
            return own_logits(self.bare_model, inputs, **options)
        output = self._body(inputs, **options)
        return inputs.read(output[0]), output


def own_logits(model: Any, inputs: Inputs, **options: bool) -> tuple[Float[Tensor, "R V"], Any]:
    """Return the model's own logits at the rows that predict, for heads of unknown shape, and the model's output.

    The model computes each of these rows once; rows that predict several tokens are repeated afterwards.
    """
    rows, repeat = torch.unique(inputs.predicts, return_inverse=True)
    keep = {"logits_to_keep": rows} if _keeps_rows(model, inputs) else {}
    output = model(**inputs.keywords, use_cache=False, **keep, **options)
    logits: Tensor = output.logits.flatten(0, 1)
    if not keep:
        logits = logits.index_select(0, rows)
    return logits.index_select(0, repeat), output


def _keeps_rows(model: Any, inputs: Inputs) -> bool:
    """Return whether the model can compute logits at these rows only.

    Its option selects columns. They are rows of the flattened batch only where the batch has one row.
    """
    one_row = len(inputs.keywords["input_ids"]) == 1
    return one_row and "logits_to_keep" in inspect.signature(model.forward).parameters
