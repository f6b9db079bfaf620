"""The transformers that share a drawing: which denoises at which noise level, and what each was told of the texts.

One of them is needed at a time. Where memory is short, the other one waits elsewhere, or is not there at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from frolic.accel.cache import StepCache
from frolic.pipeline.denoise import Texts
from frolic.pipeline.loras import Loras, Mixes
from frolic.pipeline.parts import Parts
from frolic.request import Request
from frolic.sampling import guidance
from frolic.strength import Blend
from frolic.types import Denoise

FIRST, SECOND = "transformer", "transformer_2"
"""The parts: the one for much noise, and the one for little where there are two, as diffusers names them."""


@dataclass(frozen=True)
class Ready:
    """A transformer's texts, one of each phase of its adapters' ``mixes``."""

    texts: Sequence[Texts]
    mixes: Mixes | None


class Experts:
    """The transformers of one drawing.

    ``prepare`` makes a transformer's texts; ``carriers`` hold the adapters of each part. Use as a context: at its end
    the drawing lets go of its adapters.
    """

    def __init__(
        self,
        parts: Parts,
        names: Sequence[str],
        carriers: dict[str, Loras],
        request: Request,
        blends: Sequence[Blend],
        prepare: Callable[[Any, Request, Mixes | None], Sequence[Texts]],
    ) -> None:
        self._parts = parts
        self.names = tuple(names)
        self._carriers = carriers
        self._blends = blends
        self._prepare = prepare
        self._ready: dict[str, Ready] = {}
        self._using: dict[str, ExitStack] = {}
        self._made: dict[str, Denoise] = {}
        self._now = ""
        self.caches: list[StepCache] = []
        self.requests = {FIRST: request}
        if SECOND in self.names:
            other = request.guidance_scale if request.guidance_scale_2 is None else request.guidance_scale_2
            self.requests[SECOND] = replace(request, guidance_scale=other)

    def __enter__(self) -> Experts:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def tokens(self) -> int:
        """The width of the prompts' texts, once a step was made."""
        return next(iter(self._ready.values())).texts[0].tokens

    def close(self) -> None:
        """No more is denoised."""
        for using in self._using.values():
            using.close()
        self._using.clear()
        self._ready.clear()
        self._made.clear()

    def get(self, name: str) -> tuple[Any, Ready]:
        """A transformer, on its device, and its texts. The one before is not needed for now."""
        if self._now not in ("", name):
            self._leave(self._now)
        self._now = name
        transformer = getattr(self._parts, name)
        if name not in self._ready:
            using = self._using[name] = ExitStack()
            mixes = using.enter_context(self._carriers[name].mixes(transformer, self._blends))
            self._ready[name] = Ready(self._prepare(transformer, self.requests[name], mixes), mixes)
        return transformer, self._ready[name]

    def _leave(self, name: str) -> None:
        self._made.pop(name, None)
        if self._parts.forgets(name) and self._ready[name].mixes is not None:
            # Its adapters hold on to it, and would be those of another module when it is read again.
            self._using.pop(name).close()
            self._carriers[name].detach()
            del self._ready[name]
        self._parts.spare(name)

    def denoiser(
        self,
        make: Callable[[str], Denoise],
        boundary: float | None,
        timesteps: Callable[[Tensor], Tensor],
    ) -> Denoise:
        """``make`` (of a part's name) for each, at the noise levels that are its own; made when they are reached."""
        self._made.clear()
        high, *low = [self._lazily(name, make) for name in self.names]
        if not low:
            return high
        assert boundary is not None
        return guidance.experts(high, low[0], boundary, timesteps)

    def _lazily(self, name: str, make: Callable[[str], Denoise]) -> Denoise:
        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            if name not in self._made:
                self._made[name] = make(name)
            return self._made[name](x, sigma)

        return denoise
