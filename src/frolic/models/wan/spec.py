"""What a Wan pipeline is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from frolic.models.sana.spec import SANA
from frolic.models.text import UMT5Config, UMT5Encoder, umt5_keys, umt5_original_keys
from frolic.models.wan.config import WanConfig
from frolic.models.wan.guess import guess
from frolic.models.wan.keymap import diffusers_keys, original_keys
from frolic.models.wan.model import WanTransformer
from frolic.models.wan.published import PUBLISHED
from frolic.models.wan_vae import WAN_VAE
from frolic.spec import ComponentSpec, FamilySpec, SamplingDefaults, either


def _precise(name: str) -> bool:
    """Times and what they do to a block are sums of very different sizes."""
    return name.startswith(("time.", "modulation.")) or name.endswith("table") or ".norm_cross." in name


_TRANSFORMER = ComponentSpec(
    class_names=("WanTransformer3DModel",),
    configure=WanConfig.from_json,
    build=WanTransformer,
    keymap=diffusers_keys,
    layouts={"original": original_keys},
    guess=guess,
    precise=_precise,
)
_UMT5 = ComponentSpec(
    class_names=("UMT5EncoderModel",),
    configure=UMT5Config.from_json,
    build=UMT5Encoder,
    keymap=umt5_keys,
    layouts={"original": umt5_original_keys},
)


def _adapt(configs: Mapping[str, Any]) -> dict[str, Any]:
    return {"frame_stride": configs["vae"].frame_stride}


def _native(defaults: SamplingDefaults) -> SamplingDefaults:
    return replace(defaults, schedule="wan")


def _misfits(configs: Mapping[str, Any], defaults: SamplingDefaults) -> list[tuple[str, str]]:
    transformer, other, vae = configs["transformer"], configs.get("transformer_2"), configs["vae"]
    found = []
    if vae.latent_channels != transformer.out_channels:
        found.append(("latent channels", f"{vae.latent_channels} and {transformer.out_channels}"))
    # Beside the noise: one channel for each frame of a latent, and the latents of what is known.
    if transformer.known_channels not in (0, vae.frame_stride + vae.latent_channels):
        found.append(("channels of a first frame", f"{transformer.known_channels}"))
    if other is not None and other != transformer:
        found.append(("experts", "the two differ in their dimensions"))
    if other is not None and defaults.boundary is None:
        found.append(("not said", "from which noise level on the second expert works (boundary_ratio)"))
    if other is None and defaults.boundary is not None:
        found.append(("missing", "transformer_2, the expert for little noise, that boundary_ratio speaks of"))
    return found


WAN = FamilySpec(
    name="wan",
    pipeline_classes=("WanPipeline", "WanImageToVideoPipeline"),
    components={
        "transformer": _TRANSFORMER,
        "vae": WAN_VAE,
        # Small models of ours read with the encoder of our picture models.
        "text_encoder": either(_UMT5, SANA.components["text_encoder"]),
    },
    optional={"transformer_2": _TRANSFORMER},
    defaults=SamplingDefaults(
        height=480,
        width=832,
        steps=50,
        guidance_scale=5.0,
        sampler="unipc",
        shift=3.0,
        max_tokens=512,
        lowercase=False,
        frames=81,
        spaces=True,
    ),
    published=PUBLISHED,
    adapt=_adapt,
    # diffusers reads the autoencoder in float32: in 16 bit, frames that follow each other flicker.
    dtypes={"transformer": ("bfloat16", "float32"), "transformer_2": ("bfloat16", "float32")}
    | {"vae": ("float32",), "text_encoder": ("bfloat16", "float32")},
    native=_native,
    settings={"boundary_ratio": "boundary", "expand_timesteps": "clean_first"},
    misfits=_misfits,
)
