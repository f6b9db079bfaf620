"""Prompts to what a transformer reads of them.

P tokens of an instruction, S text tokens, E text width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from frolic.io.tokenizer import Tokenizer
from frolic.pipeline.finite import require_finite
from frolic.types import Compat, Conditioning

_REMEMBERED = 16
_STEP = 8  # tokens: accelerators multiply matrices of such heights at full speed


class Prefix(Protocol):
    """What an encoder keeps of a text that others begin with."""

    @property
    def states_1PD(self) -> Tensor: ...
    def first(self, count: int) -> Any: ...


class TextEncoder(Protocol):
    """Token ids and mask [B, S], padded on the right, to hidden states [B, S, E] in which no token sees a later one."""

    def __call__(self, ids_BS: Tensor, mask_BS: Tensor, prefix: Any = None) -> Tensor: ...
    def prefix(self, ids_1P: Tensor) -> Prefix: ...


class TextStage:
    """A tokenizer and a text encoder, and the last texts they read.

    ``instruction`` is put before a prompt, not before a negative one. What comes out has ``max_tokens`` places all the
    same: the first token of the whole, and then those from the instruction's last one on, which the prompt's first
    may have merged with. Each text is encoded by itself, so that none changes another.

    ``compat`` says whose behaviour it is. ``diffusers``: text is put in lower case where the model wants it
    (``lowercase``) and stripped, and a negative prompt has its own mask. ``native`` (SANA's authors): case stays, only
    the prompt is stripped, and the negative prompt is read through the prompt's mask, padding and all. With ``spaces``
    each run of white space is one, and HTML's entities are characters: Wan's cleaning of texts, but for mending wrongly
    decoded ones.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        lowercase: bool = True,
        instruction: str = "",
        prompt_suffix: str = "",
        device: torch.device | str = "cpu",
        compat: Compat = "diffusers",
        spaces: bool = False,
    ) -> None:
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.lowercase = lowercase
        self.instruction = instruction
        self.prompt_suffix = prompt_suffix
        self.device = torch.device(device)
        self.compat = compat
        self.spaces = spaces
        self._head = tokenizer.ids(instruction) if instruction else []
        self._prefix: Prefix | None = None
        self._texts: OrderedDict[tuple[str, bool, bool], Conditioning] = OrderedDict()

    def encode(self, prompt: str, *, negative: bool = False) -> Conditioning:
        """``prompt`` as ``Conditioning`` [1, S, E] with S = ``max_tokens``, in the encoder's dtype. The last few are
        remembered. What is masked is zero, but for a native negative prompt, whose padding is read.

        Raises:
            NumericsError: the text encoder gave something that is not finite.
        """
        text = self._prepared(prompt, negative)
        instructed = bool(self._head) and not negative
        padding = negative and self.compat == "native"
        key = (text, instructed, padding)
        if key in self._texts:
            self._texts.move_to_end(key)
            return self._texts[key]
        ids = self.tokenizer.cut(self.instruction + text if instructed else text, self._places(instructed))
        # Remembered tensors must be usable in training too, whatever mode the caller is in.
        with torch.inference_mode(False), torch.no_grad():
            encoded = self._encode(ids, self._head if instructed else [], padding)
        require_finite(encoded.embeds, "The text encoder")
        self._texts[key] = encoded
        if len(self._texts) > _REMEMBERED:
            self._texts.popitem(last=False)
        return encoded

    def unconditional(self, negative_prompt: str, prompt: str) -> Conditioning:
        """What guidance steers away from when it draws ``prompt``. It depends on ``prompt`` in native mode only.

        Raises:
            NumericsError: as ``encode``.
        """
        encoded = self.encode(negative_prompt, negative=True)
        return Conditioning(encoded.embeds, self.encode(prompt).mask) if self.compat == "native" else encoded

    def count(self, prompt: str, *, negative: bool = False) -> int:
        """Places that ``prompt`` needs; what is over ``max_tokens`` is ignored. Those that every prompt needs (BOS, the
        end of the instruction) are included."""
        text = self._prepared(prompt, negative)
        if negative or not self._head:
            return self.tokenizer.count(text)
        return self.tokenizer.count(self.instruction + text) - self._hidden(self._head)

    def forget(self) -> None:
        """Drop all that was remembered: for an encoder whose weights have changed."""
        self._texts.clear()
        self._prefix = None

    def _prepared(self, prompt: str, negative: bool) -> str:
        if self.spaces:
            import html

            prompt = " ".join(html.unescape(html.unescape(prompt)).split())
        if self.compat == "native":
            text = prompt if negative else prompt.strip()
        else:
            text = (prompt.lower() if self.lowercase else prompt).strip()
        return text + self.prompt_suffix if text else text

    def _places(self, instructed: bool) -> int:
        """How many tokens may be encoded, those of an instruction included that do not come out."""
        return self.max_tokens + (self._hidden(self._head) if instructed else 0)

    @staticmethod
    def _hidden(head: Sequence[int]) -> int:
        """How many tokens lie between the first and those that come out: all of ``head`` but its two ends."""
        return len(head) - 2 if head else 0

    def _encode(self, ids: list[int], head: Sequence[int], padding: bool) -> Conditioning:
        """``ids`` that begin with ``head``, up to where the two merge. With ``padding``, its states too."""
        total = self.max_tokens + self._hidden(head)
        real = max(1, len(ids))  # attention needs something to look at
        shared = _common(head[:-1], ids[:-1])
        # Padding is on the right and nothing looks to its right: what lies behind the real tokens changes none of them.
        length = total if padding else min(total, shared + -(-(real - shared) // _STEP) * _STEP)
        ids_1S = torch.tensor([ids + [self.tokenizer.pad] * (length - len(ids))], device=self.device)
        real_1S = torch.arange(length, device=self.device)[None] < real
        prefix = self._prefix_of(head).first(shared) if shared else None
        states = self.encoder(ids_1S[:, shared:], real_1S[:, shared:], prefix)
        if prefix is not None:
            states = torch.cat([prefix.states_1PD, states], dim=1)
        kept = states[:, self._hidden(head) + 1 : total if padding else real]
        embeds = states.new_zeros(1, self.max_tokens, states.shape[-1])
        embeds[:, :1] = states[:, :1]
        embeds[:, 1 : 1 + kept.shape[1]] = kept
        mask = torch.arange(self.max_tokens, device=self.device)[None] < max(1, real - self._hidden(head))
        return Conditioning(embeds, mask)

    def _prefix_of(self, head: Sequence[int]) -> Prefix:
        """Of all but the last token of ``head``, which comes out with every prompt."""
        if self._prefix is None:
            self._prefix = self.encoder.prefix(torch.tensor([head[:-1]], device=self.device))
        return self._prefix


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    for place, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other:
            return place
    return min(len(a), len(b))
