"""The tokenizer's part of a pipeline folder, readable by frolic and by transformers."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from frolic.data.starter.texts import BOS, EOS, PAD, UNK
from frolic.io.files import write_bytes, write_json


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """``tokenizer.json`` and the few settings that transformers wants beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "tokenizer.json", tokenizer.to_str(pretty=False).encode())
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "unk_token": UNK,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
    }
    write_json(folder / "tokenizer_config.json", settings)
