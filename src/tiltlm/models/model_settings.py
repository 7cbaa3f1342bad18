"""What a user says about a model: where it is, how it computes, which part of it is trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tiltlm.core.errors import ConfigError
from tiltlm.logprobs.inputs import LayoutName


@dataclass(frozen=True)
class LoraSettings:
    """A low-rank adapter to train in place of the weights. There is no dropout: the forward shares prompts."""

    r: int = 16
    """Rank of the update B·A of each weight."""
    alpha: float = 32.0
    """The update is multiplied by alpha / r (alpha / √r with `rslora`)."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Names of the layers that get one, or `all-linear`: every linear layer but the head."""
    rslora: bool = False
    """Scale by alpha / √r: the size of an update then does not shrink with its rank."""

    seed: int = 0
    """Of the random start of A; B starts at zero, so the adapter changes nothing before the first step."""

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ConfigError(
                f"model.lora.r is {self.r}; a rank is at least 1", code="not_positive", key="model.lora.r"
            )
        if self.alpha <= 0:
            raise ConfigError(
                f"model.lora.alpha is {self.alpha}; it must be positive", code="not_positive", key="model.lora.alpha"
            )


@dataclass(frozen=True)
class ModelSettings:
    """Which model, and how its forward runs."""

    path: str
    """A model folder, a folder of a PEFT adapter (its base is loaded beneath it), or a name on the Hugging Face hub."""
    revision: str | None = None
    """Branch, tag or commit of a name on the hub."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Of the weights in memory. Training needs float32: small updates vanish in 16 bits. float64 is for checking."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Of matrix products. `auto`: bf16 where the device is faster with it (on a CPU a probe decides), else float32.
    Log-probabilities are float32 either way."""
    layout: Literal["auto"] | LayoutName = "auto"
    """How a batch is laid out: `shared` computes each prompt once, `packed` repeats it for each response, `padded` is
    a padded batch. `auto` takes the first that a self-check finds equal to separate forwards."""
    gradient_checkpointing: bool = False
    """Keep only the inputs of each layer and compute it again in the backward pass: less memory, a third more time."""
    activation_offload: bool = False
    """Hold these inputs in the host's memory until the backward pass needs them. On a GPU, with
    gradient_checkpointing; each is copied to the host and back."""
    compile: bool = False
    """Compile each decoder layer with `torch.compile` at its first call: half a minute once, for fewer and faster
    kernels afterwards (a step of width 384 on one CPU core: 5 %). Another length or layout compiles nothing again.
    Needs a compiler on the machine: Triton for CUDA, C++ for a CPU."""
    lora: LoraSettings | None = None
    """Train a new low-rank adapter instead of the weights."""
    adapter: str | None = None
    """Folder of a PEFT adapter to put on the model and continue to train."""
    trust_remote_code: bool = False
    """Run Python code that comes with a model. Only with a name on the hub and a revision, so that the code is a known
    one."""

    def __post_init__(self) -> None:
        if self.trust_remote_code and (self.revision is None or Path(self.path).exists()):
            raise ConfigError(
                "model.trust_remote_code runs code of others; it needs a named repository as model.path and "
                "model.revision, so that the code is a known one",
                code="unpinned_code",
                key="model.trust_remote_code",
            )
        if self.lora is not None and self.adapter is not None:
            raise ConfigError(
                "model.lora starts a new adapter and model.adapter continues one; name one of them",
                code="conflict",
                key="model.lora",
            )
        if self.activation_offload and not self.gradient_checkpointing:
            raise ConfigError(
                "model.activation_offload holds what checkpointing keeps of each layer; set "
                "model.gradient_checkpointing=true too",
                code="no_effect",
                key="model.activation_offload",
            )
        if self.precision == "bf16" and self.dtype == "float64":
            raise ConfigError(
                "model.precision=bf16 has no use for model.dtype=float64; choose one",
                code="conflict",
                key="model.precision",
            )
