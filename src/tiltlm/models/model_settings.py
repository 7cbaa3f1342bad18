"""Settings of a model: where it is, how it computes, which part of it is trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tiltlm.core.checks import not_negative, positive, prefix_errors
from tiltlm.core.errors import ConfigError
from tiltlm.logprobs.layout_name import LayoutName


@dataclass(frozen=True)
class LoraSettings:
    """A low-rank adapter that is trained instead of the weights. It has no dropout: the forward shares prompts."""

    r: int = 16
    """Rank of the update B·A of each weight."""
    alpha: float = 32.0
    """The update is multiplied by alpha / r (alpha / √r with `rslora`)."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Names of the layers that get an adapter, or `all-linear`: every linear layer except the head."""
    rslora: bool = False
    """Scale by alpha / √r: then the size of an update does not shrink with its rank."""
    seed: int = 0
    """Seed of the random start of A. B starts at zero, so the adapter changes nothing before the first step."""

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ConfigError(
                f"model.lora.r is {self.r}; it must be at least 1", code="not_positive", key="model.lora.r"
            )
        with prefix_errors("model.lora"):
            positive(alpha=float(self.alpha))
            not_negative(seed=float(self.seed))


@dataclass(frozen=True)
class ModelSettings:
    """Settings of the model and of its forward."""

    path: str
    """A model folder, the folder of a PEFT adapter (its base is loaded too), or a name on the Hugging Face hub."""
    revision: str | None = None
    """Branch, tag or commit of a name on the hub."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """dtype of the weights in memory. Training needs float32: bfloat16 loses steps below 0.2 % of a weight. A warning
    then gives the share of weights that cannot move. Adapters stay float32. float64 is for checking."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Precision of matrix products. `auto`: bf16 where the device has matrix units for it (a GPU; a CPU with AMX), else
    float32. Log-probabilities are float32 in both cases."""
    layout: Literal["auto"] | LayoutName = "auto"
    """Layout of a batch. `shared` computes each prompt once, `packed` repeats it for each response, `padded` is a
    padded batch. `auto` uses the first one that a self-check finds equal to separate forwards. A name forces that
    layout: if its values or gradients deviate by up to a tenth of the largest, a warning says by how much.
    It is refused if sequences see each other in it."""
    gradient_checkpointing: bool = False
    """Keep only the inputs of each layer, and compute it again in the backward pass: less memory, a third more time."""
    activation_offload: bool = False
    """Hold these inputs in the host's memory until the backward pass needs them. Needs a GPU and
    gradient_checkpointing; each input is copied to the host and back."""
    compile: bool = False
    """Compile each decoder layer with `torch.compile` at its first call: half a minute once, for fewer and faster
    kernels afterwards (5 % of a step of width 384 on one CPU core). No other length or layout compiles again.
    Needs a compiler on the machine: Triton for CUDA, C++ for a CPU."""
    lora: LoraSettings | None = None
    """Train a new low-rank adapter instead of the weights."""
    adapter: str | None = None
    """Folder of a PEFT adapter to put on the model; its training is continued."""
    trust_remote_code: bool = False
    """Run Python code that comes with a model. Allowed only for a name on the hub with a revision, so that the code is
    known."""

    def __post_init__(self) -> None:
        if self.trust_remote_code and (self.revision is None or Path(self.path).exists()):
            raise ConfigError(
                "model.trust_remote_code runs code of the model's repository; it needs a name on the hub as model.path "
                "and a model.revision, so that the code is known",
                code="unpinned_code",
                key="model.trust_remote_code",
            )
        if self.lora is not None and self.adapter is not None:
            raise ConfigError(
                "model.lora starts a new adapter and model.adapter continues one; set only one of them",
                code="conflict",
                key="model.lora",
            )
        if self.activation_offload and not self.gradient_checkpointing:
            raise ConfigError(
                "model.activation_offload moves the inputs that gradient checkpointing keeps; set "
                "model.gradient_checkpointing=true too",
                code="no_effect",
                key="model.activation_offload",
            )
        if self.precision == "bf16" and self.dtype == "float64":
            raise ConfigError(
                "model.precision=bf16 would undo model.dtype=float64; set only one of them",
                code="conflict",
                key="model.precision",
            )
