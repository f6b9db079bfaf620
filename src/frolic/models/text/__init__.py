"""Text encoders."""

from frolic.models.text.gemma2 import Gemma2Config, Gemma2Encoder, Prefix, causal_lm_keys, transformers_keys

__all__ = ["Gemma2Config", "Gemma2Encoder", "Prefix", "causal_lm_keys", "transformers_keys"]
