"""A tokenizer and a text encoder of Gemma's kind, tiny and random, for tests of text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from frolic.io.tokenizer import Tokenizer
from frolic.models.sana.instruction import INSTRUCTIONS
from frolic.models.text import Gemma2Config, Gemma2Encoder

GEMMA: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64,
}  # fmt: skip
_PROMPTS = ["a cat", "a red fox in the snow", "two dogs", "THE MOON", *[": a"] * 20]


def write_tokenizer(path: Path, *, words: bool = True) -> Path:
    """``tokenizer.json`` at ``path``: a space merges with the word behind it, as Gemma's do. Without ``words``,
    what lies on both sides of a space may merge, and so the end of an instruction with a prompt."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    backend = Backend(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    if words:
        backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    backend.decoder = decoders.Replace("▁", " ")
    trainer = trainers.BpeTrainer(
        vocab_size=512 if words else 340, special_tokens=special + bytes_, show_progress=False
    )
    backend.train_from_iterator(INSTRUCTIONS["diffusers"].split("\n") + _PROMPTS * 20, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    backend.save(str(path))
    return path


def tokenizer(folder: Path, *, words: bool = True) -> Tokenizer:
    return Tokenizer(write_tokenizer(folder / "tokenizer.json", words=words))


def encoder(**changes: Any) -> Gemma2Encoder:
    """Random, the same in every run, and sensitive to every weight."""
    module = Gemma2Encoder(Gemma2Config.from_json(GEMMA | changes))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return module.requires_grad_(False)
