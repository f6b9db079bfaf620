"""A model as reward training sees it: it draws with gradients or without, with its adapters or without.

B batch, C latent channels, S tokens, E text width, T frames, H/W sides of a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from frolic.lora.trained import Factors, Learning
from frolic.pipeline.parts import Held
from frolic.sampling.guidance import cfg, experts
from frolic.sampling.noise import sample_noise
from frolic.sampling.prediction import flow
from frolic.sampling.schedules import Schedule
from frolic.sampling.solvers import Sampler
from frolic.types import Denoise

Decode = Callable[[Tensor, torch.Generator | None], Tensor]
"""Latents to frames ``[B, T, 3, H, W]`` in [0, 1]: with a generator a random window of them, without one all."""


class ModelPainter:
    """The transformers of a pipeline, whose linears read the factors of ``learning``.

    Args:
        nets: one transformer, or the experts for much and for little noise, by the names of their parts, each held so
            that only the one in use needs to be on the device.
        null: states [1, S, E] and mask [1, S] of what is guided away from.
        scales: the guidance scale of each of ``nets``; 1 or less is no guidance. With a sampler that noises again, they
            are Sprint models, which are told theirs.
        shape: of one sample's latents.
    """

    def __init__(
        self,
        nets: Mapping[str, Held],
        learning: Mapping[str, Learning],
        null: tuple[Tensor, Tensor],
        scales: Sequence[float],
        sampler: Sampler,
        schedule: Schedule,
        sigmas: Tensor,
        shape: Sequence[int],
        decode: Decode,
        boundary: float | None = None,
    ) -> None:
        self.nets, self.learning, self.null = dict(nets), dict(learning), null
        self.scales, self.sampler, self.schedule, self.sigmas = list(scales), sampler, schedule, sigmas
        self.shape, self._decode, self.boundary = tuple(shape), decode, boundary
        self._here: set[str] = set()
        self._needed: set[str] = set()

    def expert_steps(self, sigmas: Tensor | None = None) -> list[range]:
        """The steps of each of the models, in their order."""
        levels = self.schedule.timesteps((self.sigmas if sigmas is None else sigmas)[:-1])
        if self.boundary is None:
            return [range(len(levels))]
        high = int((levels >= self.boundary * 1000).sum())
        return [range(high), range(high, len(levels))]

    def denoiser(self, text_BSE: Tensor, mask_BS: Tensor) -> Denoise:
        made = [
            guided(
                partial(self._use, name),
                (text_BSE, mask_BS),
                self.null,
                scale,
                self.schedule,
                told=self.sampler.renoises,
            )
            for name, scale in zip(self.nets, self.scales, strict=True)
        ]
        if self.boundary is None:
            return made[0]
        return experts(made[0], made[1], self.boundary, self.schedule.timesteps)

    def begin(self) -> None:
        """A new drawing: graphs of earlier ones have been gone back through."""
        self._needed.clear()

    def _use(self, name: str) -> Any:
        if torch.is_grad_enabled():  # until the next drawing its graph may need the weights where they are
            self._needed.add(name)
        kept = {name, *self._needed}
        for other in self._here - kept:
            self.nets[other].release()
        self._here = (self._here & kept) | {name}
        return self.nets[name].get()

    def decode(self, latents: Tensor, generator: torch.Generator | None) -> Tensor:
        return self._decode(latents, generator)

    @contextmanager
    def plain(self) -> Iterator[None]:
        with self.reading({}):
            yield

    @contextmanager
    def reading(self, factors: Mapping[str, Factors]) -> Iterator[None]:
        """While it lasts, every model reads those of ``factors`` that are named as it is, or none."""
        with ExitStack() as stack:
            for name, learning in self.learning.items():
                stack.enter_context(learning.reading(factors.get(name)))
            yield

    def draw(self, text_BSE: Tensor, mask_BS: Tensor, seeds: Sequence[int], sigmas: Tensor | None = None) -> Tensor:
        """Frames of the final latents ``[B, T, 3, H, W]`` in [0, 1], each from the noise of its own seed."""
        sigmas = self.sigmas if sigmas is None else sigmas
        self.begin()

        def noise(draw: int) -> Tensor:
            return sample_noise(self.shape, 0, seeds, draw).to(text_BSE.device)

        x = self.sampler.start(noise(0), sigmas[0])
        denoise = self.denoiser(text_BSE, mask_BS)
        for step in self.sampler.steps(denoise, x, sigmas, lambda number: noise(number + 1)):
            x = step.x
        return self._decode(x, None)


def guided(
    use: Callable[[], Any],
    text: tuple[Tensor, ...],
    null: tuple[Tensor, ...],
    scale: float,
    schedule: Schedule,
    *,
    told: bool = False,
) -> Denoise:
    """The guided denoiser of the model that ``use`` gives, of texts (states [B, S, E] and mask [B, S]) and of the one
    that they are guided away from ([1, S, E], [1, S]). They go through the model when it is first asked: of two
    experts, one of which may be elsewhere, only those that are used read them. One that is ``told`` the scale has
    nothing that it is guided away from."""
    count = len(text[0])
    guides = scale > 1 and not told
    contexts: list[Any] = []

    def denoiser(index: int) -> Denoise:
        def velocity(x: Tensor, t: Tensor) -> Tensor:
            net = use()
            if not contexts:
                contexts.append(net.context(*text))
                if guides:
                    states, mask = (each.to(x.device).expand(count, *each.shape[1:]) for each in null)
                    contexts.append(net.context(states, mask))
            conditions = {"guidance_B": torch.full((count,), scale, device=x.device)} if told else {}
            made: Tensor = net.denoise(x, t, contexts[index], **conditions)
            return made.float()

        return flow(velocity, schedule.timesteps)

    return cfg(denoiser(0), denoiser(1), scale) if guides else denoiser(0)
