"""What a batch of pictures is drawn under: texts, guidance, control, and what is to stay of an image.

B pictures, k branches of guidance, C latent channels, h/w height and width of latents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor

from frolic.accel.cache import StepCache
from frolic.pipeline.inputs import Anchors
from frolic.pipeline.loras import Mixes, reading
from frolic.pipeline.text import TextStage
from frolic.request import Request
from frolic.sampling import guidance
from frolic.sampling.prediction import flow
from frolic.types import Conditioning, Denoise, Perturb

_TEXT_STEP = 32


class Backbone(Protocol):
    """A transformer that takes the text once a request (``context``) and latents once a step (``denoise``).

    Contexts of equally wide texts stack with their class's ``cat``; ``rows`` selects from a stack, ``joined`` puts
    selections one after the other. ``perturb`` and ``control`` of ``denoise`` are what to perturb and what a ControlNet
    makes of a picture.
    """

    config: Any

    def context(self, text_BSE: Tensor, mask_BS: Tensor) -> Any: ...
    def denoise(self, x_BChw: Tensor, t_B: Tensor, context: Any, **conditions: Any) -> Tensor: ...


@dataclass(frozen=True)
class _Stack:
    """Prepared texts of one width: ``net`` holds their contexts for the transformer and ``led`` those for its
    ControlNet, ``places`` the row of each prompt's in them, under each blend of adapters."""

    net: Any
    led: Any
    places: Mapping[tuple[str, int], int]


@dataclass(frozen=True)
class Texts:
    """The prepared texts of a request: of its prompts, at the width ``tokens``, and of what they are guided away from,
    which is shorter more often than not, and cheaper so. ``level``: all are of one width."""

    stacks: Mapping[str, _Stack]
    tokens: int
    level: bool = False

    def contexts(self, request: Request, rows: Sequence[int], branches: Sequence[str]) -> tuple[Any, Any]:
        """For the transformer and for its ControlNet: the contexts of the pictures ``rows``, branch after branch."""
        parts = []
        for kind, group in groupby(branches, _kind):
            stack = self.stacks[kind]
            index = torch.tensor([stack.places[_text_of(request, row)] for _ in group for row in rows])
            parts.append(
                tuple(
                    None if each is None else each.rows(index.to(each.mask.device)) for each in (stack.net, stack.led)
                )
            )
        net, led = zip(*parts, strict=True)
        # Texts of one width stand in one batch: adapters tell its rows apart, and not those of the parts of a chain.
        join = type(net[0]).cat if self.level else type(net[0]).joined
        return join(net), None if led[0] is None else join(led)


Encoded = dict[tuple[str, str], Conditioning]
"""Each prompt of a request, and what it is guided away from, by branch and prompt."""


def encode_texts(stage: TextStage, request: Request) -> Encoded:
    """Every text of ``request``, each by itself."""
    encoded: Encoded = {}
    for prompt in dict.fromkeys(request.prompts):
        encoded[guidance.COND, prompt] = stage.encode(prompt)
        if request.guided:
            assert request.negative_prompt is not None
            encoded[guidance.UNCOND, prompt] = stage.unconditional(request.negative_prompt, prompt)
    return encoded


def cut_texts(stage: TextStage, request: Request) -> list[str]:
    """A sentence for every text of ``request`` that the model cannot read to its end."""
    counts: dict[str, tuple[str, int]] = {}
    for number, prompt in enumerate(request.prompts, 1):
        counts.setdefault(prompt, (f"prompt {number}", stage.count(prompt)))
    said = list(counts.values())
    if request.guided:
        assert request.negative_prompt is not None
        said.append(("the negative prompt", stage.count(request.negative_prompt, negative=True)))
    return [
        f"{name} has {count} tokens and this model reads {stage.max_tokens}; the rest was ignored."
        for name, count in said
        if count > stage.max_tokens
    ]


def prepare_texts(
    transformer: Backbone,
    controlnet: Any,
    request: Request,
    encoded: Encoded,
    tokens: int,
    dtype: torch.dtype,
    *,
    shared: bool = False,
    mixes: Mixes | None = None,
    phase: int = 0,
) -> Texts:
    """What the transformer, and the ControlNet where there is one, read of every text, under the mixes of adapters in
    a phase.

    The prompts share a width, at least ``tokens``, that a record can repeat: what a prompt becomes must not depend on
    how many others there are, and arithmetic rounds differently in other shapes. ``shared``: what they are guided away
    from has that width too, because it is read through their masks."""
    stacks, widths = {}, {}
    level = mixes is not None and mixes.varied
    shared = shared or level
    wanted = dict.fromkeys(_text_of(request, row) for row in range(request.pictures))
    for kind in dict.fromkeys(kind for kind, _ in encoded):
        texts = {(prompt, blend): encoded[kind, prompt] for prompt, blend in wanted}
        unique = {(id(text.embeds), id(text.mask), blend): text for (_, blend), text in texts.items()}
        longest = max(int(text.mask.sum()) for text in unique.values())
        if kind == guidance.COND or shared:
            longest = max(tokens, longest)
        # What lies behind is padding for all, and masked. Nothing at all is one token, which costs next to nothing.
        width = 1 if kind == guidance.UNCOND and longest == 1 and not shared else -(-longest // _TEXT_STEP) * _TEXT_STEP
        widths[kind] = width = min(width, *(text.mask.shape[1] for text in unique.values()))
        cut = [(text.embeds[:, :width].to(dtype), text.mask[:, :width]) for text in unique.values()]
        rows = {key: row for row, key in enumerate(unique)}
        places = {key: rows[id(text.embeds), id(text.mask), key[1]] for key, text in texts.items()}
        under = [reading(mixes, kind, blend, phase) for _, _, blend in unique]
        stacks[kind] = _Stack(_stacked(transformer, cut, under), _stacked(controlnet, cut), places)
    return Texts(stacks, widths[guidance.COND], level)


def _text_of(request: Request, row: int) -> tuple[str, int]:
    """The prompt of a picture, and the blend that it is read under."""
    return request.prompt_of(row), request.blend_of(row)


def _stacked(
    net: Any, texts: Sequence[tuple[Tensor, Tensor]], under: Sequence[AbstractContextManager[None]] | None = None
) -> Any:
    """The contexts of ``texts`` for ``net``, stacked; each is made by itself."""
    if net is None:
        return None
    contexts = []
    for text, mix in zip(texts, under or [nullcontext()] * len(texts), strict=True):
        with mix:
            contexts.append(net.context(*text))
    return type(contexts[0]).cat(contexts)


def denoiser(
    transformer: Backbone,
    request: Request,
    rows: Sequence[int],
    texts: Sequence[Texts],
    tied: Anchors,
    *,
    sigmas: Tensor,
    timesteps: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
    device: torch.device,
    controlnet: Any = None,
    injection: str = "diffusers",
    mixes: Mixes | None = None,
    caches: list[StepCache],
) -> Denoise:
    """The guided denoiser for the pictures ``rows`` of ``request``, at the noise levels ``sigmas``; ``timesteps`` is
    the schedule's. ``texts`` are those of each phase of ``mixes``, or one without adapters. It may remember its last
    step: one for each run."""
    scale = request.branch_scale or 1.0
    branches = guidance.branches(scale, request.pag_scale)

    def joint(branches: Sequence[str]) -> Denoise:
        if mixes is None:
            return prepared(0, branches)
        blends = [request.blend_of(row) for row in rows]
        return mixes.switched(lambda phase: prepared(phase, branches), branches, blends, sigmas)

    def prepared(phase: int, branches: Sequence[str]) -> Denoise:
        context, led = texts[phase].contexts(request, rows, branches)
        conditions: dict[str, Any] = {}
        if guidance.PERTURBED in branches:
            conditions["perturb"] = Perturb(frozenset(request.pag_layers or ()), len(rows))
        if tied.control is not None:
            conditions["control"] = controlnet.control(
                tied.control.to(device, dtype), led, scale=request.control_scale, injection=injection
            )

        if request.tells_guidance:
            conditions["guidance_B"] = torch.full((len(rows),), request.guidance_scale or 0.0, device=device)
        if request.step_cache:
            # One for each way that the model is called, and so for each expert: samples keep their places in it.
            conditions["through"] = StepCache(request.step_cache)
            caches.append(conditions["through"])

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            if tied.beside is not None:
                conditions["known_BCTHW"] = tied.beside.to(device, dtype).expand(len(x), *[-1] * (x.ndim - 1))
            if tied.first is not None:
                x, t = _begun(x, t, tied.first)
            return transformer.denoise(x.to(dtype), t, context, **conditions).float()

        return flow(velocity, timesteps)

    if request.apg and scale > 1:  # of two experts one may go unguided
        denoise = guidance.apg_batched(
            joint(branches),
            scale,
            eta=request.apg_eta,
            norm_threshold=request.apg_threshold,
            momentum=request.apg_momentum,
        )
    else:
        denoise = guidance.guided(joint(branches), scale, request.pag_scale)
    if request.guidance_interval is not None and len(branches) > 1:
        denoise = guidance.interval(denoise, joint((guidance.COND,)), *request.guidance_interval)
    if tied.first is not None:
        # Whatever a solver makes of that frame, it ends as it was given.
        denoise = guidance.begin(denoise, tied.first.to(device))
    if tied.kept is not None:
        assert tied.known is not None
        denoise = guidance.keep(denoise, tied.known.to(device), tied.kept.to(device))
    return denoise


def _begun(x_BCThw: Tensor, t_B: Tensor, first_1C1hw: Tensor) -> tuple[Tensor, Tensor]:
    """A clip with its first frame as it is, and the timesteps [B, T] of its frames."""
    first = first_1C1hw.to(x_BCThw).expand(len(x_BCThw), -1, -1, -1, -1)
    t_BT = t_B[:, None].repeat(1, x_BCThw.shape[2])
    t_BT[:, 0] = 0
    return torch.cat([first, x_BCThw[:, :, 1:]], dim=2), t_BT


def _kind(branch: str) -> str:
    return guidance.UNCOND if branch == guidance.UNCOND else guidance.COND
