"""The choice of a model's layout: once at start, by comparing a few examples with separate forwards.

Some architectures ignore the attention hook and still return numbers. Recurrent layers carry a state from one response
into the next. Chunked attention is defined by masks that a packed row does not build. No layout may be wrong without an
error, so every layout that is used was compared here in values and gradients. The choice and its reason are printed.
The examples, both ways to compute them and what is concluded are read together, so they are one module.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tiltlm.core.errors import ModelError, is_own_mistake
from tiltlm.core.example import Response, TokenIds, token_ids
from tiltlm.core.forest import Forest, Tree, pack_trees, with_score_token
from tiltlm.core.notes import Note
from tiltlm.logprobs.attention.hook import AttentionRecord
from tiltlm.logprobs.head.find import find_head
from tiltlm.logprobs.head.states import Head
from tiltlm.logprobs.inputs import Inputs, arrange
from tiltlm.logprobs.layout_name import LayoutName
from tiltlm.logprobs.module import bare_model_of, evaluating, exact_positions, stock_attention_name
from tiltlm.logprobs.plain import plain_logps, plain_scores
from tiltlm.logprobs.policy import PolicyModule
from tiltlm.logprobs.rounding import rounded
from tiltlm.logprobs.scoring import ScoreModule

SMALL = 50_000_000
"""Models up to this many parameters are compared in float64, on a copy: small weights make small errors."""
MEASURED = 2**24
"""Gradients are compared on the smallest parameters, up to this many values: norms and biases of every layer. A wrong
gradient anywhere changes theirs too."""
MULTIPLE = 8
"""A layout may deviate by this many times the effect of rounding. Right layouts deviate by up to twice that effect."""
FLOOR = 1e-6
"""Smallest tolerance."""
MOST_FORCED = 0.1
"""A forced layout may deviate by this share of the largest value; one that deviates by more is another model."""
MOST_LEAKED = 0.1
"""A forced layout's values may deviate by this share of what another context changes (`_Probe.context_effect`). Where
sequences attend to each other, it is half to three times that effect, whatever the size of the weights."""


@dataclass(frozen=True)
class Choice:
    """The layout of a model, and the reason for it."""

    layout: LayoutName
    head: Head | None
    """None for a reward model."""
    max_error: float
    """Largest deviation from separate forwards, relative to the largest value, or to the largest gradient."""
    tolerance: float
    """Largest deviation that was allowed."""
    refused: tuple[tuple[LayoutName, Note], ...] = ()
    """Faster layouts, and why each was refused."""
    trims: bool = True
    """True: in a shared row the last layer may skip what is not read (`last_layer.py`)."""
    checked_on: str = ""
    """What was compared in place of the model itself."""

    @property
    def is_exact(self) -> bool:
        """False for a layout that was forced although it deviates by more than rounding explains."""
        return self.max_error <= self.tolerance

    @property
    def reason(self) -> str:
        """One sentence to print."""
        values = "scores" if self.head is None else "log-probabilities"
        if not self.is_exact:
            return (
                f"set by model.layout, although {values} or gradients differ from separate forwards by "
                f"{self.max_error:.0e} of the largest, and rounding explains {self.tolerance:.0e}: all numbers of this "
                "run may be wrong by that share. layout=auto uses a layout that is equal"
            )
        equal = f"{values} and gradients equal separate forwards to {self.max_error:.0e} (≤ {self.tolerance:.0e})"
        equal += f", {self.checked_on}" * bool(self.checked_on)
        return "; ".join([*(f"not {name}: {why}" for name, why in self.refused), equal])


@dataclass(frozen=True)
class _Measured:
    """Log-probabilities or scores of the probe's responses, and the gradient of their sum with random weights."""

    values: Tensor
    gradients: tuple[Tensor, ...]

    def value_error(self, other: "_Measured") -> float:
        """Return the largest deviation of the values from `other`, relative to its largest value."""
        return _relative([self.values], [other.values])

    def error(self, other: "_Measured") -> float:
        """Return the largest deviation from `other`, relative to its largest value, or to its largest gradient."""
        errors = [self.value_error(other)]
        if self.gradients:
            errors.append(_relative(self.gradients, other.gradients))
        return max(errors)


class _Compared(NamedTuple):
    """How one layout compares with separate forwards."""

    error: float
    """Largest deviation."""
    wrong: Note | None = None
    """Why the layout must be refused; None if it need not."""
    leaks: bool = False
    """True if the deviation has the size of a leak between sequences, so that it is not taken where it is forced."""


def _compared(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Return the parameters whose gradients are compared: the smallest trained ones."""
    trained = sorted((p for p in parameters if p.requires_grad), key=lambda p: p.numel())
    sizes = np.cumsum([p.numel() for p in trained])
    return [p for p, size in zip(trained, sizes, strict=True) if size <= MEASURED]


def check_bytes(parameters: Sequence[nn.Parameter]) -> int:
    """Return the bytes that `choose_layout` holds beside a model: the float64 copy of a small one, and gradients twice.

    Args:
        parameters: All parameters of the model.
    """
    compared, total = _compared(parameters), sum(p.numel() for p in parameters)
    if total <= SMALL:
        return 8 * (total + 2 * sum(p.numel() for p in compared))
    return 2 * sum(p.numel() * p.element_size() for p in compared)


def _relative(values: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    scale = max(float(e.abs().max()) for e in expected)
    error = max(float((v - e).abs().max()) for v, e in zip(values, expected, strict=True))
    return float("inf") if error != error else error / max(scale, 1e-30)


def choose_layout(model: Any, requested: Literal["auto"] | LayoutName = "auto", is_scorer: bool = False) -> Choice:
    """Choose the fastest layout whose values and gradients equal those of separate, unpadded forwards.

    Nothing in the model changes: gradients, random state, mode, dtype and attention are the same afterwards. A small
    model is compared on a float64 copy, a larger one as it is. The tolerance is `MULTIPLE` times the effect of
    rounding, measured on the model's separate forwards. A leak between responses is far larger than that.

    Args:
        model: A causal language model or sequence classifier, or a PEFT model around one.
        requested: `auto` tries shared, packed, padded. A name tries only that one, and takes it even where values or
            gradients deviate, by up to `MOST_FORCED`, unless sequences see each other; see `Choice.is_exact`.
        is_scorer: The model is a sequence classifier, so scores are compared.

    Raises:
        ModelError: no layout equals separate forwards, or the model cannot be compared.
    """
    _refuse_changing(bare_model_of(model))
    attempts: list[tuple[LayoutName, bool]] = [("shared", True), ("shared", False), ("packed", True), ("padded", True)]
    refused: dict[LayoutName, Note] = {}
    deviating: list[Choice] = []
    with _under_test(model) as tested:
        probe, expected = _own(tested, is_scorer)
        tolerance = probe.tolerance(expected)
        probe.refuse_acausal(tolerance)
        for layout, trims in attempts:
            if requested not in ("auto", layout):
                continue
            error, wrong, leaks = probe.compare(layout, trims, expected, tolerance)
            if wrong is None:
                others = tuple((name, why) for name, why in refused.items() if name != layout)
                return Choice(layout, probe.head, error, tolerance, others, trims)
            refused[layout] = wrong
            if wrong.code == "not_equal" and error <= MOST_FORCED and not leaks:
                deviating.append(Choice(layout, probe.head, error, tolerance, trims=trims))
    least = min(deviating, key=lambda choice: choice.max_error, default=None)
    if least is not None and requested != "auto":
        return least
    reasons = "; ".join(f"{name}: {why}" for name, why in refused.items())
    way_out = "" if least is None else f"; model.layout={least.layout} uses that layout all the same"
    way_out = way_out if requested == "auto" else "; layout=auto tries the other layouts"
    raise ModelError(
        f"no layout of {type(bare_model_of(model)).__name__} equals separate forwards: {reasons}{way_out}",
        code="no_exact_layout",
        key="model.layout",
    )


def _refuse_changing(model: Any) -> None:
    """Refuse RWKV's rescaling: in evaluation mode it divides weights in place, and these would be trained and saved."""
    if getattr(model.config, "rescale_every", 0):
        raise ModelError(
            f"the forward of {type(model).__name__} changes its own weights; set rescale_every to 0 in its "
            "config.json, which gives the same model",
            code="changes_weights",
        )


def _own(model: Any, is_scorer: bool) -> tuple["_Probe", _Measured]:
    """Return the probe, and the result of the model's own forwards; refuse a model that fails on plain ids."""
    name = type(bare_model_of(model)).__name__
    try:
        probe: _Probe = _ScoreProbe(model) if is_scorer else _PolicyProbe(model)
        expected = probe.plain()
    except Exception as failure:
        if is_own_mistake(failure):
            raise
        raise ModelError(
            f"{name} cannot compute a plain sequence of token ids: {_first_line(failure)}", code="forward_fails"
        ) from failure
    return probe, expected


def _first_line(failure: Exception) -> str:
    lines = str(failure).strip().splitlines() or [""]
    return f"{type(failure).__name__}: {lines[0]}"


class _Probe(ABC):
    """The examples, and the ways to compute them."""

    head: Head | None = None
    value_noise: float = 0.0
    """Effect of rounding on the values alone, as `tolerance` measured it."""

    def __init__(self, model: Any) -> None:
        """Draw the examples, and choose the parameters whose gradients are compared."""
        self.model = model
        self.bare_model = bare_model_of(model)
        self.stock = stock_attention_name(self.bare_model)
        self.bare_model.set_attn_implementation(self.stock)
        self.trees = probe_trees(self.bare_model.config)
        self.forest = self._pack().to(self.bare_model.device)
        self.weights = torch.randn(len(self.forest.targets), generator=torch.Generator().manual_seed(1))
        self.parameters = _compared(model.parameters())

    @abstractmethod
    def _pack(self) -> Forest:
        """Return the forest of the examples."""

    @abstractmethod
    def _separate(self, trees: Sequence[Tree]) -> Tensor:
        """Return the values of separate forwards of these trees, which are the probe's or as long."""

    @abstractmethod
    def _laid_out(self, layout: LayoutName, trims: bool, inputs: Inputs) -> Tensor:
        """Return the values of one forward in a layout; the layout's attention stays set."""

    @abstractmethod
    def refuse_acausal(self, tolerance: float) -> None:
        """Refuse a model that sees the tokens that it must predict: its log-probabilities would mean nothing."""

    def plain(self) -> _Measured:
        """Measure the model's own separate forwards."""
        with torch.enable_grad():
            return self._measure(self._separate(self.trees))

    def tolerance(self, expected: _Measured) -> float:
        """Return how far a layout may deviate from `expected`, the result of `plain`."""
        with rounded(self.model):
            measured = self.plain()
        noise, self.value_noise = measured.error(expected), measured.value_error(expected)
        bound = 1e-2 if torch.finfo(self.bare_model.dtype).bits >= 32 else 5e-2  # beyond it, no check means anything
        return min(bound, max(FLOOR, MULTIPLE * noise))

    @torch.no_grad()
    def context_effect(self, expected: _Measured) -> float:
        """Return how far values change, relative to the largest, if all but the last token of each prompt change.

        A layout in which sequences see each other also changes what a response's tokens attend to, so its values
        deviate by about as much, with small weights too.
        """
        size = self.bare_model.config.get_text_config().vocab_size
        others = [
            Tree(np.concatenate([(tree.prompt_ids[:-1] + 1) % size, tree.prompt_ids[-1:]]), tree.responses)
            for tree in self.trees
        ]
        return _relative([self._separate(others)], [expected.values])

    def leaks(self, measured: _Measured, expected: _Measured) -> bool:
        """Return whether values deviate by more than rounding explains, and by the size of another context's effect.

        Log-probabilities are rounded to their dtype at the end, which `value_noise` does not hold.
        """
        error, rounding = measured.value_error(expected), torch.finfo(expected.values.dtype).eps
        if error <= MULTIPLE * max(self.value_noise, rounding):
            return False
        return error > MOST_LEAKED * self.context_effect(expected)

    def compare(self, layout: LayoutName, trims: bool, expected: _Measured, tolerance: float) -> _Compared:
        """Compute the examples in this layout and compare them with separate forwards."""
        record = AttentionRecord()
        try:
            inputs = arrange(self.forest, layout)
            if layout != "padded":
                inputs.keywords["attention_record"] = record
            with torch.enable_grad():
                measured = self._measure(self._laid_out(layout, trims, inputs))
            error = measured.error(expected)
        except Exception as failure:  # an error of a model on inputs that it was not made for is a reason, not a crash
            if is_own_mistake(failure):
                raise
            return _Compared(float("inf"), Note(_first_line(failure), code="fails"))
        finally:
            self.bare_model.set_attn_implementation(self.stock)
        if layout != "padded":
            missing = missing_attention(self.bare_model.config.get_text_config(), record.windows)
            if missing is not None:
                return _Compared(error, missing)
        if error <= tolerance:
            return _Compared(error)
        leaks = self.leaks(measured, expected)
        text = f"off by {error:.0e} (> {tolerance:.0e})" + ", as if sequences saw each other" * leaks
        return _Compared(error, Note(text, code="not_equal"), leaks)

    def _measure(self, values: Tensor) -> _Measured:
        gradients: tuple[Tensor | None, ...] = ()
        if self.parameters:
            loss = (values * self.weights.to(values)).sum()
            gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        zero = torch.zeros((), device=values.device)
        return _Measured(values.detach(), tuple(zero if g is None else g for g in gradients))


class _PolicyProbe(_Probe):
    """Compare log-probabilities."""

    def __init__(self, model: Any) -> None:
        """Find the model's head too."""
        super().__init__(model)
        self.head = find_head(self.bare_model)

    def _pack(self) -> Forest:
        return pack_trees(self.trees)

    def _separate(self, trees: Sequence[Tree]) -> Tensor:
        return plain_logps(self.bare_model, trees)

    @torch.no_grad()
    def refuse_acausal(self, tolerance: float) -> None:
        """Change the last token and compare the logits before it: a layout can be correct for an acausal model too."""
        tree = self.trees[0]
        ids = torch.tensor([*tree.prompt_ids, *tree.responses[0].token_ids], device=self.bare_model.device)
        before, after = (
            self.bare_model(input_ids=row[None], use_cache=False).logits[0, :-1] for row in (ids, _other_end(ids))
        )
        error = _relative([after], [before])
        if error > tolerance:
            raise ModelError(
                f"{type(self.bare_model).__name__} is not causal: the last token changes the logits before it by "
                f"{error:.0e} of the largest, so its log-probabilities mean nothing; use a decoder (some "
                "configurations need is_decoder or causal)",
                code="not_causal",
            )

    def _laid_out(self, layout: LayoutName, trims: bool, inputs: Inputs) -> Tensor:
        module = PolicyModule(self.model, layout, head=self.head, trims=trims)
        return module.values_of(inputs, self.forest.targets).logps


class _ScoreProbe(_Probe):
    """Compare scores."""

    def refuse_acausal(self, tolerance: float) -> None:
        """Refuse nothing: a score may depend on the whole text in any way."""

    def _pack(self) -> Forest:
        return pack_trees(with_score_token(self.trees))

    def _separate(self, trees: Sequence[Tree]) -> Tensor:
        return plain_scores(self.bare_model, trees)

    def _laid_out(self, layout: LayoutName, trims: bool, inputs: Inputs) -> Tensor:
        return ScoreModule(self.model, layout, trims=trims).scores_of(inputs)


def _other_end(ids: Tensor) -> Tensor:
    """Return the tokens with another last one: the first, or the second where the first is the same."""
    return torch.cat([ids[:-1], ids[:1] if ids[0] != ids[-1] else ids[1:2]])


def missing_attention(config: Any, windows: Sequence[int | None]) -> Note | None:
    """Return why the recorded calls of one forward are not all of this model's attention; None if they are.

    A window or a chunk of thousands of tokens does not change short examples. So the windows of the calls are compared
    with those that the configuration declares. Every layer may make several calls, all layers the same number.

    Args:
        config: The model's configuration.
        windows: The sliding window of each call of the attention hook.
    """
    num_layers, calls = config.num_hidden_layers, len(windows)
    if calls == 0 or calls % num_layers:
        return Note(f"{calls} of {num_layers} layers use the attention hook", code="hook_unused")
    kinds = list(getattr(config, "layer_types", None) or ())
    others = sorted(set(kinds) - {"full_attention", "sliding_attention"})
    if others:
        return Note(f"layers of kind {', '.join(others)} are more than attention over positions", code="layer_kinds")
    windowed = sum(window is not None for window in windows)
    if kinds:
        declared = kinds.count("sliding_attention")
    else:
        uses = getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None) is not None
        declared = num_layers if uses else 0
    if windowed * num_layers != declared * calls:
        return Note(
            f"{declared} layers are declared to have a sliding window, and {windowed} of {calls} calls asked for one",
            code="windows",
        )
    return None


def probe_trees(config: Any) -> list[Tree]:
    """Draw a few examples of different lengths: one response of one token, and one longer than the window."""
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
def _under_test(model: Any) -> Iterator[Any]:
    """Yield the model to compare, in evaluation mode: a float64 copy of a small model, or the model itself."""
    bare_model = bare_model_of(model)
    attention = bare_model.config._attn_implementation
    size = sum(p.numel() for p in model.parameters())
    tested = _wide_copy(model) if size <= SMALL and bare_model.device.type != "mps" else model
    if tested is not model and not _computes(tested):
        tested = model
    with evaluating(tested):
        try:
            yield tested
        finally:
            if tested is model:
                bare_model.set_attn_implementation(attention)


def _computes(model: nn.Module) -> bool:
    """Return whether a forward works: some models write float32 numbers into float64 tensors and fail."""
    ids = torch.zeros((1, 2), dtype=torch.long, device=bare_model_of(model).device)
    try:
        with evaluating(model), torch.no_grad():
            model(input_ids=ids, use_cache=False)
    except Exception:  # any error: the model itself then works, or raises it again
        return False
    return True


def _wide_copy(model: nn.Module) -> Any:
    """Return a float64 copy without gradients, and with experts that compute in float64."""
    wide: Any = copy.deepcopy(model).double()
    wide.zero_grad()
    bare_model = bare_model_of(wide)
    if getattr(bare_model.config, "_experts_implementation", None) is not None:
        bare_model.set_experts_implementation("eager")
    return wide
