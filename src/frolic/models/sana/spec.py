"""What a SANA pipeline is made of."""

from __future__ import annotations

from frolic.models.dcae import DCAE, DCAEConfig
from frolic.models.dcae import diffusers_keys as dcae_keys
from frolic.models.sana.config import SanaConfig
from frolic.models.sana.keymap import diffusers_keys
from frolic.models.sana.model import SanaTransformer
from frolic.models.text import Gemma2Config, Gemma2Encoder, transformers_keys
from frolic.spec import ComponentSpec, FamilySpec, SamplingDefaults

SANA = FamilySpec(
    name="sana",
    pipeline_class="SanaPipeline",
    components={
        "transformer": ComponentSpec(
            class_names=("SanaTransformer2DModel",),
            configure=SanaConfig.from_json,
            build=SanaTransformer,
            keymap=diffusers_keys,
        ),
        "vae": ComponentSpec(
            class_names=("AutoencoderDC",),
            configure=DCAEConfig.from_json,
            build=DCAE,
            keymap=dcae_keys,
        ),
        "text_encoder": ComponentSpec(
            class_names=("Gemma2Model",),
            configure=Gemma2Config.from_json,
            build=Gemma2Encoder,
            keymap=transformers_keys,
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
    ),
)
