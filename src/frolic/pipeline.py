"""From a request to pictures: text, denoising, decoding. Which model it is does not show here.

B batch, C latent channels, S text tokens, E text width.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor

import frolic
from frolic.errors import NumericsError, RequestError, ResourceError
from frolic.io import media
from frolic.io.safetensors import fingerprint
from frolic.io.tokenizer import Tokenizer
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
_BATCH_PIXELS = 4 * 1024 * 1024
_MAX_BATCH = 8


class Backbone(Protocol):
    """A transformer that takes the text once a request (``context``) and latents once a step (``denoise``)."""

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
class ModelCard:
    """Which model it is. ``weights`` are the files it was read from; ``hash`` their SHA-256, computed when asked."""

    name: str
    version: str
    family: str
    weights: tuple[Path, ...]

    @cached_property
    def hash(self) -> str:
        return fingerprint(self.weights)


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
            return [_to_image(self._pipeline.decode(Latents(row)).tensor[0]) for row in self.latents.tensor.split(1)]


@dataclass(frozen=True)
class Result:
    """What came out: ``images`` (PIL) or ``pixels`` [B, 3, H, W] in [-1, 1], as asked.

    ``request`` has nothing left open, ``seconds`` is what it took, ``notes`` what the user should be told, ``batches``
    for each picture its place in the batch it was drawn in and how large that was.
    """

    images: tuple[Image, ...]
    pixels: Tensor | None
    request: Request
    seconds: float
    notes: list[str]
    model: ModelCard
    settings: dict[str, Any]
    batches: tuple[tuple[int, int], ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of every picture: with it, the picture can be drawn alone."""
        return self.request.seeds

    def record(self, index: int = 0) -> dict[str, Any]:
        """How picture ``index`` was made, as JSON without paths: what a PNG carries and ``--from`` reads."""
        card = self.model
        return {
            "schema": media.SCHEMA,
            "version": frolic.__version__,
            "model": {"name": card.name, "version": card.version, "family": card.family, "hash": card.hash},
            "request": self.request.picture(index),
            "batch": list(self.batches[index]),
            **self.settings,
        }

    def save(self, path: str | Path, index: int = 0, *, metadata: bool = True, force: bool = False) -> Path:
        """Write picture ``index`` as PNG, whole or not at all.

        Raises:
            FileError: something is at ``path`` and ``force`` is not set, or nothing can be written there.
            ResourceError: the disk is full.
        """
        path = Path(path)
        media.save_png(self.images[index], path, self.record(index) if metadata else None, force=force)
        return path


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
        **fields: Any,
    ) -> Iterator[Progress | Result]:
        """As a call, but yields a ``Progress`` after every step and the ``Result`` last. Closing it stops the work."""
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
        return self._draw(request, latents, output)

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

    def _draw(self, request: Request, latents: Tensor | None, output: Output) -> Iterator[Progress | Result]:
        started = time.perf_counter()
        request, notes = request.completed(self.defaults, self.stride)
        notes += self._too_long(request)
        size = _batch_size(request)
        firsts = range(0, request.pictures, size)
        pixels: list[Tensor] = []
        try:
            stack = self._contexts(request)
            for number, first in enumerate(firsts):
                rows = range(first, min(first + size, request.pictures))
                with torch.inference_mode():
                    x = self._noise(request, rows) if latents is None else latents[rows.start : rows.stop]
                    x = x.to(self.device, torch.float32)
                for step in self._steps(request, rows, x, stack):
                    x = step.x
                    _require_finite(x, f"denoising, step {step.index + 1} of {step.total},")
                    done = number * step.total + step.index
                    yield Progress(done, step.total * len(firsts), first, Latents(step.denoised), self)
                with torch.inference_mode():
                    pixels += [self._decode_checked(row) for row in x.split(1)]
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise _out_of_memory(request) from error
        except RuntimeError as error:
            if "DefaultCPUAllocator" not in str(error):  # which has no error of its own
                raise
            raise _out_of_memory(request) from error
        tensor = torch.cat(pixels).clone()
        yield Result(
            images=tuple(_to_image(row) for row in tensor) if output == "pil" else (),
            pixels=tensor if output == "tensor" else None,
            request=request,
            seconds=time.perf_counter() - started,
            notes=notes,
            model=self.card,
            settings=self._settings(latents is not None),
            batches=tuple((i % size, min(size, request.pictures - i + i % size)) for i in range(request.pictures)),
        )

    def _steps(self, request: Request, rows: range, x: Tensor, stack: Any) -> Iterator[Any]:
        """The sampler's steps. Inference mode is held while it computes and released while the caller looks."""
        assert request.steps and request.sampler
        sampler = SAMPLERS[request.sampler]
        sigmas = sampler.sigmas(request.steps, self.defaults.shift)
        with torch.inference_mode():
            steps = sampler.solve(self._denoiser(request, rows, stack, sampler.integer_timesteps), x, sigmas)
        while True:
            with torch.inference_mode():
                step = next(steps, None)
            if step is None:
                return
            yield step

    def _denoiser(self, request: Request, rows: range, stack: Any, integer_timesteps: bool) -> Denoise:
        """The guided denoiser for ``rows``; without guidance, half the batch."""
        index = [1 + row // request.num_images for row in rows]
        guided = _guided(request)
        if guided:
            index = [0] * len(rows) + index
        context = stack.rows(torch.tensor(index, device=self.device))

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return self.transformer.denoise(x.to(self.dtype), t, context).float()

        denoise = flow(velocity, integer_timesteps)
        return cfg_batched(denoise, request.guidance_scale or 1.0) if guided else denoise

    def _contexts(self, request: Request) -> Any:
        """The prepared text: row 0 the negative prompt, then the prompts. Once a request."""
        assert request.negative_prompt is not None
        # Without guidance nothing looks at row 0.
        first = request.negative_prompt if _guided(request) else request.prompts[0]
        text = self.encode([first, *request.prompts])
        used = int(text.mask.sum(dim=1).max())  # what lies behind is padding for all, and masked
        with torch.inference_mode():
            return self.transformer.context(text.embeds[:, :used], text.mask[:, :used])

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
        if bool(pixels.amax() == pixels.amin()):
            raise NumericsError("The decoder gave a picture of one flat colour; try --dtype float32 or another model.")
        return pixels.clamp(-1, 1)

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
        for number, prompt in enumerate(request.prompts, 1):
            if (count := self.tokenizer.count(self._prepared(prompt))) > most:
                notes.append(f"prompt {number} has {count} tokens and this model reads {most}; the rest was ignored.")
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


def _batch_size(request: Request) -> int:
    assert request.height and request.width
    return max(1, min(_MAX_BATCH, _BATCH_PIXELS // (request.height * request.width)))


def _require_finite(tensor: Tensor, stage: str) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise NumericsError(f"{stage[0].upper()}{stage[1:]} gave values that are not finite; try --dtype float32.")


def _out_of_memory(request: Request) -> ResourceError:
    return ResourceError(f"Memory ran out at {request.width}x{request.height}; ask for a smaller size.")


def _to_image(pixels: Tensor) -> Image:
    """[3, H, W] in [-1, 1] to a PIL picture."""
    from PIL import Image

    array = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(array.contiguous().cpu().numpy())
