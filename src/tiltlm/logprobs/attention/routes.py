"""The choice between ways to compute attention: the fastest one whose values and gradients a probe finds right.

Kernels differ in where they align a causal triangle whose queries are fewer than its keys, in the widths they take,
and from one version of torch to the next. So nothing is assumed. On CUDA the variable-length call is tried first and
the flex call second. Torch's own attention segment by segment works on every device, and the others are compared with
it.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tiltlm.core.notes import Note
from tiltlm.logprobs.attention import flex, segments, varlen
from tiltlm.logprobs.attention.layout import Layout
from tiltlm.logprobs.attention.segments import Scores

SHORT = 256
"""A row of fewer tokens gets no flex call: it is only a few segments, and flex would compile another kernel for it."""

PROBES = (Layout((150, 1), ((60, 1, 130), (3, 40))), Layout((9, 5, 300), ((4, 1, 7), (3,), (20,))))
"""Two rows of different lengths, neither short."""

Attend = Callable[[Tensor, Tensor, Tensor, Layout, int | None, Scores], Float[Tensor, "1 T H E"]]


@dataclass(frozen=True)
class Case:
    """All facts on which the choice of a route may depend."""

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
        """Return the case of one attention call."""
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
    """A way to compute attention, and the reason for it."""

    name: str
    attend: Attend
    reasons: tuple[Note, ...]
    """Why the faster routes are not used; where there is none, that the probe was passed."""

    def __str__(self) -> str:
        return f"{self.name}: {'; '.join(self.reasons)}"


SEGMENTS = Route(
    "segment by segment", segments.attend_segments, (Note("the faster routes need CUDA", code="not_cuda"),)
)
"""The route of every device but CUDA."""


@functools.cache
def route_of(case: Case) -> Route:
    """Return the route of a case on CUDA: the first that can compute it and agrees with attention by segment."""
    reasons: list[Note] = []
    candidates = (
        ("one variable-length call", varlen.attend_varlen, not_varlen),
        ("one flex call", flex.attend_flex, not_flex),
    )
    for name, attend, refusal in candidates:
        wrong = refusal(case) or disagreement(attend, case)
        if wrong is None:
            return Route(name, attend, (*reasons, Note("its probe equals attention by segment", code="equal")))
        reasons.append(Note(f"not {name}, because it {wrong}", code=wrong.code))
    return Route(SEGMENTS.name, SEGMENTS.attend, tuple(reasons))


def not_varlen(case: Case) -> Note | None:
    """Return why the variable-length kernel cannot compute a case; None if it can."""
    if not varlen.is_complete():
        return Note("takes no window in this version of torch", code="no_window")
    if case.dtype not in (torch.float16, torch.bfloat16):
        return Note(f"has no {str(case.dtype).removeprefix('torch.')}", code="dtype")
    if case.softcap is not None or case.has_sinks:
        return Note("has no soft cap and no sinks", code="softcap_or_sinks")
    if not case.width == case.value_width <= 256:
        return Note(
            f"needs keys and values of one width up to 256, and they have {case.width} and {case.value_width}",
            code="widths",
        )
    return None


def not_flex(case: Case) -> Note | None:
    """Return why the flex kernel cannot compute a case; None if it can."""
    if case.is_short:
        return Note(f"is for rows of {SHORT} tokens and more", code="short_row")
    return Note("has no float64", code="dtype") if case.dtype == torch.float64 else None


def disagreement(attend: Attend, case: Case) -> Note | None:
    """Return how a route differs from attention by segment in this case; None if it does not.

    Value and gradients are compared on small random rows, with a window and without, with attention by segment in
    float32. Rounding to 16 bits changes these numbers by 1 % of the largest; a wrong alignment by as much as they are.
    """
    allowed = 0.03 if case.dtype.itemsize == 2 else 5e-3  # float32 products may be TF32, where a program asks for it
    for layout in PROBES:
        inputs = _draw(case, layout)
        for window in (None, 4):
            try:
                found = _value_and_gradients(attend, case, inputs, layout, window)
            except Exception as failure:  # any error of a compiler or a kernel is a reason, not a crash
                first_line = (str(failure).strip() or "?").splitlines()[0]
                return Note(f"fails with {type(failure).__name__}: {first_line}", code="fails")
            wide = [t.float() for t in inputs]
            expected = _value_and_gradients(segments.attend_segments, case, wide, layout, window)
            pairs = zip(found, expected, strict=True)
            error = float(torch.stack([(one - other).abs().max() / other.abs().max() for one, other in pairs]).max())
            if not error <= allowed:
                return Note(f"is off by {error:.0e} of the largest value (> {allowed:.0e})", code="not_equal")
    return None


def _draw(case: Case, layout: Layout) -> list[Tensor]:
    """Draw query, key, value and sinks, the same on every device."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(case.heads, case.width), (case.groups, case.width), (case.groups, case.value_width)]
    # Heads of a token are next to each other in memory, as in models.
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
