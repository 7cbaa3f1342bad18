"""From hidden states to log-probabilities of targets, in float32, without ever holding rows × vocabulary for long.

Only rows that predict a scored token come here. Where the head is a plain linear layer, an autograd function of our
own works through them in chunks; how a model scales or caps its logits is found by comparing with the model's own.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

KEEP_BYTES = 256 << 20
"""Logits of a pack up to so many bytes are kept for the backward pass (6·D·V flops a row), else recomputed (8)."""

HeadRoute = Literal["fused", "module", "model"]


def chunk_rows(vocabulary: int) -> int:
    """Rows of one chunk: some 16 million logits, within the range where matrix products run at full speed."""
    return min(1024, max(256, 2**24 // vocabulary))


def _product(a: Float[Tensor, "n m"], b: Float[Tensor, "m k"]) -> Float[Tensor, "n k"]:
    """a @ b, accumulated and returned in float32 where the operands are 16 bits wide."""
    if a.dtype in (torch.float32, torch.float64):
        return a @ b
    if a.device.type == "cuda":
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


class _FusedLogps(torch.autograd.Function):
    """log softmax(transform(rows · weightᵀ + bias))[target], chunk by chunk, with its own backward."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Float[Tensor, "R D"],
        weight: Float[Tensor, "V D"],
        bias: Float[Tensor, " V"] | None,
        targets: Int[Tensor, " R"],
        head: "Head",
        chunk: int,
        keep: bool,
    ) -> Float[Tensor, " R"]:
        logps, normalizers, kept = [], [], []
        for start in range(0, len(rows), chunk):
            logits = head.transform(_logits(rows[start : start + chunk], weight, bias))
            columns = targets[start : start + chunk, None]
            chosen = logits.gather(1, columns)
            normalized = torch.log_softmax(logits, dim=-1)
            logp = normalized.gather(1, columns)
            logps.append(logp[:, 0])
            normalizers.append((chosen - logp)[:, 0])
            if keep:
                kept.append(normalized)
        ctx.save_for_backward(rows, weight, bias, targets, torch.cat(normalizers), *kept)
        ctx.head, ctx.chunk = head, chunk
        return torch.cat(logps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Float[Tensor, " R"]) -> tuple[Tensor | None, ...]:
        rows, weight, bias, targets, normalizers, *kept = ctx.saved_tensors
        wide = normalizers.dtype
        wants_rows, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_rows = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device) if wants_rows else None
        # Summed over chunks in the wide dtype: in 16 bits the sum itself would round.
        grad_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device) if wants_weight else None
        grad_bias = torch.zeros(bias.shape, dtype=wide, device=bias.device) if wants_bias else None
        for index, start in enumerate(range(0, len(rows), ctx.chunk)):
            part = slice(start, start + ctx.chunk)
            if kept:
                normalized = kept[index]
            else:
                normalized = ctx.head.transform(_logits(rows[part], weight, bias)).sub_(normalizers[part, None])
            curve = ctx.head.curve(normalized, normalizers[part])
            # d logp / d transformed logit = [target] − softmax
            grad_logits = normalized.exp() if kept else normalized.exp_()
            slope = grad[part, None] * ctx.head.scale
            grad_logits.mul_(-slope).scatter_add_(1, targets[part, None], slope)
            if curve is not None:
                grad_logits.mul_(curve)
            narrow = grad_logits.to(weight.dtype)
            if grad_rows is not None:
                grad_rows[part] = _product(narrow, weight)
            if grad_weight is not None:
                grad_weight += _product(narrow.t(), rows[part])
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
        return (
            grad_rows,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            *(None,) * 4,
        )


def _logits(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    logits = _product(rows, weight.t())
    return logits if bias is None else logits.add_(bias)


@dataclass(frozen=True)
class Head:
    """How hidden states become log-probabilities: the route, and what the model does to its logits."""

    route: HeadRoute = "fused"
    """`fused`: plain linear head, own chunks. `module`: the head is called in checkpointed chunks (adapters on it).
    `model`: unknown transforms; the model's own logits at the response rows."""
    scale: float = 1.0
    """Logits are multiplied by this, bias included."""
    softcap: float | None = None
    """c: scaled logits become c · tanh(logit / c)."""

    def transform(self, logits: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        """What the model does to the output of its head."""
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits

    def curve(self, normalized: Float[Tensor, "R V"], normalizers: Float[Tensor, " R"]) -> Float[Tensor, "R V"] | None:
        """Derivative of the soft cap, from its value = normalized + normalizer; None: 1 everywhere."""
        if self.softcap is None:
            return None
        return 1 - ((normalized + normalizers[:, None]) / self.softcap) ** 2

    def logps(
        self, rows: Float[Tensor, "R D"], module: nn.Module, targets: Int[Tensor, " R"], chunk: int | None = None
    ) -> Float[Tensor, " R"]:
        """Log-probability of each target, in nats (≤ 0), float32 (float64 for float64 rows), differentiable.

        Row r is the state that predicts `targets[r]`. Gradient flows to the rows and to the head's parameters.

        Args:
            rows: Hidden states, one per scored token.
            module: The head.
            targets: Token ids.
            chunk: Rows of a chunk; None: by the size of the vocabulary.
        """
        with torch.autocast(rows.device.type, enabled=False):
            if self.route == "fused":
                assert isinstance(module, nn.Linear)
                return self._fused(rows, module, targets, chunk or chunk_rows(module.out_features))
            return self._by_module(rows, module, targets, chunk or 256)

    def _fused(self, rows: Tensor, module: nn.Linear, targets: Tensor, chunk: int) -> Tensor:
        weight, bias = module.weight, module.bias
        wide = torch.promote_types(rows.dtype, torch.float32)
        narrow = rows.device.type == "cuda" and rows.dtype in (torch.float16, torch.bfloat16)
        operand = rows.dtype if narrow else torch.promote_types(wide, weight.dtype)
        size = len(rows) * module.out_features * torch.finfo(wide).bits // 8
        keep = torch.is_grad_enabled() and size <= KEEP_BYTES
        logps: Tensor = _FusedLogps.apply(  # type: ignore[no-untyped-call]
            rows.to(operand), weight.to(operand), bias, targets, self, chunk, keep
        )
        return logps

    def _by_module(self, rows: Tensor, module: nn.Module, targets: Tensor, chunk: int) -> Tensor:
        dtype = next(module.parameters()).dtype

        def logps(part: Tensor, target: Tensor) -> Tensor:
            return select_logps(self.transform(module(part.to(dtype))), target)

        parts = zip(torch.split(rows, chunk), torch.split(targets, chunk), strict=True)
        return torch.cat([checkpoint(logps, part, target, use_reentrant=False) for part, target in parts])


def select_logps(logits: Float[Tensor, "R V"], targets: Int[Tensor, " R"]) -> Float[Tensor, " R"]:
    """log softmax of each row at its target, in float32 at least."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.log_softmax(logits, dim=-1).gather(1, targets[:, None])[:, 0]


def find_head(model: Any) -> Head:
    """The head of a causal language model, found by comparison with the model's own logits.

    Random hidden states, scaled until the head's raw logits reach 50 (on small logits a missing soft cap hides), are
    put before the model's head. The configuration's keys propose scales, in either direction; the proposal that gives
    the model's logits is taken. If none does, or the head does not read the base model's output: route `model`.
    """
    module = model.get_output_embeddings()
    width = getattr(module, "in_features", None)
    if width is None:
        return Head("model")
    parameter = next(module.parameters())
    dtype = parameter.dtype if parameter.is_floating_point() else torch.float32
    with torch.no_grad(), torch.autocast(parameter.device.type, enabled=False):
        states = torch.randn(8, width, generator=torch.Generator().manual_seed(0)).to(parameter.device, dtype)
        states *= 50 / (module(states) - module(torch.zeros_like(states))).abs().max()
        theirs = _own_logits(model, module, states)
        if theirs is None:
            return Head("model")
        raw = module(states).double()
        route: HeadRoute = "fused" if type(module) is nn.Linear else "module"
        errors = {h: float((h.transform(raw) - theirs.double()).abs().max()) for h in _proposals(model, route)}
    best = min(errors, key=errors.__getitem__)
    return best if errors[best] <= 200 * torch.finfo(theirs.dtype).eps else Head("model")


def _proposals(model: Any, route: HeadRoute) -> list[Head]:
    """Every scale and soft cap that the configuration's known keys could mean."""
    config = model.config.get_text_config()
    scales = [1.0]
    for key in ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier"):
        number = getattr(config, key, None)
        if number:
            scales += [float(number), 1 / float(number)]
    softcap = getattr(config, "final_logit_softcapping", None)
    return [Head(route, scale, cap) for scale in dict.fromkeys(scales) for cap in dict.fromkeys((None, softcap))]


def _own_logits(model: Any, module: nn.Module, states: Float[Tensor, "n D"]) -> Float[Tensor, "n V"] | None:
    """The model's logits if `states` came to its head; None where its head is not called with the base's output."""
    met: list[Tensor] = []

    def put(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        met.append(args[0])
        return (states[None], *args[1:])

    ids = torch.arange(len(states), device=states.device)[None] % model.get_input_embeddings().num_embeddings
    handle = module.register_forward_pre_hook(put)
    try:
        logits = model(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
    hidden = model.base_model(input_ids=ids, use_cache=False)[0]
    same = len(met) == 1 and met[0].shape == hidden.shape and torch.allclose(met[0], hidden, rtol=1e-3, atol=1e-4)
    return logits[0] if same else None
