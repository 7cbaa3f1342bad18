"""The last layer on the tokens that are read: the last of each prompt, and all of its responses.

Responses need the keys and values of a whole prompt. But above the last layer only the last token of a prompt is read.
So for the other prompt tokens the last layer skips what it computes token by token after its attention, mostly its MLP.
Hooks around the layer's own submodules do this, whatever the submodules are called. The self-check compares the result
like everything else in the forward.
"""

from typing import Any

from torch import Tensor, nn

from tiltlm.logprobs.attention.layout import Layout

_MARK = "_last_layer"
"""Attribute of the hooked submodules that holds their `LastLayer`."""


class LastLayer:
    """Hooks on a decoder layer, inactive until its attention is called with a layout.

    Under gradient checkpointing the layer's forward runs again in the backward pass. The hooks of its submodules run
    again too, but its own hooks do not. So the attention announces itself, in both passes.
    """

    def __init__(self, layer: nn.Module) -> None:
        """Register the hooks on a decoder layer and on its submodules with weight matrices."""
        self.layout: Layout | None = None
        self.attention = self._narrowed = 0
        """The `id` of one of the layer's modules: a reference to a module would keep an unused model in memory."""
        self._handles = [layer.register_forward_pre_hook(self._clear), layer.register_forward_hook(self._clear)]
        for module in layer.modules():
            if module is not layer and any(p.dim() > 1 for p in module.parameters()):
                self._handles.append(module.register_forward_pre_hook(self._narrow, with_kwargs=True))
                self._handles.append(module.register_forward_hook(self._widen))
                setattr(module, _MARK, self)

    def remove(self, layer: nn.Module) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        for module in layer.modules():
            module.__dict__.pop(_MARK, None)

    def _clear(self, *_: object) -> None:
        self.layout, self._narrowed = None, 0

    def _narrow(
        self, module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Give a submodule that runs after the attention, on the row's states only, just the tokens that are read."""
        if id(module) == self.attention:
            self._clear()
        layout = self.layout
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
        """Put the output back at its places in the row, with zeros elsewhere."""
        if self._narrowed != id(module):
            return None
        self._narrowed, layout = 0, self.layout
        assert layout is not None
        rows = layout.read(output[0].device if isinstance(output, tuple) else output.device)

        def widen(part: Any) -> Any:
            if not isinstance(part, Tensor) or part.dim() != 3 or part.shape[:2] != (1, len(rows)):
                return part
            return part.new_zeros(1, layout.num_tokens, part.shape[2]).index_copy(1, rows, part)

        return tuple(map(widen, output)) if isinstance(output, tuple) else widen(output)


def decoder_layers(model: Any) -> list[nn.Module]:
    """Return the decoder layers of a transformers model in order; none where it does not name their class.

    Sharding gives each of them a class of its own, whose name begins with FSDP.
    """
    names = set(model._no_split_modules or ())
    return [module for module in model.base_model.modules() if type(module).__name__.removeprefix("FSDP") in names]


def trim_last_layer(model: Any, trims: bool) -> None:
    """Let the last decoder layer of a transformers model skip what is not read, or let it compute everything.

    A layer that attends twice or runs twice does read what is skipped. The self-check finds that.
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
    """Return whether this layer's submodules have hooks."""
    return _hooks(layer) is not None


def _hooks(layer: nn.Module) -> LastLayer | None:
    return next((getattr(module, _MARK) for module in layer.modules() if hasattr(module, _MARK)), None)


def announce_attention(attention: nn.Module, layout: Layout) -> None:
    """Start narrowing after this attention, if it is the last layer's; every layer's attention calls this."""
    last: LastLayer | None = getattr(attention, _MARK, None)
    if last is not None and not layout.whole:
        last.attention, last.layout = id(attention), layout
