"""Which way of computing attention serves here: the fastest whose values and gradients a probe finds right.

Kernels differ in where they align a causal triangle whose queries are fewer than its keys, in the widths they take,
and from one version of torch to the next. So nothing is assumed: on CUDA the variable-length call comes first and the
flex call second; torch's own attention segment by segment serves every device, and the others are compared with it.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tiltlm.logprobs.attention import flex, segments, varlen
from tiltlm.logprobs.attention.layout import Layout
from tiltlm.logprobs.attention.segments import Scores

SHORT = 256
"""Rows of fewer tokens are not worth a flex call: they are a few segments, and its compiler makes another kernel."""

PROBES = (Layout((150, 1), ((60, 1, 130), (3, 40))), Layout((9, 5, 300), ((4, 1, 7), (3,), (20,))))
"""Two rows of different lengths, neither short."""

Attend = Callable[[Tensor, Tensor, Tensor, Layout, int | None, Scores], Float[Tensor, "1 T H E"]]


@dataclass(frozen=True)
class Case:
    """All that the choice of a route may depend on."""

    device: torch.device
    dtype: torch.dtype
    heads: int
    groups: int
    """Heads of keys and values."""
    width: int
    value_width: int
    scale: float
    softcap: float | None
    has_sinks: bool
    is_short: bool = False
    """The row has fewer than `SHORT` tokens."""

    @classmethod
    def of(cls, query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> "Case":
        """The case of one attention call."""
        return cls(
            query.device,
            query.dtype,
            query.shape[1],
            key.shape[1],
            query.shape[-1],
            value.shape[-1],
            scores.scale,
            scores.softcap,
            scores.sinks is not None,
            query.shape[2] < SHORT,
        )


@dataclass(frozen=True)
class Route:
    """A way of computing attention, and why it is taken."""

    name: str
    attend: Attend
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@functools.cache
def route_of(case: Case) -> Route:
    """The route of a case, decided once: the first that can compute it and agrees with attention by segment."""
    passed: list[str] = []
    candidates = (
        ("one variable-length call", varlen.attend_varlen, not_varlen),
        ("one flex call", flex.attend_flex, not_flex),
    )
    for name, attend, refusal in candidates:
        wrong = refusal(case) or disagreement(attend, case)
        if not wrong:
            return Route(name, attend, "; ".join([*passed, "its probe equals attention segment by segment"]))
        passed.append(f"not {name}, {wrong}")
    return Route("segment by segment", segments.attend_segments, "; ".join(passed))


def not_varlen(case: Case) -> str:
    """Why the variable-length kernel cannot compute a case; "" if it can."""
    if case.device.type != "cuda":
        return "which needs CUDA"
    if not varlen.is_complete():
        return "which takes no window in this version of torch"
    if case.dtype not in (torch.float16, torch.bfloat16):
        return f"which has no {case.dtype}".replace("torch.", "")
    if case.softcap is not None or case.has_sinks:
        return "which has no soft cap and no sinks"
    if not case.width == case.value_width <= 256:
        return f"which needs keys and values of one width up to 256, not {case.width} and {case.value_width}"
    return ""


def not_flex(case: Case) -> str:
    """Why the flex kernel cannot compute a case; "" if it can."""
    if case.device.type != "cuda":
        return "which has a gradient on CUDA only"
    if case.is_short:
        return f"which is for rows of {SHORT} tokens and more"
    return "which has no float64" if case.dtype == torch.float64 else ""


def disagreement(attend: Attend, case: Case) -> str:
    """What is wrong with a route in this case, "" if nothing: value and gradients on small random rows, with a window
    and without, against attention by segment in float32.

    Rounding to 16 bits moves these numbers by 1 % of the largest; a wrong alignment by as much as they are.
    """
    allowed = 0.03 if case.dtype.itemsize == 2 else 5e-3  # float32 products may be TF32, where a program asks for it
    for layout in PROBES:
        inputs = _draw(case, layout)
        for window in (None, 4):
            try:
                found = _value_and_gradients(attend, case, inputs, layout, window)
            except Exception as failure:  # whatever a compiler or a kernel raises is a reason, not a crash
                return f"{type(failure).__name__}: {(str(failure).strip() or '?').splitlines()[0]}"
            wide = [t.float() for t in inputs]
            expected = _value_and_gradients(segments.attend_segments, case, wide, layout, window)
            pairs = zip(found, expected, strict=True)
            error = float(torch.stack([(one - other).abs().max() / other.abs().max() for one, other in pairs]).max())
            if not error <= allowed:
                return f"which is off by {error:.0e} of the largest value (> {allowed:.0e})"
    return ""


def _draw(case: Case, layout: Layout) -> list[Tensor]:
    """Query, key, value and sinks, the same on every device."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(case.heads, case.width), (case.groups, case.width), (case.groups, case.value_width)]
    # Heads lie side by side, as models have them.
    drawn = [torch.randn(1, layout.num_tokens, *shape, generator=generator).transpose(1, 2) for shape in shapes]
    drawn[0] *= case.width**-0.5 / case.scale  # so that scores are of size 1
    drawn += [torch.randn(case.heads, generator=generator)] * case.has_sinks
    return [t.to(case.device, case.dtype) for t in drawn]


def _value_and_gradients(
    attend: Attend, case: Case, inputs: list[Tensor], layout: Layout, window: int | None
) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in inputs]
    query, key, value, *sinks = leaves
    scores = Scores(case.scale, case.softcap, sinks[0] if sinks else None)
    fresh = Layout(layout.prompt_lengths, layout.branch_lengths)
    with torch.enable_grad(), torch.autocast(case.device.type, enabled=False):
        out = attend(query, key, value, fresh, window, scores)
        gradients = torch.autograd.grad(out.float().square().sum(), leaves)
    return [t.detach().float() for t in (out, *gradients)]
