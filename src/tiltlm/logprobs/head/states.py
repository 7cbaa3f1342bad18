"""Hidden states with their head as plain tensors: distributions over the vocabulary, a chunk at a time.

The fused route computes the policy's distributions from them. They are also all that a forward needs of a reference to
compare whole distributions.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

HeadRoute = Literal["fused", "module", "model"]


@dataclass(frozen=True)
class Head:
    """The way from hidden states to log-probabilities: the route, and the model's changes to its logits."""

    route: HeadRoute = "fused"
    """`fused`: a plain linear head, in chunks of our own. `module`: the head is called in checkpointed chunks (adapters
    on it). `model`: unknown transforms; the model's own logits at the rows that predict."""
    scale: float = 1.0
    """Factor of the logits, bias included."""
    softcap: float | None = None
    """c: scaled logits become c · tanh(logit / c)."""

    def transform(self, logits: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        """Apply the model's scale and soft cap to the output of its head."""
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits

    def curve(self, normalized: Float[Tensor, "R V"], normalizers: Float[Tensor, " R"]) -> Float[Tensor, "R V"] | None:
        """Return the derivative of the soft cap, from its value = normalized + normalizer; None means 1 everywhere."""
        if self.softcap is None:
            return None
        return 1 - ((normalized + normalizers[:, None]) / self.softcap) ** 2


@dataclass(frozen=True, eq=False)
class States:
    """R rows, one per scored token, and the head that turns them into logits."""

    rows: Float[Tensor, "R D"]
    """Row r predicts scored token r."""
    weight: Float[Tensor, "V D"] | None
    """Weight of the head. None: the rows are the model's own logits already, [R V]."""
    bias: Float[Tensor, " V"] | None
    """Bias of the head, if it has one."""
    head: Head
    """Scale and soft cap of the logits."""

    @property
    def num_logits(self) -> int:
        """V, the size of the vocabulary."""
        return len(self.weight) if self.weight is not None else self.rows.shape[1]

    def for_products(self) -> "States":
        """Cast to the dtype of the matrix products: 16 bits only on CUDA, where they accumulate in float32."""
        wide = torch.promote_types(self.rows.dtype, torch.float32)
        if self.weight is None:
            return replace(self, rows=self.rows.to(wide))
        narrow = self.rows.device.type == "cuda" and self.rows.dtype in (torch.float16, torch.bfloat16)
        operand = self.rows.dtype if narrow else torch.promote_types(wide, self.weight.dtype)
        return replace(self, rows=self.rows.to(operand), weight=self.weight.to(operand))

    def logits(self, part: slice) -> Float[Tensor, "r V"]:
        """Return new logits of some rows after scale and soft cap, float32 at least; the caller may change them."""
        if self.weight is None:
            return self.head.transform(self.rows[part].clone())
        logits = product(self.rows[part], self.weight.t())
        return self.head.transform(logits if self.bias is None else logits.add_(self.bias))

    def log_softmax(self, part: slice, targets: Int[Tensor, " r"]) -> tuple[Float[Tensor, "r V"], Float[Tensor, " r"]]:
        """Return log-probabilities of the whole vocabulary in nats, and the normalizer subtracted from the logits."""
        logits, columns = self.logits(part), targets[:, None]
        normalized = torch.log_softmax(logits, dim=-1)
        return normalized, (logits.gather(1, columns) - normalized.gather(1, columns))[:, 0]


def product(a: Float[Tensor, "n m"], b: Float[Tensor, "m k"]) -> Float[Tensor, "n k"]:
    """Return a @ b, accumulated and returned in float32 where the operands have 16 bits."""
    if a.dtype in (torch.float32, torch.float64):
        return a @ b
    if a.device.type == "cuda":
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def accumulate_product(total: Float[Tensor, "n k"], a: Float[Tensor, "n m"], b: Float[Tensor, "m k"]) -> None:
    """Add a @ b to the total in its dtype, without memory for the product where no operand must be cast."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += product(a, b)


def float_dtype(module: nn.Module) -> torch.dtype:
    """Return the dtype that a head reads; a quantised head reads float32."""
    dtype = next(module.parameters()).dtype
    return dtype if dtype.is_floating_point else torch.float32


def affine(module: nn.Module, width: int) -> tuple[Float[Tensor, "V D"], Float[Tensor, " V"]]:
    """Return weight and bias of a head in its present state, with adapters on or off.

    They are its values at the unit vectors and at 0. This costs D rows through the head, and a copy of its weight.
    """
    device, dtype = next(module.parameters()).device, float_dtype(module)
    with torch.no_grad():
        bias = module(torch.zeros(1, width, device=device, dtype=dtype))[0]
        wide = torch.promote_types(bias.dtype, torch.float32)
        columns = module(torch.eye(width, device=device, dtype=dtype)).to(wide).sub_(bias)
    return columns.t().to(bias.dtype), bias
