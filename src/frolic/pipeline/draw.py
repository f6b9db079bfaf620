"""From a request to pictures: text, denoising, decoding. Which model it is does not show here.

B batch, C latent channels, h/w height and width of latents.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor

from frolic.errors import FrolicError, RequestError, ResourceError, is_out_of_memory
from frolic.io.tokenizer import Tokenizer
from frolic.lora.experts import HIGH, LOW
from frolic.pipeline.denoise import Backbone, Encoded, Texts, cut_texts, denoiser, encode_texts, prepare_texts
from frolic.pipeline.experts import FIRST, SECOND, Experts
from frolic.pipeline.finish import Finishing
from frolic.pipeline.finite import require_finite
from frolic.pipeline.inputs import Anchors, Given, Inputs, anchors, latents_size
from frolic.pipeline.loras import Loras, Mixes, Read, blends_of
from frolic.pipeline.parts import Held
from frolic.pipeline.progress import Progress
from frolic.pipeline.reading import Reading
from frolic.pipeline.result import ModelCard, Result, to_frames, to_image
from frolic.pipeline.text import TextEncoder
from frolic.request import MAX_LAYER, Request, batch_size
from frolic.sampling.noise import sample_noise
from frolic.sampling.prediction import add_noise
from frolic.sampling.schedules import tail, time_sigmas
from frolic.sampling.solvers import SAMPLERS
from frolic.spec import SamplingDefaults
from frolic.strength import Blend, Strength, blend_of
from frolic.types import Compat, Denoise, Latents

if TYPE_CHECKING:
    from frolic.pipeline.inputs import Picture

Output = Literal["pil", "tensor"]


class Autoencoder(Protocol):
    """``config`` states ``stride``, ``latent_channels`` and ``scaling_factor``."""

    config: Any

    def encode(self, x: Tensor) -> Tensor: ...
    def decode(self, z: Tensor) -> Tensor: ...


class Pipeline(Finishing, Reading):
    """A model that is ready to draw. ``frolic.load`` makes one.

    ``transformer``, ``vae``, ``text_encoder``, ``transformer_2`` (the expert for little noise of a model that has two)
    and ``controlnet`` are modules, or hold one (``frolic.pipeline.parts``).
    ``dtypes`` says what each of them computes in. ``tiling``: ``auto`` decodes in pieces where memory asks for it.
    ``rescue`` is the folder in which latents are kept that no memory was left to decode.
    """

    def __init__(
        self,
        *,
        transformer: Backbone | Held,
        vae: Autoencoder | Held,
        text_encoder: TextEncoder | Held,
        transformer_2: Backbone | Held | None = None,
        controlnet: Any = None,
        tokenizer: Tokenizer,
        defaults: SamplingDefaults,
        card: ModelCard,
        device: torch.device | str = "cpu",
        dtypes: Mapping[str, torch.dtype] | None = None,
        prompt_suffix: str = "",
        compat: Compat = "diffusers",
        tiling: str = "auto",
        rescue: Path | None = None,
        read_lora: Read | None = None,
    ) -> None:
        self.defaults = defaults
        self._loras = Loras(read_lora, "" if transformer_2 is None else HIGH)
        self._carriers = {FIRST: self._loras}
        if transformer_2 is not None:
            self._carriers[SECOND] = Loras(read_lora, LOW)
        self.card = card
        self.compat = compat
        super().__init__(
            device=device,
            dtypes=dtypes or {},
            tiling=tiling,
            rescue=rescue,
            transformer=transformer,
            transformer_2=transformer_2,
            vae=vae,
            text_encoder=text_encoder,
            controlnet=controlnet,
        )
        self.prepare_reading(tokenizer, defaults, prompt_suffix)

    @property
    def loras(self) -> Mapping[str, Strength]:
        """The adapters that every picture gets whose request says nothing of them, with the strength of each.

        Assign a mapping from sources (a file, a folder, a name of ``frolic lora list``) to weights or ``Strength``s.
        Sources are read once; another blend of them is only another mix.

        Raises:
            CheckpointError, ModelNotFoundError, UnsafeFileError: as ``frolic.adapters.read``; nothing has changed then.
        """
        return MappingProxyType(self._loras.strengths)

    @loras.setter
    def loras(self, strengths: Mapping[str, Any]) -> None:
        blend = blend_of(strengths)
        self._load_loras(blend)
        self._loras.strengths = dict(blend)

    def _load_loras(self, blend: Blend) -> None:
        for carrier in self._carriers.values():
            carrier.load(blend)

    @property
    def has_controlnet(self) -> bool:
        """Whether a ``control`` picture can be given."""
        return self._held["controlnet"].config is not None

    @property
    def stride(self) -> int:
        """Pixels per image token along a side: what is drawn has sides that are multiples of it."""
        return int(self._held["vae"].config.stride * getattr(self._held["transformer"].config, "patch_size", 1))

    def __call__(
        self,
        prompt: str | Sequence[str] | Request,
        *,
        latents: Tensor | None = None,
        output: Output = "pil",
        image: Picture | None = None,
        mask: Picture | None = None,
        control: Picture | None = None,
        **fields: Any,
    ) -> Result:
        """Draw. ``fields`` are those of ``Request``: seed, steps, guidance_scale, height, width, num_images,
        negative_prompt, sampler and so on. ``latents``: starting noise [B, C, h, w], one for each picture, instead of
        the seed's. ``image``, ``mask``, ``control``: as ``Inputs``.

        Raises:
            RequestError: the request cannot be carried out as asked.
            NumericsError: a stage stopped being finite, or a picture came out as one flat colour.
            ResourceError: memory ran out.
        """
        inputs = Inputs(image, mask, control)
        for event in self.stream(prompt, latents=latents, output=output, inputs=inputs, **fields):
            if isinstance(event, Result):
                return event
        raise AssertionError("a stream ends with its result")

    def stream(
        self,
        prompt: str | Sequence[str] | Request,
        *,
        latents: Tensor | None = None,
        output: Output = "pil",
        image: Picture | None = None,
        mask: Picture | None = None,
        control: Picture | None = None,
        inputs: Inputs | None = None,
        tokens: int = 0,
        **fields: Any,
    ) -> Iterator[Progress | Result]:
        """As a call, but yields a ``Progress`` after every step and the ``Result`` last. Closing it stops the work.

        ``tokens``: the least width of the text, which longer prompts of the same request gave a picture that is drawn
        again. Wider texts differ in nothing but rounding. ``inputs``: the three pictures as one.
        """
        if output not in ("pil", "tensor"):
            raise RequestError(f"output is {output!r}; give 'pil' or 'tensor'.")
        if isinstance(prompt, Request):
            if fields:
                raise RequestError("Give either a Request or its fields, not both.")
            request = prompt
        else:
            request = Request.of(prompt, **fields)
        given = (inputs or Inputs(image, mask, control)).read()
        given.check(request)
        if self.makes_clips:
            from frolic.pipeline.clips import check_given

            check_given(given, self._held[FIRST].config, self.defaults)
        if given.control is not None and request.step_cache:
            raise RequestError("step_cache takes over what a ControlNet would have changed; leave one of them out.")
        if given.control is not None and not self.has_controlnet:
            raise RequestError("This model has no ControlNet; load it with one: --controlnet MODEL.")
        most = self.defaults.most_pixels
        request = given.sized(request, most) if latents is None else self._sized_by(request, latents)
        blocks = getattr(self._held["transformer"].config, "layers", MAX_LAYER + 1)
        request, notes = request.completed(self.defaults, self.stride, blocks)
        blends = blends_of(request, self._loras.strengths)
        for blend in blends:
            self._load_loras(blend)
        notes += self._loras.notes(blends, blocks)
        request = replace(request, loras=blends)
        return self._draw(request, notes, latents, given, output, tokens)

    def _draw(
        self, request: Request, notes: list[str], latents: Tensor | None, given: Given, output: Output, tokens: int
    ) -> Iterator[Progress | Result]:
        started = time.perf_counter()
        drawn = request.drawn(self.defaults, self.stride)
        size = batch_size(*drawn, frames=request.frames or 1)
        firsts = range(0, request.pictures, size)
        finished: list[Tensor] = []
        using = ExitStack()
        try:
            stage = self._stage_for(request)
            notes += [*cut_texts(stage, request), *given.remarks(request)]
            hashes = given.hashes()
            given, placed = given.staged((request.height or 0, request.width or 0), drawn)
            encoded = encode_texts(stage, request)
            self.spare("text_encoder")
            with torch.inference_mode():
                tied = self._anchors(placed, request, notes)
                if given.size is not None:
                    self.spare("vae")
                blends = request.loras or ((),)
                experts = using.enter_context(self._experts(request, encoded, tokens, blends, tied))
            for number, first in enumerate(firsts):
                rows = range(first, min(first + size, request.pictures))
                x = None if latents is None else latents[rows.start : rows.stop]
                for step in self._steps(request, rows, x, experts, tied, drawn):
                    x = step.x
                    require_finite(x, f"Denoising, step {step.index + 1} of {step.total},")
                    done = number * step.total + step.index
                    yield Progress(done, step.total * len(firsts), first, Latents(step.denoised), self)
                assert x is not None
                finished += x.split(1)
            width = experts.tokens
            if request.step_cache:
                reused, steps = (sum(each) for each in zip(*[(c.reused, c.steps) for c in experts.caches], strict=True))
                notes.append(f"{reused} of {steps} calls of the model were taken over from earlier steps (step_cache).")
            using.close()
            self.spare(FIRST, SECOND, "controlnet")
            result = Result(
                images=(),
                pixels=None,
                request=replace(request, loras=self._loras.named(blends)),
                seconds=0.0,
                notes=notes,
                model=self.card,
                settings=self._settings(latents is not None, hashes, self._loras.hashes(blends)),
                batches=tuple((i % size, min(size, request.pictures - i + i % size)) for i in range(request.pictures)),
                tokens=width,
            )
            del experts, tied, encoded
            tensor = self._pictures(finished, result, given)
            stills = tensor if tensor.ndim == 4 else tensor[:, :, 0]
            images = tuple(to_image(row) for row in stills) if output == "pil" and not request.is_video else ()
            videos = tuple(to_frames(row) for row in tensor) if output == "pil" and request.is_video else ()
        except FrolicError:
            raise
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise ResourceError(
                f"Memory ran out at {request.width}x{request.height}; ask for a smaller size or fewer pictures."
            ) from error
        finally:
            using.close()
            self.spare()
        pixels = tensor if output == "tensor" else None
        yield replace(result, images=images, videos=videos, pixels=pixels, seconds=time.perf_counter() - started)

    def _steps(
        self,
        request: Request,
        rows: range,
        noise: Tensor | None,
        experts: Experts,
        tied: Anchors,
        drawn: tuple[int, int],
    ) -> Iterator[Any]:
        """The sampler's steps. Inference mode is held while it computes and released while the caller looks."""
        assert request.steps and request.sampler and request.schedule
        sampler = SAMPLERS[request.sampler]
        schedule = sampler.schedule(request.schedule)
        sigmas = (
            schedule.sigmas(request.steps, self.defaults.shift) if not request.times else time_sigmas(request.times)
        )
        whole = len(sigmas) - 1
        with torch.inference_mode():
            x = (self._noise(request, rows, drawn) if noise is None else noise).to(self.device, torch.float32)
            if tied.known is not None:
                sigmas = tail(sigmas, request.strength)
                x = add_noise(tied.known.to(x), x, sigmas[0])
            else:
                x = sampler.start(x, sigmas[0])

            def expert(name: str) -> Denoise:
                transformer, ready = experts.get(name)
                return denoiser(
                    transformer,
                    experts.requests[name],
                    rows,
                    ready.texts,
                    tied,
                    sigmas=sigmas,
                    timesteps=schedule.timesteps,
                    dtype=self.dtypes.get(name, self.dtype),
                    device=self.device,
                    controlnet=self.controlnet if tied.control is not None else None,
                    injection=self.compat,
                    mixes=ready.mixes,
                    caches=experts.caches,
                )

            denoise = experts.denoiser(expert, self.defaults.boundary, schedule.timesteps)
            later = lambda step: self._noise(request, rows, drawn, step + 1).to(x)  # noqa: E731
            steps = sampler.steps(denoise, x, sigmas, later, whole)
        while True:
            with torch.inference_mode():
                step = next(steps, None)
            if step is None:
                return
            yield step

    def _experts(
        self, request: Request, encoded: Encoded, tokens: int, blends: Sequence[Blend], tied: Anchors
    ) -> Experts:
        led = tied.control is not None

        def prepare(transformer: Any, asked: Request, mixes: Mixes | None) -> list[Texts]:
            return [
                prepare_texts(
                    transformer,
                    self.controlnet if led else None,
                    asked,
                    encoded,
                    tokens,
                    self.dtype,
                    shared=self.defaults.reading == "native",
                    mixes=mixes,
                    phase=phase,
                )
                for phase in range(1 if mixes is None else mixes.phases)
            ]

        return Experts(self, [*self._carriers], self._carriers, request, blends, prepare)

    def _anchors(self, placed: Given, request: Request, notes: list[str]) -> Anchors:
        config = self._held["vae"].config

        def encode(picture: Tensor) -> Tensor:
            return self._autoencoder().encode(picture, notes=notes)

        if not self.makes_clips:
            return anchors(placed, encode, config.stride)
        from frolic.pipeline.clips import clip_anchors

        return clip_anchors(placed, encode, self._held[FIRST].config, request.frames or 1, config.frame_stride)

    def _noise(self, request: Request, rows: range, drawn: tuple[int, int], draw: int = 0) -> Tensor:
        config = self._held["vae"].config
        shape: tuple[int, ...] = (config.latent_channels, drawn[0] // config.stride, drawn[1] // config.stride)
        if self.makes_clips:
            shape = (shape[0], 1 + ((request.frames or 1) - 1) // config.frame_stride, *shape[1:])
        return torch.cat([sample_noise(shape, request.seeds[row], [0], draw) for row in rows])

    def _sized_by(self, request: Request, latents: Tensor) -> Request:
        """``request`` with the size of the ``latents`` a caller gave."""
        config = self._held["vae"].config
        height, width = latents_size(
            latents, request.pictures, config.latent_channels, config.stride, self.stride, self.makes_clips
        )
        if self.makes_clips:
            frames = 1 + (latents.shape[2] - 1) * config.frame_stride
            if request.seconds is not None or request.frames not in (None, frames):
                raise RequestError(f"latents are for {frames} frames; leave out frames and seconds.")
            request = replace(request, frames=frames)
        if (request.height or height, request.width or width) != (height, width) or request.aspect or request.binning:
            raise RequestError(f"latents are for {width}x{height} pixels; leave out height, width, aspect and binning.")
        return replace(request, height=height, width=width, binning=False)

    def _settings(self, given_latents: bool, hashes: dict[str, str], adapters: dict[str, str]) -> dict[str, Any]:
        return {
            "shift": self.defaults.shift,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.device.type,
            "torch": torch.__version__,
            "noise": "given" if given_latents else "seed",
            "compat": self.compat,
            **({"inputs": hashes} if hashes else {}),
            **({"adapters": adapters} if adapters else {}),
        }
