"""Hidden states with the head that reads them, as plain tensors: distributions over the vocabulary, a chunk at a time.

The policy's own side of the fused route, and all that a forward needs of a reference to compare whole distributions.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tiltlm.logprobs.head.find import Head


@dataclass(frozen=True, eq=False)
class States:
    """R rows, one per scored token, and what turns them into logits."""

    rows: Float[Tensor, "R D"]
    """Row r predicts scored token r."""
    weight: Float[Tensor, "V D"] | None
    """Of the head; None: the rows are the model's own logits already, [R V]."""
    bias: Float[Tensor, " V"] | None
    head: Head
    """Whose scale and soft cap apply."""

    @property
    def num_logits(self) -> int:
        """V, the size of the vocabulary."""
        return len(self.weight) if self.weight is not None else self.rows.shape[1]

    def for_products(self) -> "States":
        """The same in the dtype of its matrix products: 16 bits only where they accumulate in float32, on CUDA."""
        wide = torch.promote_types(self.rows.dtype, torch.float32)
        if self.weight is None:
            return replace(self, rows=self.rows.to(wide))
        narrow = self.rows.device.type == "cuda" and self.rows.dtype in (torch.float16, torch.bfloat16)
        operand = self.rows.dtype if narrow else torch.promote_types(wide, self.weight.dtype)
        return replace(self, rows=self.rows.to(operand), weight=self.weight.to(operand))

    def logits(self, part: slice) -> Float[Tensor, "r V"]:
        """Logits of some rows after scale and soft cap, the caller's to write into. Float32 at least."""
        if self.weight is None:
            return self.head.transform(self.rows[part].clone())
        logits = product(self.rows[part], self.weight.t())
        return self.head.transform(logits if self.bias is None else logits.add_(self.bias))

    def log_softmax(self, part: slice, targets: Int[Tensor, " r"]) -> tuple[Float[Tensor, "r V"], Float[Tensor, " r"]]:
        """Log-probabilities of the whole vocabulary in nats, and the normalizer that was subtracted from the logits."""
        logits, columns = self.logits(part), targets[:, None]
        normalized = torch.log_softmax(logits, dim=-1)
        return normalized, (logits.gather(1, columns) - normalized.gather(1, columns))[:, 0]


def product(a: Float[Tensor, "n m"], b: Float[Tensor, "m k"]) -> Float[Tensor, "n k"]:
    """a @ b, accumulated and returned in float32 where the operands are 16 bits wide."""
    if a.dtype in (torch.float32, torch.float64):
        return a @ b
    if a.device.type == "cuda":
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def accumulate_product(total: Float[Tensor, "n k"], a: Float[Tensor, "n m"], b: Float[Tensor, "m k"]) -> None:
    """total += a @ b in the dtype of the total, without a product beside it where no operand must be widened."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += product(a, b)


def float_dtype(module: nn.Module) -> torch.dtype:
    """The dtype that a head wants to read; a quantised one reads float32."""
    dtype = next(module.parameters()).dtype
    return dtype if dtype.is_floating_point else torch.float32


def affine(module: nn.Module, width: int) -> tuple[Float[Tensor, "V D"], Float[Tensor, " V"]]:
    """Weight and bias of a head as it is at this moment, adapters on or off: its values at the unit vectors and at 0.

    Costs D rows through the head, and a copy of its weight.
    """
    device, dtype = next(module.parameters()).device, float_dtype(module)
    with torch.no_grad():
        bias = module(torch.zeros(1, width, device=device, dtype=dtype))[0]
        wide = torch.promote_types(bias.dtype, torch.float32)
        columns = module(torch.eye(width, device=device, dtype=dtype)).to(wide).sub_(bias)
    return columns.t().to(bias.dtype), bias
