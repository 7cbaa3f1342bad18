"""The model of a run without its weights: built from config.json alone, with adapters, layout and checkpointing.

It is the module that training calls, on tensors without memory. Only `lengths.py` and `trace.py` read it.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from tiltlm.core.errors import ModelError
from tiltlm.logprobs.checkpointing import enable_checkpointing
from tiltlm.logprobs.head.states import Head
from tiltlm.logprobs.module import ForestModule
from tiltlm.logprobs.policy import PolicyModule
from tiltlm.logprobs.precision import Precision
from tiltlm.logprobs.scoring import ScoreModule
from tiltlm.logprobs.selfcheck import check_bytes
from tiltlm.models.adapters import put_adapter
from tiltlm.models.folders import Located, locate
from tiltlm.models.model_settings import ModelSettings

SMALL_STATE = 4096
"""Tensors with fewer numbers keep 32-bit moments under the 8-bit optimiser (`training/optim/quantised.py`)."""


@dataclass(frozen=True)
class Blueprint:
    """What decides the shapes of a model."""

    config: Any
    """transformers' configuration."""
    settings: ModelSettings
    precision: Precision
    is_scorer: bool = False
    """True for a reward model."""
    located: Located | None = None
    """Names a saved adapter; None: there is none."""

    @property
    def text_config(self) -> Any:
        """The configuration of the language model."""
        return self.config.get_text_config()

    @property
    def depth(self) -> int:
        """Number of layers."""
        return int(self.text_config.num_hidden_layers)

    @property
    def vocabulary(self) -> int:
        """Number of embeddings."""
        return int(self.text_config.vocab_size)

    def with_depth(self, depth: int) -> "Blueprint":
        """Return the same model with fewer layers."""
        config = copy.deepcopy(self.config)
        text = config.get_text_config()
        text.num_hidden_layers = depth
        kinds = getattr(text, "layer_types", None)
        if kinds is not None:
            text.layer_types = list(kinds)[:depth]
        return replace(self, config=config)

    def build(self) -> ForestModule:
        """Build the module; call it inside `without_memory`.

        Raises:
            ModelError: transformers has no such model.
        """
        with torch.device("meta"):  # PEFT moves its tensors, which tensors of a fake device do not allow
            model = self._model()
        _give_device(model)
        if self.settings.gradient_checkpointing:
            enable_checkpointing(model)
        layout = "shared" if self.settings.layout == "auto" else self.settings.layout
        if self.is_scorer:
            return ScoreModule(model, layout, self.precision)
        head = Head("fused" if type(model.get_output_embeddings()) is nn.Linear else "module")
        return PolicyModule(model, layout, self.precision, head)

    def _model(self) -> Any:
        """Return the model with its adapter, on the meta device."""
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

        config = copy.deepcopy(self.config)
        kind = AutoModelForSequenceClassification if self.is_scorer else AutoModelForCausalLM
        if self.is_scorer:
            config.num_labels = 1
        try:
            model = kind.from_config(  # type: ignore[no-untyped-call]
                config,
                dtype=getattr(torch, self.settings.dtype),
                trust_remote_code=self.settings.trust_remote_code,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"model.path: no model can be built from this configuration: {str(error).splitlines()[0]}",
                code="config_not_readable",
                key="model.path",
            ) from error
        return self._with_adapter(model).eval()

    def _with_adapter(self, model: Any) -> Any:
        """Put the new or the saved adapter on the model; a saved one without its weights."""
        task = "SEQ_CLS" if self.is_scorer else "CAUSAL_LM"
        located = self.located
        if located is None or located.adapter is None:
            bare = Located("", None, "", True)
            return put_adapter(model, bare, self.settings.lora, task)
        import peft

        adapter = peft.PeftConfig.from_pretrained(located.adapter)
        adapter.inference_mode = False
        return peft.get_peft_model(model, adapter)


def read_blueprint(settings: ModelSettings, precision: Precision, is_scorer: bool) -> Blueprint:
    """Read the configuration of a model.

    Args:
        settings: The model.
        precision: Of its products.
        is_scorer: True for a reward model.
    """
    from transformers import AutoConfig

    located = locate(settings.path, settings.adapter)
    config = AutoConfig.from_pretrained(
        located.base,
        revision=None if located.is_folder else settings.revision,
        trust_remote_code=settings.trust_remote_code,
    )
    return Blueprint(config, settings, precision, is_scorer, located)


@dataclass(frozen=True)
class Parameters:
    """The parameters of a model, counted."""

    total: int
    trained: int
    num_bytes: int
    """Of all weights in memory."""
    trained_bytes: int
    """Of the trained ones."""
    small_state: int
    """Trained numbers whose moments keep 32 bits under the 8-bit optimiser: embeddings and small tensors."""
    layer_bytes: int
    """Of the largest decoder layer."""
    sizes: tuple[int, ...]
    """Bytes of each trained tensor."""
    check_bytes: int
    """Of the check that chooses the layout, beside the weights."""

    @classmethod
    def of(cls, module: ForestModule) -> "Parameters":
        """Count the parameters of a module; a tied one counts once."""
        own = list(module.parameters())
        trained = [p for p in own if p.requires_grad]
        embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
        names = set(module._no_split_modules or ())
        layers = [m for m in module.modules() if type(m).__name__ in names]
        return cls(
            total=sum(p.numel() for p in own),
            trained=sum(p.numel() for p in trained),
            num_bytes=_bytes(own),
            trained_bytes=_bytes(trained),
            small_state=sum(p.numel() for p in trained if id(p) in embeddings or p.numel() < SMALL_STATE),
            layer_bytes=max((_bytes(list(m.parameters())) for m in layers), default=0),
            sizes=tuple(p.numel() * p.element_size() for p in trained),
            check_bytes=check_bytes(own),
        )

    def state_bytes(self, optimizer: str) -> int:
        """Return the bytes of the optimiser's two moments."""
        if optimizer == "adamw":
            return 2 * self.trained_bytes
        narrow = self.trained - self.small_state
        # One code a number and moment, and one float32 for each block of 256.
        return 8 * self.small_state + 2 * narrow + 2 * 4 * -(-narrow // 256)


def _bytes(parameters: Sequence[nn.Parameter]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)


def _give_device(model: nn.Module) -> None:
    """Replace every tensor on the meta device by one on the CPU; a tied one stays one."""
    made: dict[torch.Tensor, Any] = {}
    for module in model.modules():
        for tensors, kind in ((module._parameters, nn.Parameter), (module._buffers, None)):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if tensor not in made:
                    new = torch.empty(tensor.shape, dtype=tensor.dtype)
                    made[tensor] = new if kind is None else kind(new, tensor.requires_grad)
                tensors[name] = made[tensor]


def config_of(kind: str, values: Mapping[str, Any]) -> Any:
    """Return a configuration of transformers from the content of a config.json, without a file."""
    from transformers import AutoConfig

    return AutoConfig.for_model(kind, **values)
