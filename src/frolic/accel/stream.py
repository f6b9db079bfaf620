"""Models of which one block at a time is in memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Fetch = Callable[[int], Mapping[str, Tensor]]
"""The tensors of a block, by its number, under their names in the block, where they are computed with."""
_LISTS = ("blocks", "layers")


def blocks_of(module: nn.Module) -> tuple[str, nn.ModuleList] | None:
    """The blocks that ``module`` calls one after the other, and the name that they go by; None where it has none."""
    for name in _LISTS:
        found = getattr(module, name, None)
        if isinstance(found, nn.ModuleList) and len(found):
            return name, found
    return None


def block_number(name: str) -> int | None:
    """The number of the block that a parameter lies in, by its name in a model; None outside of all."""
    first, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    return int(number) if first in _LISTS and number.isdigit() else None


@dataclass(frozen=True)
class _Here:
    tensors: Mapping[str, Tensor]
    ready: Any = None  # an event of the stream that copied them


class BlockStream:
    """Brings the weights of each of ``module``'s blocks when it is called (or visited, ``nn.visit``) and forgets them
    afterwards. The next block's come meanwhile, on a thread and, on a GPU, a stream of their own: two blocks are in
    memory at most, so none is fetched before what the last but one was read for is done.

    Meanwhile the parameters keep shape and dtype, and no memory. One call at a time: for drawing, not for gradients.
    """

    def __init__(self, module: nn.Module, fetch: Fetch, device: torch.device) -> None:
        found = blocks_of(module)
        assert found is not None, "there are no blocks"
        self._blocks = list(found[1])
        self._fetch = fetch
        self._device = device
        self._slots = [_slots(block) for block in self._blocks]
        self._inside = [0] * len(self._blocks)
        self._coming: dict[int, Future[_Here]] = {}
        self._pool = ThreadPoolExecutor(1, "frolic-blocks")
        weakref.finalize(module, self._pool.shutdown, wait=False, cancel_futures=True)
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._done: torch.cuda.Event | None = None  # what the block that was left last was read for
        for index, block in enumerate(self._blocks):
            self._empty(index)
            block.register_forward_pre_hook(lambda *_, index=index: self._enter(index))
            block.register_forward_hook(lambda *_, index=index: self._leave(index), always_call=True)
            block.visit = self._visitor(index)  # type: ignore[assignment]

    def release(self) -> None:
        """No block is needed for now."""
        for coming in self._coming.values():
            coming.cancel()
        self._coming.clear()

    def _visitor(self, index: int) -> Callable[[], Any]:
        @contextmanager
        def visit() -> Iterator[None]:
            self._enter(index)
            try:
                yield
            finally:
                self._leave(index)

        return visit

    def _enter(self, index: int) -> None:
        if self._inside[index] == 0:
            here = self._coming.pop(index, None)
            self.release()  # of one that was expected and did not come, if any
            found = self._bring(index) if here is None else here.result()
            if found.ready is not None:
                current = torch.cuda.current_stream(self._device)
                current.wait_event(found.ready)
                for tensor in found.tensors.values():
                    tensor.record_stream(current)  # its memory is not given away before what reads it is done
            for name, slot in self._slots[index].items():
                slot.data = found.tensors[name]
            following = (index + 1) % len(self._blocks)
            if following != index:
                self._coming[following] = self._pool.submit(self._bring, following, self._done)
        self._inside[index] += 1

    def _leave(self, index: int) -> None:
        # A hook that is called although its block failed may belong to a block that was never entered.
        self._inside[index] = max(0, self._inside[index] - 1)
        if self._inside[index] == 0:
            self._empty(index)
            if self._copies is not None:
                self._done = torch.cuda.current_stream(self._device).record_event()

    def _empty(self, index: int) -> None:
        for slot in self._slots[index].values():
            slot.data = _nothing(slot)

    def _bring(self, index: int, after: torch.cuda.Event | None = None) -> _Here:
        if after is not None:
            # Who enqueues work runs far ahead of it: without this all blocks would be there before the first is read.
            after.synchronize()
        with torch.inference_mode(False), torch.no_grad():
            if self._copies is None:
                return _Here(self._fetch(index))
            with torch.cuda.stream(self._copies):
                tensors = self._fetch(index)
                return _Here(tensors, self._copies.record_event())


def _slots(block: nn.Module) -> dict[str, Tensor]:
    saved = block.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in saved.items() if isinstance(tensor, Tensor)}


def _nothing(like: Tensor) -> Tensor:
    """Shaped as ``like``, of its dtype, and without memory of its own."""
    with torch.inference_mode(False):
        return torch.zeros((), dtype=like.dtype, device=like.device).expand(like.shape)


def pinned_bytes(module: nn.Module) -> int:
    """What ``in_memory`` takes of the CPU's memory for a GPU: PyTorch rounds pinned tensors up to powers of two."""
    found = blocks_of(module)
    blocks = () if found is None else found[1]
    within = [each for block in blocks for each in _slots(block).values()]
    inside = {id(each) for each in within}
    rest = sum(each.nbytes for each in _slots(module).values() if id(each) not in inside)
    return rest + sum(1 << max(0, each.nbytes - 1).bit_length() for each in within)


def in_memory(module: nn.Module, device: torch.device) -> Fetch:
    """The blocks of ``module`` from where they are now, the CPU's memory, to ``device``."""
    found = blocks_of(module)
    assert found is not None, "there are no blocks"
    if device.type == "cuda":  # so that copies need not wait
        for tensor in (each for block in found[1] for each in _slots(block).values()):
            # One after the other, or all of the weights would be here twice meanwhile.
            tensor.data = tensor.detach().pin_memory()
    homes = [dict(block.state_dict()) for block in found[1]]

    def fetch(index: int) -> Mapping[str, Tensor]:
        return {name: tensor.to(device, non_blocking=True, copy=True) for name, tensor in homes[index].items()}

    return fetch
