"""The Wan autoencoders: clips to latents and back."""

from frolic.models.wan_vae.config import WanVAEConfig
from frolic.models.wan_vae.keymap import diffusers_keys, original_keys
from frolic.models.wan_vae.model import WanVAE
from frolic.models.wan_vae.sizes import tile_for
from frolic.models.wan_vae.tiling import decode_tiled, encode_tiled
from frolic.spec import ComponentSpec

WAN_VAE = ComponentSpec(
    class_names=("AutoencoderKLWan",),
    configure=WanVAEConfig.from_json,
    build=WanVAE,
    keymap=diffusers_keys,
    layouts={"original": original_keys},
)

__all__ = [
    "WAN_VAE",
    "WanVAE",
    "WanVAEConfig",
    "decode_tiled",
    "diffusers_keys",
    "encode_tiled",
    "original_keys",
    "tile_for",
]
