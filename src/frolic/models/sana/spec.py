"""What a SANA pipeline is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from frolic.models.dcae import DCAE, DCAEConfig
from frolic.models.dcae import diffusers_keys as dcae_keys
from frolic.models.dcae import original_keys as dcae_original_keys
from frolic.models.dcae.guess import guess as guess_dcae
from frolic.models.sana.config import SanaConfig, SanaControlNetConfig
from frolic.models.sana.controlnet import SanaControlNet
from frolic.models.sana.guess import guess as guess_sana
from frolic.models.sana.guess import guess_controlnet
from frolic.models.sana.instruction import INSTRUCTIONS
from frolic.models.sana.keymap import controlnet_keys, diffusers_keys, original_controlnet_keys, original_keys
from frolic.models.sana.model import SanaTransformer
from frolic.models.sana.published import PUBLISHED
from frolic.models.text import Gemma2Config, Gemma2Encoder, causal_lm_keys, transformers_keys
from frolic.sampling.few import FEW, MOST
from frolic.spec import ComponentSpec, FamilySpec, SamplingDefaults

_SPRINT = ("SanaSprintPipeline", "SanaSprintImg2ImgPipeline")

_BIN_BASES = {16: 512, 32: 1024, 64: 2048, 128: 4096}
"""Which table of picture sizes a transformer was trained with, by the side of its latents."""


def _adapt(configs: Mapping[str, Any]) -> dict[str, Any]:
    side = configs["transformer"].sample_size * configs["vae"].stride
    few = {"sampler": FEW, "steps": 2} if configs["transformer"].guidance_embeds else {}
    return {"height": side, "width": side, "bin_base": _BIN_BASES.get(configs["transformer"].sample_size, 0), **few}


def _native(defaults: SamplingDefaults) -> SamplingDefaults:
    instruction = INSTRUCTIONS["native"] if defaults.instruction == INSTRUCTIONS["diffusers"] else defaults.instruction
    return replace(defaults, schedule="native", reading="native", instruction=instruction)


def _misfits(configs: Mapping[str, Any], defaults: SamplingDefaults) -> list[tuple[str, str]]:
    transformer, vae = configs["transformer"], configs["vae"]
    found = []
    for what, one, other in (
        ("latent channels", vae.latent_channels, transformer.in_channels),
        ("channels in and out", transformer.in_channels, transformer.out_channels),
    ):
        if one != other:
            found.append((what, f"{one} and {other}"))
    if transformer.guidance_embeds and defaults.sampler != FEW:
        found.append(("scheduler", f"{defaults.sampler}, but the transformer embeds its guidance and needs {FEW}"))
    if not transformer.guidance_embeds and defaults.sampler == FEW:
        found.append(("scheduler", f"{FEW}, but the transformer embeds no guidance"))
    if transformer.guidance_embeds and defaults.steps > MOST:
        found.append(("steps", f"{defaults.steps}, but the transformer draws in 1 to {MOST}"))
    if "controlnet" in configs and transformer.guidance_embeds:
        found.append(("controlnet", "not supported beside a transformer that embeds its guidance (SANA-Sprint)"))
    elif "controlnet" in configs:
        found += [(f"controlnet {what}", said) for what, said in configs["controlnet"].differences(transformer).items()]
    return found


def _fuse(transformer: nn.Module) -> bool:
    from frolic.models.sana.fused import fuse  # its kernels are compiled when a run trains with them, and not before

    return fuse(transformer)


SANA = FamilySpec(
    name="sana",
    pipeline_classes=("SanaPipeline", "SanaPAGPipeline", "SanaControlNetPipeline", *_SPRINT),
    components={
        "transformer": ComponentSpec(
            class_names=("SanaTransformer2DModel",),
            configure=SanaConfig.from_json,
            build=SanaTransformer,
            keymap=diffusers_keys,
            layouts={"original": original_keys},
            guess=guess_sana,
            fuse=_fuse,
        ),
        "vae": ComponentSpec(
            class_names=("AutoencoderDC",),
            configure=DCAEConfig.from_json,
            build=DCAE,
            keymap=dcae_keys,
            layouts={"original": dcae_original_keys},
            guess=guess_dcae,
            channels_last=True,
        ),
        "text_encoder": ComponentSpec(
            class_names=("Gemma2Model", "Gemma2ForCausalLM"),
            configure=Gemma2Config.from_json,
            build=Gemma2Encoder,
            keymap=transformers_keys,
            layouts={"causal_lm": causal_lm_keys},
        ),
    },
    optional={
        "controlnet": ComponentSpec(
            class_names=("SanaControlNetModel",),
            configure=SanaControlNetConfig.from_json,
            build=SanaControlNet,
            keymap=controlnet_keys,
            layouts={"original": original_controlnet_keys},
            guess=guess_controlnet,
        ),
    },
    defaults=SamplingDefaults(
        height=1024,
        width=1024,
        steps=20,
        guidance_scale=4.5,
        sampler="dpmpp_2m",
        shift=3.0,
        max_tokens=300,
        instruction=INSTRUCTIONS["diffusers"],
    ),
    published=PUBLISHED,
    adapt=_adapt,
    # Its decoder overflows in float16, and the language model was trained in bfloat16.
    dtypes={"vae": ("bfloat16", "float32"), "text_encoder": ("bfloat16", "float32")},
    native=_native,
    misfits=_misfits,
)
