"""Deep-compression autoencoder (Chen et al. 2024, arXiv 2410.10733)."""

from frolic.models.dcae.config import DCAEConfig
from frolic.models.dcae.keymap import diffusers_keys, original_keys
from frolic.models.dcae.model import DCAE

__all__ = ["DCAE", "DCAEConfig", "diffusers_keys", "original_keys"]
