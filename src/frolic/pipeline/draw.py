"""From a request to pictures: text, denoising, decoding. Which model it is does not show here.

B batch, C latent channels, S text tokens, E text width.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor

from frolic.errors import NumericsError, RequestError, ResourceError, is_out_of_memory
from frolic.io.tokenizer import Tokenizer
from frolic.pipeline.result import ModelCard, Result, to_image
from frolic.request import Request
from frolic.sampling.guidance import cfg_batched
from frolic.sampling.noise import sample_noise
from frolic.sampling.prediction import flow
from frolic.sampling.solvers import SAMPLERS
from frolic.spec import SamplingDefaults
from frolic.types import Conditioning, Denoise, Latents, Pixels

if TYPE_CHECKING:
    from PIL.Image import Image

Output = Literal["pil", "tensor"]
_CACHED_TEXTS = 16
_TEXT_STEP = 32
_BATCH_PIXELS = 4 * 1024 * 1024
_MAX_BATCH = 8


class Backbone(Protocol):
    """A transformer that takes the text once a request (``context``) and latents once a step (``denoise``).

    Contexts of equally wide texts stack with their class's ``cat``; ``rows`` selects from a stack.
    """

    config: Any

    def context(self, text_BSE: Tensor, mask_BS: Tensor) -> Any: ...
    def denoise(self, x_BCHW: Tensor, t_B: Tensor, context: Any) -> Tensor: ...


class Autoencoder(Protocol):
    """``config`` states ``stride``, ``latent_channels`` and ``scaling_factor``."""

    config: Any

    def decode(self, z: Tensor) -> Tensor: ...


class TextEncoder(Protocol):
    def __call__(self, ids_BS: Tensor, mask_BS: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Progress:
    """One step done, of ``total``, for the pictures ``first`` to ``first + len(latents)``."""

    index: int
    total: int
    first: int
    latents: Latents
    _pipeline: Pipeline

    def preview(self) -> list[Image]:
        """The pictures as the model expects them to become."""
        with torch.inference_mode():
            return [to_image(self._pipeline.decode(Latents(row)).tensor[0]) for row in self.latents.tensor.split(1)]


@dataclass(frozen=True)
class _Texts:
    """The prepared texts of a request: ``stack`` holds their contexts, ``places`` the row of each prompt in it,
    ``tokens`` their common width."""

    stack: Any
    places: dict[str, int]
    tokens: int


class Pipeline:
    """A model that is ready to draw. ``frolic.load`` makes one."""

    def __init__(
        self,
        *,
        transformer: Backbone,
        vae: Autoencoder,
        text_encoder: TextEncoder,
        tokenizer: Tokenizer,
        defaults: SamplingDefaults,
        card: ModelCard,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        prompt_suffix: str = "",
    ) -> None:
        self.transformer = transformer
        self.vae = vae
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.defaults = defaults
        self.card = card
        self.device = torch.device(device)
        self.dtype = dtype
        self.prompt_suffix = prompt_suffix
        self._texts: OrderedDict[str, Conditioning] = OrderedDict()

    @property
    def stride(self) -> int:
        """Pixels per image token along a side: sizes are multiples of it."""
        return int(self.vae.config.stride * getattr(self.transformer.config, "patch_size", 1))

    def __call__(
        self,
        prompt: str | Sequence[str] | Request,
        *,
        latents: Tensor | None = None,
        output: Output = "pil",
        **fields: Any,
    ) -> Result:
        """Draw. ``fields`` are those of ``Request``: seed, steps, guidance_scale, height, width, num_images,
        negative_prompt, sampler. ``latents``: starting noise [B, C, h, w], one for each picture, instead of the seed's.

        Raises:
            RequestError: the request cannot be carried out as asked.
            NumericsError: a stage stopped being finite, or a picture came out as one flat colour.
            ResourceError: memory ran out.
        """
        for event in self.stream(prompt, latents=latents, output=output, **fields):
            if isinstance(event, Result):
                return event
        raise AssertionError("a stream ends with its result")

    def stream(
        self,
        prompt: str | Sequence[str] | Request,
        *,
        latents: Tensor | None = None,
        output: Output = "pil",
        tokens: int = 0,
        **fields: Any,
    ) -> Iterator[Progress | Result]:
        """As a call, but yields a ``Progress`` after every step and the ``Result`` last. Closing it stops the work.

        ``tokens``: the least width of the text, which longer prompts of the same request gave a picture that is drawn
        again. Wider texts differ in nothing but rounding.
        """
        if output not in ("pil", "tensor"):
            raise RequestError(f"output is {output!r}; give 'pil' or 'tensor'.")
        if isinstance(prompt, Request):
            if fields:
                raise RequestError("Give either a Request or its fields, not both.")
            request = prompt
        else:
            request = Request.of(prompt, **fields)
        if latents is not None:
            request = self._sized_by(request, latents)
        return self._draw(request, latents, output, tokens)

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Text to ``Conditioning`` [B, S, E]. Each prompt is encoded by itself, and the last few are remembered.

        Raises:
            NumericsError: the text encoder gave something that is not finite.
        """
        rows = [self._encode_one(prompt) for prompt in prompts]
        return Conditioning(torch.cat([row.embeds for row in rows]), torch.cat([row.mask for row in rows]))

    def decode(self, latents: Latents) -> Pixels:
        """Latents to pixels, not clamped. Leaves the grad mode alone."""
        z = latents.tensor.to(self.device, self.dtype) / self.vae.config.scaling_factor
        return Pixels(self.vae.decode(z).float())

    def _draw(
        self, request: Request, latents: Tensor | None, output: Output, tokens: int
    ) -> Iterator[Progress | Result]:
        started = time.perf_counter()
        request, notes = request.completed(self.defaults, self.stride)
        notes += self._too_long(request)
        size = _batch_size(request)
        firsts = range(0, request.pictures, size)
        pixels: list[Tensor] = []
        try:
            texts = self._contexts(request, tokens)
            for number, first in enumerate(firsts):
                rows = range(first, min(first + size, request.pictures))
                with torch.inference_mode():
                    x = self._noise(request, rows) if latents is None else latents[rows.start : rows.stop]
                    x = x.to(self.device, torch.float32)
                for step in self._steps(request, rows, x, texts):
                    x = step.x
                    _require_finite(x, f"denoising, step {step.index + 1} of {step.total},")
                    done = number * step.total + step.index
                    yield Progress(done, step.total * len(firsts), first, Latents(step.denoised), self)
                with torch.inference_mode():
                    pixels += [self._decode_checked(row) for row in x.split(1)]
            tensor = torch.cat(pixels).clone()
            images = tuple(to_image(row) for row in tensor) if output == "pil" else ()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise ResourceError(
                f"Memory ran out at {request.width}x{request.height}; ask for a smaller size or fewer pictures."
            ) from error
        yield Result(
            images=images,
            pixels=tensor if output == "tensor" else None,
            request=request,
            seconds=time.perf_counter() - started,
            notes=notes,
            model=self.card,
            settings=self._settings(latents is not None),
            batches=tuple((i % size, min(size, request.pictures - i + i % size)) for i in range(request.pictures)),
            tokens=texts.tokens,
        )

    def _steps(self, request: Request, rows: range, x: Tensor, texts: _Texts) -> Iterator[Any]:
        """The sampler's steps. Inference mode is held while it computes and released while the caller looks."""
        assert request.steps and request.sampler
        sampler = SAMPLERS[request.sampler]
        sigmas = sampler.sigmas(request.steps, self.defaults.shift)
        with torch.inference_mode():
            steps = sampler.solve(self._denoiser(request, rows, texts, sampler.integer_timesteps), x, sigmas)
        while True:
            with torch.inference_mode():
                step = next(steps, None)
            if step is None:
                return
            yield step

    def _denoiser(self, request: Request, rows: range, texts: _Texts, integer_timesteps: bool) -> Denoise:
        """The guided denoiser for ``rows``; without guidance, half the batch."""
        wanted = [request.prompt_of(row) for row in rows]
        guided = _guided(request)
        if guided:
            wanted = [_negative(request)] * len(rows) + wanted
        context = texts.stack.rows(torch.tensor([texts.places[prompt] for prompt in wanted], device=self.device))

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return self.transformer.denoise(x.to(self.dtype), t, context).float()

        denoise = flow(velocity, integer_timesteps)
        return cfg_batched(denoise, request.guidance_scale or 1.0) if guided else denoise

    def _contexts(self, request: Request, tokens: int) -> _Texts:
        """Every text of ``request``, prepared. Each by itself and at a width that a record can repeat, so that what a
        prompt becomes does not depend on how many others there are: arithmetic rounds differently in other shapes."""
        prompts = list(dict.fromkeys([*([_negative(request)] if _guided(request) else []), *request.prompts]))
        texts = [self._encode_one(prompt) for prompt in prompts]
        longest = max(tokens, *(int(text.mask.sum()) for text in texts))
        # What lies behind is padding for all, and masked.
        width = min(self.defaults.max_tokens, -(-longest // _TEXT_STEP) * _TEXT_STEP)
        with torch.inference_mode():
            parts = [self.transformer.context(text.embeds[:, :width], text.mask[:, :width]) for text in texts]
            return _Texts(type(parts[0]).cat(parts), {prompt: row for row, prompt in enumerate(prompts)}, width)

    def _encode_one(self, prompt: str) -> Conditioning:
        text = self._prepared(prompt)
        if text in self._texts:
            self._texts.move_to_end(text)
            return self._texts[text]
        ids, mask = self.tokenizer.encode([text], self.defaults.max_tokens)
        # Remembered tensors must be usable in training too, whatever mode the caller is in.
        with torch.inference_mode(False), torch.no_grad():
            mask = mask.to(self.device)
            embeds = self.text_encoder(ids.to(self.device), mask)
        _require_finite(embeds, "the text encoder")
        self._texts[text] = Conditioning(embeds, mask)
        if len(self._texts) > _CACHED_TEXTS:
            self._texts.popitem(last=False)
        return self._texts[text]

    def _prepared(self, prompt: str) -> str:
        text = (prompt.lower() if self.defaults.lowercase else prompt).strip()
        return text + self.prompt_suffix if text else text

    def _noise(self, request: Request, rows: range) -> Tensor:
        assert request.height and request.width
        stride = self.vae.config.stride
        shape = (self.vae.config.latent_channels, request.height // stride, request.width // stride)
        return torch.cat([sample_noise(shape, request.seeds[row], [0]) for row in rows])

    def _decode_checked(self, row: Tensor) -> Tensor:
        """A picture [1, 3, H, W] in [-1, 1]. One at a time: batch mates cannot change it, and memory stays low."""
        pixels = self.decode(Latents(row)).tensor
        _require_finite(pixels, "the decoder")
        pixels = pixels.clamp(-1, 1)
        if bool(pixels.amax() == pixels.amin()):
            raise NumericsError("The decoder gave a picture of one flat colour; try --dtype float32 or another model.")
        return pixels

    def _sized_by(self, request: Request, latents: Tensor) -> Request:
        """``request`` with the size of the ``latents`` a caller gave."""
        channels, stride = self.vae.config.latent_channels, self.vae.config.stride
        patch = self.stride // stride
        shape = tuple(latents.shape)
        fits = (
            len(shape) == 4
            and shape[:2] == (request.pictures, channels)
            and all(side > 0 and side % patch == 0 for side in shape[2:])
            and latents.is_floating_point()
        )
        if not fits:
            raise RequestError(
                f"latents are {list(shape)} of {latents.dtype}; give float [{request.pictures}, {channels}, height / "
                f"{stride}, width / {stride}], one for each picture."
            )
        if not bool(torch.isfinite(latents).all()):
            raise RequestError("latents hold values that are not finite; give finite noise.")
        height, width = shape[2] * stride, shape[3] * stride
        if (request.height or height, request.width or width) != (height, width):
            raise RequestError(f"latents are for {width}x{height} pixels; leave out height and width.")
        return replace(request, height=height, width=width)

    def _too_long(self, request: Request) -> list[str]:
        notes, most = [], self.defaults.max_tokens
        names: dict[str, str] = {}
        for number, prompt in enumerate(request.prompts, 1):
            names.setdefault(prompt, f"prompt {number}")
        if _guided(request):
            names.setdefault(_negative(request), "the negative prompt")
        for prompt, name in names.items():
            if (count := self.tokenizer.count(self._prepared(prompt))) > most:
                notes.append(f"{name} has {count} tokens and this model reads {most}; the rest was ignored.")
        return notes

    def _settings(self, given_latents: bool) -> dict[str, Any]:
        return {
            "shift": self.defaults.shift,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.device.type,
            "torch": torch.__version__,
            "noise": "given" if given_latents else "seed",
        }


def _guided(request: Request) -> bool:
    return request.guidance_scale is not None and request.guidance_scale > 1


def _negative(request: Request) -> str:
    assert request.negative_prompt is not None
    return request.negative_prompt


def _batch_size(request: Request) -> int:
    assert request.height and request.width
    return max(1, min(_MAX_BATCH, _BATCH_PIXELS // (request.height * request.width)))


def _require_finite(tensor: Tensor, stage: str) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise NumericsError(f"{stage[0].upper()}{stage[1:]} gave values that are not finite; try --dtype float32.")
