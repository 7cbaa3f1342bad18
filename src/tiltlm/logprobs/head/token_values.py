"""Numbers per scored token from hidden states, computed in chunks so that memory does not hold rows × vocabulary.

Log-probabilities are always computed. Collisions, entropies and the KL divergence to a reference are computed on
request, from the same chunks of logits. Only rows that predict a scored token are read. For a plain linear head, this
module has its own autograd function; other heads are called in checkpointed chunks.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from tiltlm.core.errors import ConfigError, ModelError
from tiltlm.core.logps import OF_REFERENCE, Extra
from tiltlm.logprobs.head.states import Head, States, accumulate_product, float_dtype, product

KEEP_BYTES = 256 << 20
"""Logits of a pack up to this many bytes are kept for the backward pass (6·D·V flops a row), else recomputed (8)."""

MODULE_ROWS = 256
"""Rows of one checkpointed chunk."""


def chunk_rows(vocabulary: int) -> int:
    """Return the rows of one chunk: about 8 million logits fit into the CPU's cache and give fast products."""
    return min(1024, max(256, 2**23 // vocabulary))


class TokenValues(NamedTuple):
    """Numbers per scored token, float32 (float64 for a float64 model); None where not requested.

    `Extra` defines the extras. Gradient flows through `logps` and `ref_kls`.
    """

    logps: Float[Tensor, " R"]
    log_collisions: Float[Tensor, " R"] | None
    entropies: Float[Tensor, " R"] | None
    ref_logps: Float[Tensor, " R"] | None
    ref_kls: Float[Tensor, " R"] | None
    ref_entropy_shares: Float[Tensor, " R"] | None

    @property
    def extras(self) -> dict[Extra, Float[Tensor, " R"]]:
        """The requested extras of the distributions by name."""
        return {name: values for name in get_args(Extra) if (values := getattr(self, name, None)) is not None}


def token_values(
    head: Head,
    rows: Float[Tensor, "R D"],
    module: nn.Module,
    targets: Int[Tensor, " R"],
    extras: frozenset[Extra] = frozenset(),
    reference_states: States | None = None,
    chunk: int | None = None,
) -> TokenValues:
    """Return the log-probability of each target in nats (≤ 0), and the requested extras; differentiable.

    Row r is the state that predicts `targets[r]`. Gradient flows to the rows and to the head's parameters, none to
    `reference_states`.

    Args:
        head: The route, and the model's changes to its logits.
        rows: Hidden states, one per scored token; for route `model` the model's own logits, [R V].
        module: The model's head; route `model` does not use it.
        targets: Token ids.
        extras: Further numbers to compute.
        reference_states: The reference's states for the same targets. With an extra about the reference, its
            log-probabilities are computed too.
        chunk: Rows of a chunk; None means by the size of the vocabulary.

    Raises:
        ConfigError: an extra compares with a reference and `reference_states` is None.
        ModelError: the reference's vocabulary has another size.
    """
    reference = _reference(extras, reference_states, len(targets))
    with torch.autocast(rows.device.type, enabled=False):
        match head.route:
            case "fused":
                assert isinstance(module, nn.Linear)
                own = States(rows, module.weight, module.bias, head).for_products()
                return _fused(own, targets, extras, reference, chunk or chunk_rows(own.num_logits))
            case "module":
                dtype = float_dtype(module)
                return _checkpointed(
                    lambda part: head.transform(module(part.to(dtype))), rows, targets, extras, reference, chunk
                )
            case "model":
                return _checkpointed(lambda part: part, rows, targets, extras, reference, chunk)


def _reference(extras: frozenset[Extra], reference_states: States | None, num_rows: int) -> States | None:
    """Return the reference's states in the dtype of their products, or None where no extra needs them."""
    needed = sorted(extras & OF_REFERENCE)
    if not needed:
        return None
    if reference_states is None:
        raise ConfigError(
            f"{', '.join(needed)} compares whole distributions with a reference, which needs a reference with weights; "
            "set reference.name to initial, base or a model folder",
            code="needs_reference_weights",
            key="reference.name",
        )
    assert len(reference_states.rows) == num_rows, f"{len(reference_states.rows)} states, {num_rows} tokens"
    return reference_states.for_products()


def _refuse_other_vocabulary(num_logits: int, reference: States | None) -> None:
    if reference is not None and reference.num_logits != num_logits:
        raise ModelError(
            f"the reference has {reference.num_logits} logits per token and the policy {num_logits}; distributions "
            "over different vocabularies have no KL divergence. Name a reference with the policy's vocabulary size.",
            code="other_vocabulary",
            key="reference.name",
        )


def measured(
    targets: Int[Tensor, " r"],
    extras: frozenset[Extra],
    own: Float[Tensor, "r V"],
    reference: Float[Tensor, "r V"] | None = None,
) -> TokenValues:
    """Return the values of one chunk, from its log-probabilities over the vocabulary and the reference's.

    `log_collisions` = log Σ π², `entropies` = −Σ π log π, `ref_kls` = Σ π_ref (log π_ref − log π),
    `ref_entropy_shares` = −Σ π_ref log π_ref / log V. A token with reference probability 0 adds 0 to the divergence,
    whatever its probability under the policy.
    """
    columns = targets[:, None]
    ref_logps = ref_kls = ref_entropy_shares = None
    with torch.no_grad():
        log_collisions = torch.logsumexp(2 * own, dim=-1) if "log_collisions" in extras else None
        entropies = torch.special.entr(own.exp()).sum(-1) if "entropies" in extras else None
    if reference is not None:
        ref_logps, ref = reference.gather(1, columns)[:, 0], reference.exp()
        if "ref_entropy_shares" in extras:
            ref_entropy_shares = torch.special.entr(ref).sum(-1) / math.log(ref.shape[-1])
        if "ref_kls" in extras:
            ref_kls = (ref * (reference - own).masked_fill(ref == 0, 0.0)).sum(-1)  # −∞ − (−∞) is NaN
    return TokenValues(own.gather(1, columns)[:, 0], log_collisions, entropies, ref_logps, ref_kls, ref_entropy_shares)


def _joined(pieces: list[TokenValues]) -> TokenValues:
    """Concatenate the values of chunks."""
    return TokenValues(*(None if column[0] is None else torch.cat(column) for column in zip(*pieces, strict=True)))  # type: ignore[arg-type]


def _checkpointed(
    logits_of: Callable[[Tensor], Tensor],
    rows: Tensor,
    targets: Tensor,
    extras: frozenset[Extra],
    reference: States | None,
    chunk: int | None,
) -> TokenValues:
    """Compute values in chunks that autograd computes again in the backward pass."""

    def values(own: Tensor, part: slice) -> TokenValues:
        logits = logits_of(own)
        _refuse_other_vocabulary(logits.shape[1], reference)
        normalized = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
        with torch.no_grad():
            ref_normalized = None if reference is None else reference.log_softmax(part, targets[part])[0]
        return measured(targets[part], extras, normalized, ref_normalized)

    size = chunk or MODULE_ROWS
    parts = [slice(start, start + size) for start in range(0, len(rows), size)]
    # `split` and not slices: the backward of a slice fills all rows with zeros.
    pieces = zip(torch.split(rows, size), parts, strict=True)
    return _joined([checkpoint(values, own, part, use_reentrant=False) for own, part in pieces])


def _fused(own: States, targets: Tensor, extras: frozenset[Extra], reference: States | None, chunk: int) -> TokenValues:
    _refuse_other_vocabulary(own.num_logits, reference)
    wide = torch.promote_types(own.rows.dtype, torch.float32)
    num_sides = 2 if "ref_kls" in extras else 1
    size = num_sides * len(own.rows) * own.num_logits * torch.finfo(wide).bits // 8
    keep = torch.is_grad_enabled() and size <= KEEP_BYTES
    return TokenValues(
        *_Fused.apply(own.rows, own.weight, own.bias, targets, own.head, extras, reference, chunk, keep)  # type: ignore[no-untyped-call]
    )


class _Fused(torch.autograd.Function):
    """`measured` of log softmax(transform(rows · weightᵀ + bias)), chunk by chunk, with its own backward."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Float[Tensor, "R D"],
        weight: Float[Tensor, "V D"],
        bias: Float[Tensor, " V"] | None,
        targets: Int[Tensor, " R"],
        head: Head,
        extras: frozenset[Extra],
        reference: States | None,
        chunk: int,
        keep: bool,
    ) -> TokenValues:
        """Compute the values; save rows, heads and normalizers, and with `keep` the log-probabilities too."""
        sides = [States(rows, weight, bias, head)] + ([] if reference is None else [reference])
        differentiated = sides if "ref_kls" in extras else sides[:1]
        pieces, normalizers = [], []
        kept: list[Tensor] = []
        for start in range(0, len(rows), chunk):
            part = slice(start, start + chunk)
            normalized, constants = zip(*(side.log_softmax(part, targets[part]) for side in sides), strict=True)
            pieces.append(measured(targets[part], extras, *normalized))
            normalizers.append(torch.stack(constants))
            if keep:
                kept += normalized[: len(differentiated)]
        values = _joined(pieces)
        tensors = [t for side in differentiated for t in (side.rows, side.weight, side.bias)]
        ctx.save_for_backward(targets, torch.cat(normalizers, dim=1), *tensors, *kept)
        ctx.heads, ctx.chunk = [side.head for side in differentiated], chunk
        constant = (values.log_collisions, values.entropies, values.ref_logps, values.ref_entropy_shares)
        ctx.mark_non_differentiable(*(v for v in constant if v is not None))
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Float[Tensor, " R"] | None) -> tuple[Tensor | None, ...]:
        """Compute the gradients by rows, weight and bias, chunk by chunk."""
        targets, normalizers, *saved = ctx.saved_tensors
        num_sides, grad = len(ctx.heads), TokenValues(*grads)  # type: ignore[arg-type]
        tensors, kept = saved[: 3 * num_sides], saved[3 * num_sides :]
        columns = zip(tensors[::3], tensors[1::3], tensors[2::3], ctx.heads, strict=True)
        sides = [States(rows, weight, bias, head) for rows, weight, bias, head in columns]
        rows, weight, bias = tensors[:3]
        wide = normalizers.dtype
        wants_rows, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_rows = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device) if wants_rows else None
        # Summed over chunks in float32 or wider: in 16 bits the sum itself would round.
        grad_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device) if wants_weight else None
        grad_bias = torch.zeros(bias.shape, dtype=wide, device=bias.device) if wants_bias else None
        for index, start in enumerate(range(0, len(rows), ctx.chunk)):
            part = slice(start, start + ctx.chunk)
            if kept:
                normalized = kept[num_sides * index : num_sides * (index + 1)]
            else:
                constants = normalizers[:num_sides, part, None]
                normalized = [side.logits(part).sub_(c) for side, c in zip(sides, constants, strict=True)]
            curve = ctx.heads[0].curve(normalized[0], normalizers[0, part])
            softmaxes = [n.exp() if kept else n.exp_() for n in normalized]
            by_logps = grad.logps[part, None] * ctx.heads[0].scale
            by_kls = None if grad.ref_kls is None else grad.ref_kls[part, None] * ctx.heads[0].scale
            grad_logits = _by_logits(softmaxes, targets[part, None], by_logps, by_kls)
            if curve is not None:
                grad_logits.mul_(curve)
            narrow = grad_logits.to(weight.dtype)
            if grad_rows is not None:
                grad_rows[part] = product(narrow, weight)
            if grad_weight is not None:
                accumulate_product(grad_weight, narrow.t(), rows[part])
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
        return (
            grad_rows,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            *(None,) * 6,
        )


def _by_logits(
    softmaxes: Sequence[Float[Tensor, "r V"]],
    columns: Int[Tensor, "r 1"],
    by_logps: Float[Tensor, "r 1"],
    by_kls: Float[Tensor, "r 1"] | None,
) -> Float[Tensor, "r V"]:
    """Return the gradient by the transformed logits, from those by `logps` and `ref_kls`; overwrite the softmaxes.

    d logp = [target] − π and d ref_kl = π − π_ref, so each distribution is multiplied once.
    """
    if by_kls is None:
        grad_logits = softmaxes[0].mul_(-by_logps)
    else:
        own, reference = softmaxes
        grad_logits = own.mul_(by_kls - by_logps).sub_(reference.mul_(by_kls))
    return grad_logits.scatter_add_(1, columns, by_logps)
