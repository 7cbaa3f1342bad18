"""Which layout a model can have: decided once at start, by computing a few examples the plain way and comparing.

Some architectures ignore the attention hook and still return numbers; recurrent layers run from one response into the
next; chunk rules live in masks that a packed row never builds. Nothing may be silently wrong, so every layout that is
used has been compared here, in values and gradients, and the choice and its reason are there to print.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tiltlm.core.errors import ModelError
from tiltlm.core.example import Response, TokenIds, token_ids
from tiltlm.core.forest import Forest, Tree, pack_trees, with_score_token
from tiltlm.logprobs.attention.layout import Layout
from tiltlm.logprobs.head.find import Head, find_head
from tiltlm.logprobs.inputs import Inputs, LayoutName, arrange
from tiltlm.logprobs.modes import evaluating
from tiltlm.logprobs.module import bare_model_of, exact_positions, stock_attention_name
from tiltlm.logprobs.plain import plain_logps, plain_scores
from tiltlm.logprobs.policy import PolicyModule
from tiltlm.logprobs.scoring import ScoreModule

SMALL = 50_000_000
"""Models up to so many parameters are compared in float64, on a copy: small weights make small mistakes."""
MEASURED = 2**24
"""Gradients are compared on the smallest parameters, up to so many values: norms and biases of every layer, which feel
a wrong gradient in anything that passes them. A small model is compared on all of it."""


@dataclass(frozen=True)
class Choice:
    """The layout of a model, and why."""

    layout: LayoutName
    head: Head | None
    """None of a reward model."""
    reason: str
    """One sentence, to print."""
    max_error: float
    """Largest deviation from separate forwards: of values relative to the largest, of gradients likewise."""
    tolerance: float
    refused: tuple[tuple[LayoutName, str], ...] = ()
    """Layouts tried before, and what was wrong with each."""
    trims: bool = True
    """Whether a shared row may leave out what nobody reads in the last layer (`last_layer.py`)."""


@dataclass(frozen=True)
class _Measured:
    """Log-probabilities or scores of the probe's responses, and the gradient of a random weighting of them."""

    values: Tensor
    gradients: tuple[Tensor, ...]

    def error(self, other: "_Measured") -> float:
        """Largest deviation from `other`, relative to its largest number; values and gradients each by their own."""
        errors = [_relative([self.values], [other.values])]
        if self.gradients:
            errors.append(_relative(self.gradients, other.gradients))
        return max(errors)


def _relative(values: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    scale = max(float(e.abs().max()) for e in expected)
    error = max(float((v - e).abs().max()) for v, e in zip(values, expected, strict=True))
    return float("inf") if error != error else error / max(scale, 1e-30)


def choose_layout(model: Any, requested: Literal["auto"] | LayoutName = "auto", is_scorer: bool = False) -> Choice:
    """The fastest layout whose values and gradients equal those of separate, unpadded forwards.

    Nothing of the model changes: gradients, random state, mode, dtype and attention are as they were. A small model is
    compared in float64 to 1e-6. A larger one is compared as it is, to 1e-5 or four times what two stock attentions
    differ by, whichever is more: trained weights amplify rounding, and a leak between responses far exceeds it.

    Args:
        model: A causal language model or sequence classifier, or a PEFT model around one, without dropout.
        requested: `auto` tries shared, packed, padded; a name tries that one.
        is_scorer: The model is a sequence classifier, of which scores are compared.

    Raises:
        ModelError: none of them is right.
    """
    candidates: tuple[LayoutName, ...] = ("shared", "packed", "padded") if requested == "auto" else (requested,)
    refused: list[tuple[LayoutName, str]] = []
    with _under_test(model) as (tested, is_wide):
        probe, expected = _own(tested, is_scorer)
        tolerance = 1e-6 if is_wide else probe.tolerance(expected)
        probe.refuse_acausal(tolerance)
        for layout in candidates:
            for trims in (True, False) if layout == "shared" else (True,):
                wrong, error = probe.compare(layout, trims, expected, tolerance)
                if not wrong:
                    reason = f"{probe.values} and gradients equal separate forwards to {error:.0e} (≤ {tolerance:.0e})"
                    reason = "; ".join([*(f"not {name}: {why}" for name, why in refused), reason])
                    return Choice(layout, probe.head, reason, error, tolerance, tuple(refused), trims)
            refused.append((layout, wrong))
    reasons = "; ".join(f"{name}: {why}" for name, why in refused)
    way_out = "" if requested == "auto" else "; layout=auto tries the others"
    raise ModelError(
        f"no layout of {type(bare_model_of(model)).__name__} equals separate forwards: {reasons}{way_out}",
        code="no_exact_layout",
        key="model.layout",
    )


def _own(model: Any, is_scorer: bool) -> tuple["_Probe", _Measured]:
    """The probe, and what the model's own forwards give; a model that fails on plain ids is refused."""
    try:
        probe: _Probe = _ScoreProbe(model) if is_scorer else _PolicyProbe(model)
        return probe, probe.plain()
    except Exception as failure:
        name = type(bare_model_of(model)).__name__
        raise ModelError(
            f"{name} cannot compute a plain sequence of token ids: {_first_line(failure)}", code="forward_fails"
        ) from failure


def _first_line(failure: Exception) -> str:
    lines = str(failure).strip().splitlines() or [""]
    return f"{type(failure).__name__}: {lines[0]}"


class _Probe(ABC):
    """The examples, and how each way computes them."""

    values: str
    """What is compared, in words."""
    head: Head | None = None

    def __init__(self, model: Any) -> None:
        self.model = model
        self.bare_model = bare_model_of(model)
        self.stock = stock_attention_name(self.bare_model)
        self.bare_model.set_attn_implementation(self.stock)
        self.trees = probe_trees(self.bare_model.config)
        self.forest = self._plant().to(self.bare_model.device)
        self.weights = torch.randn(len(self.forest.targets), generator=torch.Generator().manual_seed(1))
        trained = sorted((p for p in model.parameters() if p.requires_grad), key=lambda p: p.numel())
        sizes = np.cumsum([p.numel() for p in trained])
        self.parameters = [p for p, size in zip(trained, sizes, strict=True) if size <= MEASURED]

    @abstractmethod
    def _plant(self) -> Forest:
        """The forest of the examples."""

    @abstractmethod
    def _separate(self) -> Tensor:
        """The values of separate forwards."""

    @abstractmethod
    def _laid_out(self, layout: LayoutName, trims: bool, inputs: Inputs) -> Tensor:
        """The values of one forward in a layout, whose attention stays switched on."""

    @abstractmethod
    def refuse_acausal(self, tolerance: float) -> None:
        """Raise where what is compared means nothing, since the model sees what it is to predict."""

    def plain(self) -> _Measured:
        with torch.enable_grad():
            return self._measure(self._separate())

    def tolerance(self, expected: _Measured) -> float:
        """1e-5, or four times what rounding moves these numbers by: the stock attention against the explicit one.

        Bounded, so that two stock attentions that mean different things do not excuse a third.
        """
        bound = 1e-3 if torch.finfo(self.bare_model.dtype).bits >= 32 else 5e-2
        if self.stock == "eager":
            return 1e-5 if bound == 1e-3 else bound
        self.bare_model.set_attn_implementation("eager")
        noise = self.plain().error(expected)
        self.bare_model.set_attn_implementation(self.stock)
        return min(bound, max(1e-5, 4 * noise))

    def compare(self, layout: LayoutName, trims: bool, expected: _Measured, tolerance: float) -> tuple[str, float]:
        """What is wrong with this layout ("" if nothing), and its error."""
        try:
            inputs = arrange(self.forest, layout)
            with torch.enable_grad():
                error = self._measure(self._laid_out(layout, trims, inputs)).error(expected)
        except Exception as failure:  # whatever a model raises on inputs it was not made for is a reason, not a crash
            return _first_line(failure), float("inf")
        finally:
            self.bare_model.set_attn_implementation(self.stock)
        if layout != "padded":
            unheard = unheard_attention(self.bare_model.config.get_text_config(), inputs.keywords["layout"])
            if unheard:
                return unheard, error
        return ("" if error <= tolerance else f"off by {error:.0e} (> {tolerance:.0e})"), error

    def _measure(self, values: Tensor) -> _Measured:
        gradients: tuple[Tensor | None, ...] = ()
        if self.parameters:
            loss = (values * self.weights.to(values)).sum()
            gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        zero = torch.zeros((), device=values.device)
        return _Measured(values.detach(), tuple(zero if g is None else g for g in gradients))


class _PolicyProbe(_Probe):
    values = "log-probabilities"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.head = find_head(self.bare_model)

    def _plant(self) -> Forest:
        return pack_trees(self.trees)

    def _separate(self) -> Tensor:
        return plain_logps(self.bare_model, self.trees)

    @torch.no_grad()
    def refuse_acausal(self, tolerance: float) -> None:
        """A layout can be right of a model that looks ahead: with padding masked by the model itself, say."""
        tree = self.trees[0]
        ids = torch.tensor([*tree.prompt_ids, *tree.responses[0].token_ids], device=self.bare_model.device)
        before, after = (
            self.bare_model(input_ids=row[None], use_cache=False).logits[0, :-1] for row in (ids, _other_end(ids))
        )
        error = _relative([after], [before])
        if error > tolerance:
            raise ModelError(
                f"{type(self.bare_model).__name__} looks ahead: the last token changes the logits before it by "
                f"{error:.0e} of the largest, so that its log-probabilities are no likelihood of a text; a decoder is "
                "needed (some configurations say is_decoder or causal)",
                code="not_causal",
            )

    def _laid_out(self, layout: LayoutName, trims: bool, inputs: Inputs) -> Tensor:
        module = PolicyModule(self.model, layout, head=self.head, trims=trims)
        return module.values_of(inputs, self.forest.targets).logps


class _ScoreProbe(_Probe):
    values = "scores"

    def refuse_acausal(self, tolerance: float) -> None:
        """A score may depend on the whole text in any way."""

    def _plant(self) -> Forest:
        return pack_trees(with_score_token(self.trees))

    def _separate(self) -> Tensor:
        return plain_scores(self.bare_model, self.trees)

    def _laid_out(self, layout: LayoutName, trims: bool, inputs: Inputs) -> Tensor:
        return ScoreModule(self.model, layout, trims=trims).scores_of(inputs)


def _other_end(ids: Tensor) -> Tensor:
    """The same tokens but the last, which becomes the first where it is not that already."""
    return torch.cat([ids[:-1], ids[:1] if ids[0] != ids[-1] else ids[1:2]])


def unheard_attention(config: Any, layout: Layout) -> str:
    """Why the calls of one forward are not all of this model's attention; "" where they are.

    Short examples cannot feel a window of thousands of tokens, or a chunk of them, so the windows that arrived are
    compared with those the configuration declares. A layer may make several calls, each as many.
    """
    num_layers, calls = config.num_hidden_layers, len(layout.windows)
    if calls == 0 or calls % num_layers:
        return f"{calls} of {num_layers} layers use the attention hook"
    kinds = list(getattr(config, "layer_types", None) or ())
    strange = sorted(set(kinds) - {"full_attention", "sliding_attention"})
    if strange:
        return f"layers of kind {', '.join(strange)} carry more than attention over positions"
    windowed = sum(window is not None for window in layout.windows)
    if kinds:
        declared = kinds.count("sliding_attention")
    else:
        uses = getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None) is not None
        declared = num_layers if uses else 0
    if windowed * num_layers != declared * calls:
        return f"{declared} layers are declared to have a sliding window, and {windowed} of {calls} calls asked for one"
    return ""


def probe_trees(config: Any) -> list[Tree]:
    """A few ragged examples: prompts of several lengths, several responses, one of one token, one beyond a window."""
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None) or 0
    longest = exact_positions(config) or 4096
    rng = np.random.default_rng(0)

    def draw(length: int) -> TokenIds:
        return token_ids(rng.integers(0, text.vocab_size, max(1, min(length, longest // 2))))

    lengths = [(7, (5, 1, 9)), (3, (6, 2)), (1, (4,))]
    if 0 < window <= 64:
        lengths.append((window + 3, (4, window + 2)))
    return [Tree(draw(p), tuple(Response(draw(r)) for r in responses)) for p, responses in lengths]


@contextmanager
def _under_test(model: Any) -> Iterator[tuple[Any, bool]]:
    """The model to compare with, in evaluation mode: a float64 copy of a small one, or the model itself."""
    bare_model = bare_model_of(model)
    attention = bare_model.config._attn_implementation
    size = sum(p.numel() for p in model.parameters())
    is_wide = size <= SMALL and bare_model.device.type != "mps"
    tested = _wide_copy(model) if is_wide else model
    if is_wide and not _computes(tested):
        tested, is_wide = model, False
    with evaluating(tested):
        try:
            yield tested, is_wide
        finally:
            if tested is model:
                bare_model.set_attn_implementation(attention)


def _computes(model: nn.Module) -> bool:
    """Whether a forward works at all: some models write numbers of float32 into what they compute."""
    ids = torch.zeros((1, 2), dtype=torch.long, device=bare_model_of(model).device)
    try:
        with evaluating(model), torch.no_grad():
            model(input_ids=ids, use_cache=False)
    except Exception:  # whatever it is; the model itself will say it again, or compute
        return False
    return True


def _wide_copy(model: nn.Module) -> Any:
    """A float64 copy, all of it trainable, with the experts that compute in float64."""
    wide: Any = copy.deepcopy(model).double()
    for parameter in wide.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
            parameter.grad = None
    bare_model = bare_model_of(wide)
    if getattr(bare_model.config, "_experts_implementation", None) is not None:
        bare_model.set_experts_implementation("eager")
    return wide
