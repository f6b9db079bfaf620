"""SANA's linear-attention diffusion transformer (Xie et al. 2024, arXiv 2410.10629) and its ControlNet."""

from frolic.models.context import TextContext
from frolic.models.sana.block import SanaBlock, SanaState
from frolic.models.sana.config import SanaConfig, SanaControlNetConfig
from frolic.models.sana.controlnet import INJECTIONS, Injection, SanaControl, SanaControlNet
from frolic.models.sana.keymap import controlnet_keys, diffusers_keys
from frolic.models.sana.model import SanaTransformer
from frolic.types import Perturb

__all__ = [
    "INJECTIONS",
    "Injection",
    "Perturb",
    "SanaBlock",
    "SanaConfig",
    "SanaControl",
    "SanaControlNet",
    "SanaControlNetConfig",
    "SanaState",
    "SanaTransformer",
    "TextContext",
    "controlnet_keys",
    "diffusers_keys",
]
