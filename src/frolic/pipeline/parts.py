"""The modules of a pipeline: all in memory, or each only while it is needed."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from frolic.accel.stream import BlockStream, block_number, in_memory


@contextmanager
def lasting() -> Iterator[None]:
    """For reading and moving weights while others compute: what is made in inference mode could not be trained
    afterwards, nor asked whether it changed."""
    with torch.inference_mode(False), torch.no_grad():
        yield


class Held(Protocol):
    """A module that ``get`` puts on its device; ``release`` says that it is not needed for now. Its ``config`` is there
    all the time."""

    @property
    def config(self) -> Any: ...
    def get(self) -> Any: ...
    def release(self) -> None: ...


class Resident:
    """Stays where it is; None is a part that the model does not have."""

    def __init__(self, module: Any) -> None:
        self._module = module

    @property
    def config(self) -> Any:
        return getattr(self._module, "config", None)

    def get(self) -> Any:
        return self._module

    def release(self) -> None:
        pass


class Offloaded:
    """Waits in the CPU's memory and visits ``device``."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._module = module
        self._device = device

    @property
    def config(self) -> Any:
        return self._module.config

    def get(self) -> nn.Module:
        with lasting():
            return self._module.to(self._device)

    def release(self) -> None:
        with lasting():
            self._module.to("cpu")


class Reread:
    """Is read from its files when it is needed and forgotten afterwards."""

    def __init__(self, config: Any, read: Callable[[], nn.Module]) -> None:
        self.config = config
        self._read = read
        self._module: nn.Module | None = None

    def get(self) -> nn.Module:
        if self._module is None:
            with lasting():
                self._module = self._read()
        return self._module

    def release(self) -> None:
        if self._module is not None:
            self._module = None
            gc.collect()  # a module's parts refer to each other; their memory is wanted now


class Streamed:
    """Waits in the CPU's memory; its blocks visit ``device`` one after the other, and the rest of it all the time that
    it is needed."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._module = module
        self._device = device
        self._stream = BlockStream(module, in_memory(module, device), device)
        self._rest = [
            tensor for name, tensor in module.state_dict(keep_vars=True).items() if block_number(name) is None
        ]

    @property
    def config(self) -> Any:
        return self._module.config

    def get(self) -> nn.Module:
        self._move(self._device)
        return self._module

    def release(self) -> None:
        self._stream.release()
        self._move(torch.device("cpu"))

    def _move(self, device: torch.device) -> None:
        with lasting():
            for tensor in self._rest:
                tensor.data = tensor.data.to(device)


class HeldEncoder:
    """A text encoder that is fetched at its first use."""

    def __init__(self, held: Held) -> None:
        self._held = held

    def __call__(self, ids_BS: Tensor, mask_BS: Tensor, prefix: Any = None) -> Tensor:
        encoder = self._held.get()
        states: Tensor = encoder(ids_BS, mask_BS) if prefix is None else encoder(ids_BS, mask_BS, prefix)
        return states

    def prefix(self, ids_1P: Tensor) -> Any:
        return self._held.get().prefix(ids_1P)


def _part(name: str) -> Any:
    def get(self: Parts) -> Any:
        return self._held[name].get()

    def replace(self: Parts, part: Any) -> None:
        self._held[name] = _hold(part)
        self.renewed(name)

    return property(get, replace)


def _hold(part: Any) -> Held:
    held: Held = part if hasattr(part, "release") and hasattr(part, "get") else Resident(part)
    return held


class Parts:
    """Modules by name, each given as it is or as what holds it, and replaced by assignment."""

    transformer = _part("transformer")
    transformer_2 = _part("transformer_2")
    vae = _part("vae")
    text_encoder = _part("text_encoder")
    controlnet = _part("controlnet")

    def __init__(self, **parts: Any) -> None:
        self._held = {name: _hold(part) for name, part in parts.items()}

    def spare(self, *names: str) -> None:
        """These parts, or all, are not needed for now."""
        for name in names or self._held:
            self._held[name].release()

    def forgets(self, name: str) -> bool:
        """Whether a part is another module each time that it is needed."""
        return isinstance(self._held[name], Reread)

    def renewed(self, name: str) -> None:
        """Hears of a part that was replaced."""
