"""The part of a pipeline that reads texts.

B batch, S text tokens, E text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from frolic.io.tokenizer import Tokenizer
from frolic.pipeline.parts import HeldEncoder, Parts
from frolic.pipeline.text import TextStage
from frolic.request import Request
from frolic.spec import SamplingDefaults
from frolic.types import Conditioning


class Reading(Parts):
    """Reads with the ``text_encoder`` of its parts."""

    device: torch.device
    defaults: SamplingDefaults

    def prepare_reading(self, tokenizer: Tokenizer, defaults: SamplingDefaults, prompt_suffix: str) -> None:
        """``defaults`` say how texts are read; ``prompt_suffix`` is put behind each that is not empty."""
        self._text_options: dict[str, Any] = {
            "max_tokens": defaults.max_tokens,
            "lowercase": defaults.lowercase,
            "prompt_suffix": prompt_suffix,
            "device": self.device,
            "compat": defaults.reading,
            "spaces": defaults.spaces,
        }
        self.tokenizer = tokenizer
        self.text = self._text_stage(defaults.instruction)
        self._other_text: TextStage | None = None

    def renewed(self, name: str) -> None:
        if name == "text_encoder":
            self.text, self._other_text = self._text_stage(self.defaults.instruction), None

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Text to ``Conditioning`` [B, S, E]. Each prompt is encoded by itself, and the last few are remembered.

        Raises:
            NumericsError: the text encoder gave something that is not finite.
        """
        rows = [self.text.encode(prompt) for prompt in prompts]
        return Conditioning(torch.cat([row.embeds for row in rows]), torch.cat([row.mask for row in rows]))

    def _stage_for(self, request: Request) -> TextStage:
        """The text stage with the request's instruction. The model's own and the last other one are kept, and with them
        the texts that they remember."""
        if request.instruction == self.text.instruction:
            return self.text
        if self._other_text is None or request.instruction != self._other_text.instruction:
            self._other_text = self._text_stage(request.instruction or "")
        return self._other_text

    def _text_stage(self, instruction: str) -> TextStage:
        encoder = HeldEncoder(self._held["text_encoder"])
        return TextStage(encoder, self.tokenizer, instruction=instruction, **self._text_options)
