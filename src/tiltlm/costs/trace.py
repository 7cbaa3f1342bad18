"""Count what a piece of torch code does: bytes allocated and freed in order, operations, bytes read and written.

The code runs on fake tensors, which have shapes and no memory. So a step of 70 billion parameters is counted on a
laptop. Every operation that autograd, checkpointing and sharding add passes here, because they are operations too.
"""

import gc
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

Part = Literal["body", "head", "attention"]
"""What an operation belongs to: it grows with tokens, with scored tokens, or with pairs of tokens that attend."""


class Event(NamedTuple):
    """A block of memory that is allocated, or freed."""

    block: int
    """Number of the block."""
    num_bytes: int
    """Its size; 0 means that it is freed."""


class Operation(NamedTuple):
    """One operation that computes something; views are none."""

    part: Part
    flops: float
    """Floating-point operations of its matrix products; 0 for one that has none."""
    num_bytes: int
    """Bytes of its inputs and outputs."""
    is_half: bool
    """True if its products read 16-bit numbers."""


@dataclass
class Trace:
    """What a piece of code did, in order."""

    events: list[Event] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)

    @property
    def left(self) -> frozenset[int]:
        """Blocks that were not freed."""
        live: set[int] = set()
        for block, size in self.events:
            if size:
                live.add(block)
            else:
                live.discard(block)
        return frozenset(live)

    def peak(self, *, drop_left: bool = False) -> int:
        """Return the largest number of bytes that were allocated at one time.

        Args:
            drop_left: Count blocks that stay to the end as freed at once, because they were there before.
        """
        left = self.left if drop_left else frozenset()
        now = most = 0
        sizes: dict[int, int] = {}
        for block, size in self.events:
            now += size - sizes.pop(block, 0)
            most = max(most, now)
            if size:
                sizes[block] = size
            if block in left and size:
                now -= sizes.pop(block)
        return most

    @property
    def bytes_left(self) -> int:
        """Bytes that were allocated and not freed."""
        sizes = {block: size for block, size in self.events if size}
        return sum(sizes[block] for block in self.left)


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes a trace of the code inside the block."""

    def __init__(self, vocabulary: int, known: Sequence[Tensor] = (), widens_head: bool = True) -> None:
        """Start a new trace.

        Args:
            vocabulary: Size of the vocabulary: an operation on a tensor with this length belongs to the head.
            known: Tensors that exist already, such as weights; they are not counted.
            widens_head: Count the copy in float32 of a head in 16 bits. Only a CPU makes it: there, products in 16 bits
                are not summed in float32.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = Trace()
        self._vocabulary, self._widens_head = vocabulary, widens_head
        self._blocks: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._sizes: dict[int, int] = {}
        self._known = weakref.WeakSet(t.untyped_storage() for t in known)
        self._count = 0
        self._is_over = False

    def __enter__(self) -> "Tracer":
        """Follow resized storages too: sharding empties and fills the storages of gathered weights."""
        self._resize = torch.UntypedStorage.resize_
        own, resize = self, self._resize

        def resized(storage: torch.UntypedStorage, size: int) -> Any:
            result = resize(storage, size)
            own._see(storage)
            return result

        torch.UntypedStorage.resize_ = resized  # type: ignore[method-assign,assignment]
        return super().__enter__()  # type: ignore[no-any-return,no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        """Stop following: what is freed later is not part of the trace."""
        self._is_over = True
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def _see(self, storage: torch.UntypedStorage) -> None:
        """Note the present size of a storage."""
        if storage in self._known:
            return
        size = storage.nbytes()
        if storage not in self._blocks:
            self._count += 1
            self._blocks[storage] = self._count
            weakref.finalize(storage, self._free, self._count)
        block = self._blocks[storage]
        if size != self._sizes.get(block, 0):
            self._free(block)
            if size:
                self._sizes[block] = size
                self.trace.events.append(Event(block, size))

    def _free(self, block: int) -> None:
        if not self._is_over and self._sizes.pop(block, 0):
            self.trace.events.append(Event(block, 0))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation and note what it did."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if not self._widens_head and func is torch.ops.aten._to_copy.default and self._is_wide_head(args[0], outputs):
            self._known.add(outputs[0].untyped_storage())
        for tensor in outputs:
            self._see(tensor.untyped_storage())
        if not func.is_view:
            inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            self._operation(func, args, kwargs, out, inputs, outputs)
        return out

    def _is_wide_head(self, source: Tensor, outputs: list[Tensor]) -> bool:
        """Return whether a copy is that of the head's weight in float32."""
        to = outputs[0]
        narrow = source.dtype == torch.bfloat16 and to.dtype == torch.float32
        return narrow and to.dim() == 2 and to.shape[0] == self._vocabulary

    def _operation(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        out: Any,
        inputs: list[Tensor],
        outputs: list[Tensor],
    ) -> None:
        num_bytes = sum(t.numel() * t.element_size() for t in (*inputs, *outputs))
        counter = flop_registry.get(func.overloadpacket) or flop_registry.get(_not_in_place(func))
        flops = attention_flops(func, args)
        if counter is not None:
            flops = float(counter(*args, **kwargs, out_val=out))
        if "attention" in func.name():
            part: Part = "attention"
        elif any(self._vocabulary in t.shape for t in (*inputs, *outputs)):
            part = "head"
        else:
            part = "body"
        is_half = any(t.is_floating_point() and t.element_size() == 2 for t in inputs)
        self.trace.operations.append(Operation(part, flops, num_bytes, is_half))


def attention_flops(func: Any, args: tuple[Any, ...]) -> float:
    """Return the operations of torch's attention on a CPU, which its table of products lacks; 0 for others.

    Two products of queries and keys forward, five backward, over the whole square, masked or not.
    """
    if "flash_attention_for_cpu" not in func.name():
        return 0.0
    is_backward = "backward" in func.name()
    query, key = args[is_backward], args[is_backward + 1]
    return float((10 if is_backward else 4) * query.numel() * key.shape[-2])


def _not_in_place(func: Any) -> Any:
    """Return the operation that an in-place one is a form of; torch's table of products names that one only."""
    name: str = func.overloadpacket.__name__
    return getattr(torch.ops.aten, name[:-1], None) if name.endswith("_") and not name.endswith("__") else None


@contextmanager
def without_memory() -> Iterator[None]:
    """Let tensors made inside the block have shapes and no memory."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def traced(run: Callable[[], Any], vocabulary: int, known: Sequence[Tensor] = (), *, widens_head: bool = True) -> Trace:
    """Return the trace of a call, made inside `without_memory`. Its result is freed at the end.

    Args:
        run: The code.
        vocabulary: As for `Tracer`.
        known: As for `Tracer`.
        widens_head: As for `Tracer`.
    """
    tracer = Tracer(vocabulary, known, widens_head)
    with tracer:
        result = run()
        del result
        gc.collect()  # objects that refer to each other hold tensors until Python looks for them
    return tracer.trace
