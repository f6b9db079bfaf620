"""Guidance: functions from denoiser to denoiser. A guided x0 is a guided velocity, because x0 is linear in it.

A batched form makes one call for all branches: ``joint`` takes ``[k B, ...]``, branch after branch in the order that
``branches`` gives, and a ``sigma`` [] or [k B].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from frolic.sampling.prediction import per_sample
from frolic.sampling.schedules import TRAIN_STEPS, exact_timesteps
from frolic.types import Denoise

UNCOND, COND, PERTURBED = "uncond", "cond", "perturbed"


def branches(scale: float, pag_scale: float = 0.0) -> tuple[str, ...]:
    """What a joint call is made of, in order: no guidance for ``scale`` 1 or less, nothing perturbed for ``pag_scale``
    0 or less."""
    return (*([UNCOND] if scale > 1 else []), COND, *([PERTURBED] if pag_scale > 0 else []))


def guided(joint: Denoise, scale: float, pag_scale: float = 0.0) -> Denoise:
    """The guidance that ``branches(scale, pag_scale)`` is for: none, ``cfg_batched`` or ``pag_batched``."""
    if pag_scale > 0:
        return pag_batched(joint, scale, pag_scale)
    return cfg_batched(joint, scale) if scale > 1 else joint


def cfg(cond: Denoise, uncond: Denoise, scale: float) -> Denoise:
    """Classifier-free guidance (arXiv 2207.12598): ``u + scale (c - u)``, as two calls."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        unguided = uncond(x, sigma)
        return unguided + scale * (cond(x, sigma) - unguided)

    return denoise


def cfg_batched(joint: Denoise, scale: float) -> Denoise:
    """The same as one call: ``joint`` takes ``[2B, ...]``, the unconditional half first."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        u, c = _each(joint, 2, x, sigma)
        return u + scale * (c - u)

    return denoise


def pag_batched(joint: Denoise, scale: float, pag_scale: float) -> Denoise:
    """Perturbed-attention guidance (arXiv 2403.17377): ``u + scale (c - u) + pag_scale (c - p)``.

    With ``scale`` 1 or less there is no unconditional branch: ``c + pag_scale (c - p)``.
    """
    has_uncond = scale > 1

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        *u, c, p = _each(joint, 2 + has_uncond, x, sigma)
        return (u[0] + scale * (c - u[0]) if has_uncond else c) + pag_scale * (c - p)

    return denoise


def apg_batched(joint: Denoise, scale: float, *, eta: float, norm_threshold: float, momentum: float) -> Denoise:
    """Adaptive projected guidance (arXiv 2410.02416), with the halves of ``cfg_batched``.

    ``c - u`` gathers ``momentum`` times what it was in the step before (below 0 damps it), is shortened to
    ``norm_threshold`` where it is longer (0 never shortens), and keeps only the share ``eta`` of its part along ``c``,
    the part that saturates colours. With ``eta`` 1, ``norm_threshold`` 0 and ``momentum`` 0 it is ``cfg_batched``.

    The denoiser remembers its last step, so every run needs a fresh one.
    """
    before: Tensor | None = None

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal before
        u, c = _each(joint, 2, x, sigma)
        update = c - u
        if momentum and before is not None:
            update = update + momentum * before
        before = update
        axes = tuple(range(1, x.ndim))
        if norm_threshold > 0:
            length = update.square().sum(axes, keepdim=True).sqrt()
            update = update * (norm_threshold / length).clamp(max=1)
        along = (update * c).sum(axes, keepdim=True) / c.square().sum(axes, keepdim=True).clamp_min(1e-24)
        return c + (scale - 1) * (update - (1 - eta) * along * c)

    return denoise


def interval(inside: Denoise, outside: Denoise, low: float, high: float) -> Denoise:
    """Guidance in a limited interval (arXiv 2404.07724): ``inside`` for ``low < sigma <= high``, else ``outside``.

    Only one of them is called unless the samples of a batch differ.
    """

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        within = (sigma > low) & (sigma <= high)
        if bool(within.all()):
            return inside(x, sigma)
        if not bool(within.any()):
            return outside(x, sigma)
        return torch.where(per_sample(within, x).bool(), inside(x, sigma), outside(x, sigma))

    return denoise


def experts(
    high: Denoise, low: Denoise, boundary: float, timesteps: Callable[[Tensor], Tensor] = exact_timesteps
) -> Denoise:
    """Two denoisers that share the work: ``high`` from the noise level ``boundary`` (0 to 1) on, upwards, and ``low``
    below it. All samples of a batch are at one level. ``timesteps`` is the schedule's, in which the two are compared:
    Wan2.2's rule (``wan/text2video.py``)."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        reached = timesteps(sigma.flatten()[:1]) >= boundary * TRAIN_STEPS
        return high(x, sigma) if bool(reached) else low(x, sigma)

    return denoise


def keep(denoise: Denoise, known: Tensor, mask: Tensor) -> Denoise:
    """Inpainting: where ``mask`` is 1 (0..1, broadcasts against ``known`` [B, ...]) the estimate is ``known``.

    Started from ``add_noise(known, noise, sigmas[0])``, every solver here then stays on ``add_noise(known, noise,
    sigma)`` there, which is what diffusers' inpainting writes back after every step. Put it around all guidance.
    """

    def kept(x: Tensor, sigma: Tensor) -> Tensor:
        return mask * known + (1 - mask) * denoise(x, sigma)

    return kept


def begin(denoise: Denoise, first: Tensor) -> Denoise:
    """A clip that begins with a given frame: the estimate of its first latent frame is ``first`` [1, C, 1, h, w], which
    broadcasts over the batch. A sampler that ends at noise zero then ends with it."""

    def begun(x: Tensor, sigma: Tensor) -> Tensor:
        rest = denoise(x, sigma)[:, :, 1:]
        return torch.cat([first.to(rest).expand(len(rest), -1, -1, -1, -1), rest], dim=2)

    return begun


def _each(joint: Denoise, count: int, x: Tensor, sigma: Tensor) -> tuple[Tensor, ...]:
    repeated = sigma if sigma.ndim == 0 else torch.cat([sigma] * count)
    return joint(torch.cat([x] * count), repeated).chunk(count)
