"""The published image checkpoints of SANA: where they lie, and which dtypes they are safe in.

The dtype is a property of the weights. What was trained in float16 gives noise in bfloat16, and the other way round.
The autoencoder overflows in float16, and the text encoder was trained in bfloat16.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from frolic.models.sana.variants import CONTROLNETS, VARIANTS, at_size
from frolic.spec import Published

_ORG = "Efficient-Large-Model"
_WIDE = ("bfloat16", "float32")


def _dtypes(variant: str) -> Mapping[str, tuple[str, ...]]:
    transformer = ("float16", "float32") if variant == "fp16" else _WIDE
    return MappingProxyType({"transformer": transformer, "vae": _WIDE, "text_encoder": _WIDE})


def _model(
    name: str, architecture: str, size: int, repo: str, *, variant: str = "", file: str = "", **defaults: Any
) -> Published:
    """``repo`` is the authors' name without what diffusers' copy adds, ``file`` their checkpoint where it differs."""
    if size != 1024:
        defaults |= {"height": size, "width": size}
    return Published(
        name=name,
        repo=f"{_ORG}/{repo}_diffusers",
        original=f"{_ORG}/{repo}:checkpoints/{file or repo}.pth",
        config=at_size(VARIANTS[architecture], size),
        size=size,
        dtypes=_dtypes(variant),
        variant=variant,
        defaults=MappingProxyType(defaults | {"bin_base": size}),
    )


PUBLISHED: tuple[Published, ...] = (
    _model("sana-600m-512", "600m", 512, "Sana_600M_512px", variant="fp16", file="Sana_600M_512px_MultiLing"),
    _model("sana-600m-1024", "600m", 1024, "Sana_600M_1024px", variant="fp16", file="Sana_600M_1024px_MultiLing"),
    _model("sana-1.6b-512", "1.6b", 512, "Sana_1600M_512px", variant="fp16"),
    _model("sana-1.6b-512-multiling", "1.6b", 512, "Sana_1600M_512px_MultiLing", variant="fp16"),
    _model("sana-1.6b-1024", "1.6b", 1024, "Sana_1600M_1024px", variant="fp16"),
    _model("sana-1.6b-1024-multiling", "1.6b", 1024, "Sana_1600M_1024px_MultiLing", variant="fp16"),
    _model("sana-1.6b-1024-bf16", "1.6b", 1024, "Sana_1600M_1024px_BF16", variant="bf16"),
    _model("sana-1.6b-2k", "1.6b", 2048, "Sana_1600M_2Kpx_BF16", variant="bf16"),
    _model("sana-1.6b-4k", "1.6b", 4096, "Sana_1600M_4Kpx_BF16", variant="bf16", shift=6.0),
    _model("sana-1.5-1.6b-1024", "1.5-1.6b", 1024, "SANA1.5_1.6B_1024px"),
    _model("sana-1.5-4.8b-1024", "1.5-4.8b", 1024, "SANA1.5_4.8B_1024px"),
    _model("sana-sprint-0.6b", "sprint-0.6b", 1024, "Sana_Sprint_0.6B_1024px", steps=2),
    _model("sana-sprint-1.6b", "sprint-1.6b", 1024, "Sana_Sprint_1.6B_1024px", steps=2),
    _model("sana-sprint-0.6b-teacher", "sprint-0.6b-teacher", 1024, "Sana_Sprint_0.6B_1024px_teacher"),
    _model("sana-sprint-1.6b-teacher", "sprint-1.6b-teacher", 1024, "SANA_Sprint_1.6B_1024px_teacher"),
)


def _controlnet(name: str, architecture: str, repo: str, variant: str, diffusers: str = "") -> Published:
    return Published(
        name=name,
        repo=diffusers,
        original=f"{_ORG}/{repo}:checkpoints/{repo}.pth",
        config=at_size(CONTROLNETS[architecture], 1024),
        size=1024,
        dtypes=MappingProxyType({"controlnet": _dtypes(variant)["transformer"]}),
        variant=variant,
    )


PUBLISHED_CONTROLNETS: tuple[Published, ...] = (
    _controlnet(
        "sana-600m-1024-controlnet-hed",
        "600m",
        "Sana_600M_1024px_ControlNet_HED",
        "fp16",
        diffusers="ishan24/Sana_600M_1024px_ControlNetPlus_diffusers",
    ),
    _controlnet("sana-1.6b-1024-bf16-controlnet-hed", "1.6b", "Sana_1600M_1024px_BF16_ControlNet_HED", "bf16"),
)
"""For edges as HED finds them; each controls the model that its name begins with. The first one's ``repo`` is a whole
pipeline, transformer and all."""
