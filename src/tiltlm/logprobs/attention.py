"""Attention over a forest: a function registered with transformers, so that models that use the hook share prompts.

Every response attends to its own prompt and to itself, as if each sequence had been run alone. Three routes compute
the same thing: scaled-dot-product attention segment by segment (any device), explicit scores where a model caps them
or has attention sinks, and one variable-length flash call with gathered keys (CUDA, 16 bits).
"""

import functools
import inspect
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from tiltlm.core.errors import ModelError
from tiltlm.logprobs.last_layer import announce_attention
from tiltlm.logprobs.layout import Layout

NAME = "tilt_forest"
"""Name in the registry. transformers dispatches on parts of names: this one must not hold flash, sdpa or
flex_attention. It has no mask function, so models hand over no mask of their own."""

_HARMLESS = frozenset(
    {
        "position_ids", "cache_position", "past_key_values", "position_embeddings", "use_cache", "output_attentions",
        "output_hidden_states", "output_router_logits", "return_dict", "logits_to_keep", "num_items_in_batch", "labels",
    }
)  # fmt: skip
"""Keywords that models pass along to every attention call and that do not change what it computes."""

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def forest_attention(
    module: nn.Module,
    query: Float[Tensor, "1 H T D"],
    key: Float[Tensor, "1 G T D"],
    value: Float[Tensor, "1 G T E"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    s_aux: Float[Tensor, " H"] | None = None,
    layout: Layout | None = None,
    **extras: object,
) -> tuple[Float[Tensor, "1 T H E"], None]:
    """The attention of every layer, under the signature of transformers' hook.

    Args:
        module: The attention layer that calls.
        query: Queries of the packed row; G ≤ H key and value heads, H a multiple of G.
        key: Keys, rotated already.
        value: Values; their width E may differ from D.
        attention_mask: None: the layout says who sees whom.
        scaling: Factor of the scores; None: 1/√D.
        dropout: 0: one draw for a shared prompt is not the draws of separate sequences.
        softcap: c: scores become c · tanh(score / c).
        sliding_window: W: a token sees the W positions up to its own.
        s_aux: Attention sinks, one logit a head, in the softmax but not in the sum.
        layout: The keyword of the model call.
        extras: Whatever else the model passes.

    Raises:
        ModelError: no layout, or something here that is not known to leave attention unchanged.
    """
    if layout is None:
        raise ModelError(
            f"{type(module).__name__} attends without a layout while packed attention is active: call the model "
            "through PolicyModule, or inside `stock_attention()`"
        )
    _refuse_unknown(module, attention_mask, dropout, extras)
    if query.shape[0] != 1 or query.shape[2] != layout.num_tokens or key.shape[2] != layout.num_tokens:
        raise ModelError(
            f"{type(module).__name__}: queries {tuple(query.shape)} and keys {tuple(key.shape)} do not match a packed "
            f"row of {layout.num_tokens} tokens; this architecture needs layout=padded"
        )
    layout.windows.append(sliding_window)
    announce_attention(module, layout)
    window = sliding_window if sliding_window is not None and sliding_window < layout.longest else None
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    query, key, value = _one_dtype(query, key, value)
    if softcap is not None or s_aux is not None:
        attend: Attend = functools.partial(_explicit, scale=scale, softcap=softcap, sinks=s_aux)
    elif _flash_serves(query, key, value):
        return _by_one_call(query, key, value, layout, window, scale), None
    else:
        attend = functools.partial(_fused, scale=scale)
    return _by_segment(query, key, value, layout, window, attend), None


def _refuse_unknown(
    module: nn.Module, attention_mask: Tensor | None, dropout: float, extras: Mapping[str, object]
) -> None:
    """Raise for anything that could change attention and is not honoured here."""
    name = type(module).__name__
    if attention_mask is not None:
        raise ModelError(
            f"{name} passes an attention mask of its own; packed attention cannot honour it: layout=padded"
        )
    if dropout:
        raise ModelError(f"{name} asks for attention dropout {dropout}; the forward needs dropout 0 everywhere")
    if extras.get("is_causal", getattr(module, "is_causal", True)) is False:
        raise ModelError(f"{name} is not causal; packed attention serves causal language models only")
    for keyword, given in extras.items():
        if keyword not in _HARMLESS and keyword != "is_causal" and given is not None and given is not False:
            raise ModelError(
                f"{name} passes `{keyword}` to its attention, which packed attention does not know and which may "
                "change the result: layout=padded"
            )


def _one_dtype(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The dtype of autocast where it is on: norms of queries and keys otherwise leave them wider than values."""
    device = tensors[0].device.type
    if torch.is_autocast_enabled(device):
        return tuple(t.to(torch.get_autocast_dtype(device)) for t in tensors)
    return tensors


def _by_segment(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: int | None, attend: Attend
) -> Float[Tensor, "1 T H E"]:
    """One call a segment. `split` and not slices: the backward of a slice fills a whole row with zeros."""
    queries, keys, values = (torch.split(t, layout.segments, dim=2) for t in (query, key, value))
    out = []
    for block, part in zip(layout.blocks(window, query.device), queries, strict=True):
        own = [keys[i] for i in block.keys], [values[i] for i in block.keys]
        k, v = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=2) for parts in own)
        out.append(attend(part, k, v, block.mask).transpose(1, 2))
    return torch.cat(out, dim=1)


def _fused(query: Tensor, key: Tensor, value: Tensor, mask: Bool[Tensor, "q k"] | None, scale: float) -> Tensor:
    """Torch's own attention. Off the CPU, grouped heads would fall to its slowest kernel."""
    grouped = query.shape[1] != key.shape[1]
    if grouped and query.device.type != "cpu":
        repeats = query.shape[1] // key.shape[1]
        key, value = (t.repeat_interleave(repeats, dim=1) for t in (key, value))
        grouped = False
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=grouped
    )


def _explicit(
    query: Float[Tensor, "1 H q D"],
    key: Float[Tensor, "1 G k D"],
    value: Float[Tensor, "1 G k E"],
    mask: Bool[Tensor, "q k"] | None,
    scale: float,
    softcap: float | None,
    sinks: Float[Tensor, " H"] | None,
) -> Float[Tensor, "1 H q E"]:
    """Scores written out, for what the fused kernels cannot do. Softmax in float32 at least."""
    heads, groups = query.shape[1], key.shape[1]
    grouped = torch.unflatten(query, 1, (groups, heads // groups))  # [1 G H/G q D]
    scores = torch.matmul(grouped, key.unsqueeze(2).transpose(-1, -2)) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is None:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)).masked_fill(~mask, float("-inf"))
    if sinks is not None:
        sink = sinks.to(scores.dtype).view(1, groups, -1, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat((scores, sink), dim=-1)
    weights = scores.softmax(dim=-1)[..., : key.shape[2]].to(value.dtype)
    return torch.matmul(weights, value.unsqueeze(2)).flatten(1, 2)


def _flash_serves(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether one variable-length call can do it here: CUDA, 16 bits, equal widths up to 256, and the probe passed."""
    return (
        query.device.type == "cuda"
        and query.dtype in (torch.float16, torch.bfloat16)
        and query.shape[-1] == key.shape[-1] == value.shape[-1] <= 256
        and flash_agrees(query.device, query.dtype)
    )


def _by_one_call(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: int | None, scale: float
) -> Float[Tensor, "1 T H D"]:
    """One flash call over all segments, keys gathered, the causal triangle aligned at the bottom right.

    Positions of a response continue from its prompt, so the kernel's window over gathered keys is one over positions.
    """
    from torch.nn.attention.varlen import varlen_attn

    gathered = layout.gathered(query.device)
    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
    out = varlen_attn(
        q.contiguous(),
        k.index_select(0, gathered.keys),
        v.index_select(0, gathered.keys),
        gathered.query_bounds,
        gathered.key_bounds,
        gathered.max_queries,
        gathered.max_keys,
        scale=scale,
        window_size=(window - 1 if window is not None else -1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(out, Tensor)
    return out.unsqueeze(0)


@functools.cache
def flash_agrees(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the variable-length kernel of this torch and device computes what the layout means.

    Kernels differ in where they align a causal triangle whose queries are fewer than its keys; a small random row with
    grouped heads and a window decides, against torch's own attention with a mask, value and gradient.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    if not {"window_size", "enable_gqa", "scale"} <= set(inspect.signature(varlen_attn).parameters):
        return False
    generator = torch.Generator().manual_seed(0)
    layout = Layout((9, 5), ((4, 1, 7), (3,)))
    draw = [torch.randn(1, heads, layout.num_tokens, 64, generator=generator) for heads in (4, 2, 2)]
    for window in (None, 4):
        routes: list[Callable[[Tensor, Tensor, Tensor], Tensor]] = [
            lambda q, k, v, w=window: _by_one_call(q, k, v, layout, w, 0.2),  # type: ignore[misc]
            lambda q, k, v, w=window: _by_segment(q, k, v, layout, w, functools.partial(_fused, scale=0.2)),  # type: ignore[misc]
        ]
        try:
            one_call, by_segment = (_value_and_gradients(r, [t.to(device, dtype) for t in draw]) for r in routes)
        except (RuntimeError, NotImplementedError):
            return False
        if not all(torch.allclose(a, b, atol=0.05, rtol=0.05) for a, b in zip(one_call, by_segment, strict=True)):
            return False
    return True


def _value_and_gradients(route: Callable[[Tensor, Tensor, Tensor], Tensor], qkv: list[Tensor]) -> list[Tensor]:
    query, key, value = (t.requires_grad_() for t in qkv)
    with torch.enable_grad():
        out = route(query, key, value)
        return [out, *torch.autograd.grad(out.square().sum(), (query, key, value))]


AttentionInterface.register(NAME, forest_attention)
