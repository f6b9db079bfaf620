"""Text encoders."""

from frolic.models.text.gemma2 import Gemma2Config, Gemma2Encoder, Prefix, causal_lm_keys, transformers_keys
from frolic.models.text.umt5 import UMT5Config, UMT5Encoder, umt5_keys, umt5_original_keys

__all__ = [
    "Gemma2Config",
    "Gemma2Encoder",
    "Prefix",
    "UMT5Config",
    "UMT5Encoder",
    "causal_lm_keys",
    "transformers_keys",
    "umt5_keys",
    "umt5_original_keys",
]
