"""What is computed of a prompt once and kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Kept(Generic[T]):
    """The last ``most`` prompts' values. ``make`` gives the value of one prompt, so that it is the same whatever else
    is asked for."""

    def __init__(self, most: int, make: Callable[[str], T]) -> None:
        self.most, self._make = most, make
        self._values: OrderedDict[str, T] = OrderedDict()

    def of(self, prompts: Sequence[str]) -> list[T]:
        """Their values, in order."""
        found: dict[str, T] = {}
        for prompt in prompts:
            if prompt not in found:
                found[prompt] = self._values.pop(prompt) if prompt in self._values else self._made(prompt)
                self._values[prompt] = found[prompt]
                while len(self._values) > self.most:
                    self._values.popitem(last=False)
        return [found[prompt] for prompt in prompts]

    def __len__(self) -> int:
        return len(self._values)

    def clear(self) -> None:
        self._values.clear()

    def _made(self, prompt: str) -> T:
        # What is kept outlives the call: it may have no graph, and be used by a backward pass later even if this one is
        # in inference mode.
        with torch.inference_mode(False), torch.no_grad():
            return self._make(prompt)
