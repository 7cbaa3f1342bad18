"""The last layer on the tokens that are read: the last of each prompt, and all of its responses.

Keys and values of a prompt serve its responses, but nothing above the last layer looks at more of a prompt than its
last token. What the layer computes token by token behind its attention, mostly its MLP, is therefore left out for the
others. This is done with hooks around the layer's own submodules, whatever they are called; the self-check compares the
result like everything else in the forward.
"""

from typing import Any

from torch import Tensor, nn

from tiltlm.logprobs.attention.layout import Layout

_MARK = "_last_layer"
"""Attribute of the hooked submodules."""


class LastLayer:
    """Hooks on a decoder layer, idle until its attention is called with a layout.

    Under gradient checkpointing the layer's forward runs again in the backward pass, its submodules' hooks with it but
    its own not; that is why the attention announces itself, in both.
    """

    def __init__(self, layer: nn.Module) -> None:
        self._layout: Layout | None = None
        self._attention = self._narrowed = 0
        """Which of the layer's modules: their `id`, since to hold them would keep a model alive that nobody uses."""
        self._handles = [layer.register_forward_pre_hook(self._clear), layer.register_forward_hook(self._clear)]
        for module in layer.modules():
            if module is not layer and any(p.dim() > 1 for p in module.parameters()):
                self._handles.append(module.register_forward_pre_hook(self._narrow, with_kwargs=True))
                self._handles.append(module.register_forward_hook(self._widen))
                setattr(module, _MARK, self)

    def remove(self, layer: nn.Module) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        for module in layer.modules():
            module.__dict__.pop(_MARK, None)

    def attended(self, attention: nn.Module, layout: Layout) -> None:
        """The layer's attention is being computed: what comes after it is narrowed."""
        self._attention, self._layout = id(attention), layout

    def _clear(self, *_: object) -> None:
        self._layout, self._narrowed = None, 0

    def _narrow(
        self, module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Give a submodule that runs after the attention, on nothing but the row's states, the tokens that are read."""
        if id(module) == self._attention:
            self._clear()
        layout = self._layout
        if layout is None or self._narrowed:
            return None
        if len(inputs) != 1 or keywords or not isinstance(inputs[0], Tensor):
            return None
        (states,) = inputs
        if states.dim() != 3 or states.shape[:2] != (1, layout.num_tokens):
            return None
        self._narrowed = id(module)
        return (states.index_select(1, layout.read(states.device)),), keywords

    def _widen(self, module: nn.Module, _: tuple[Any, ...], output: Any) -> Any:
        """Put what came out where it belongs in the row, zeros elsewhere."""
        if self._narrowed != id(module):
            return None
        self._narrowed, layout = 0, self._layout
        assert layout is not None
        rows = layout.read(output[0].device if isinstance(output, tuple) else output.device)

        def widen(part: Any) -> Any:
            if not isinstance(part, Tensor) or part.dim() != 3 or part.shape[:2] != (1, len(rows)):
                return part
            return part.new_zeros(1, layout.num_tokens, part.shape[2]).index_copy(1, rows, part)

        return tuple(map(widen, output)) if isinstance(output, tuple) else widen(output)


def decoder_layers(model: Any) -> list[nn.Module]:
    """The decoder layers of a transformers model in order; none where it does not name their class."""
    names = set(model._no_split_modules or ())
    return [module for module in model.base_model.modules() if type(module).__name__ in names]


def trim_last_layer(model: Any, trims: bool) -> None:
    """Leave out what nobody reads in the last decoder layer of a transformers model, or compute all of it again.

    Where a layer attends twice, or runs twice, what is left out is read after all: the self-check finds that.
    """
    layers = decoder_layers(model)
    if not layers:
        return
    present = _hooks(layers[-1])
    if trims and present is None:
        LastLayer(layers[-1])
    if present is not None and not trims:
        present.remove(layers[-1])


def is_trimmed(layer: nn.Module) -> bool:
    """Whether this layer's pieces have hooks."""
    return _hooks(layer) is not None


def _hooks(layer: nn.Module) -> LastLayer | None:
    return next((getattr(module, _MARK) for module in layer.modules() if hasattr(module, _MARK)), None)


def announce_attention(attention: nn.Module, layout: Layout) -> None:
    """To be called by the attention of every layer; only the last one is listened to."""
    last: LastLayer | None = getattr(attention, _MARK, None)
    if last is not None and not layout.whole:
        last.attended(attention, layout)
