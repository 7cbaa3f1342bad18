"""A key and value cache that is written in place.

transformers' own cache copies all its content for every new token. On a CPU that costs more than the attention itself.
"""

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # transformers' registration hook
    """A cache layer whose keys and values are views of larger tensors."""

    _capacity = 0
    _buffers: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, layer: DynamicLayer) -> "RoomyLayer":
        """Make a layer with the content of `layer`."""
        assert layer.keys is not None, "the prefill fills the cache first"
        assert layer.values is not None
        roomy = cls()
        roomy.lazy_initialization(layer.keys, layer.values)
        roomy.keys, roomy.values = layer.keys, layer.values
        return roomy

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values of new tokens, and return all keys and values."""
        assert self.keys is not None
        assert self.values is not None
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        if end > self._capacity:
            self._capacity = end + max(16, end // 4)
            self._buffers = _widened(self.keys, self._capacity), _widened(self.values, self._capacity)
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., start:end, :] = new
        self.keys, self.values = (buffer[..., :end, :] for buffer in self._buffers)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Keep these rows; the next update allocates new tensors."""
        super().reorder_cache(beam_idx)
        self._capacity = 0


def _widened(held: Tensor, capacity: int) -> Tensor:
    buffer = held.new_empty(*held.shape[:-2], capacity, held.shape[-1])
    buffer[..., : held.shape[-2], :] = held
    return buffer


def make_roomy(cache: DynamicCache) -> None:
    """Make the plain layers of a cache writable in place; windows and recurrent states stay as they are."""
    cache.layers = [RoomyLayer.of(layer) if type(layer) is DynamicLayer else layer for layer in cache.layers]
