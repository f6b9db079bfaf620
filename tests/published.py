"""Published rewards in small: folders and files with random weights, under the names that published ones have; and CLIP
as open_clip has it, from its published equations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.io.safetensors import save

TOKENS = 24
PROMPTS = ["a red fox in the snow", "two dogs", ""]
LONG = "a cat and " * 20

_ENDS = {"bos_token_id": 0, "eos_token_id": 2}
CLIP: dict[str, Any] = {
    "model_type": "clip",
    "projection_dim": 16,
    "vision_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                      "patch_size": 14, "image_size": 42, "hidden_act": "gelu", "projection_dim": 16},
    "text_config": {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
                    "max_position_embeddings": TOKENS, "vocab_size": 600, "hidden_act": "gelu", "projection_dim": 16,
                    **_ENDS},
}  # fmt: skip
SIGLIP: dict[str, Any] = {
    "model_type": "siglip",
    "vision_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                      "patch_size": 14, "image_size": 42, "hidden_act": "gelu_pytorch_tanh"},
    "text_config": {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                    "vocab_size": 50, "max_position_embeddings": 8, **_ENDS},
}  # fmt: skip


def write_words(folder: Path) -> Path:
    """``tokenizer.json`` in ``folder``, of CLIP's kind: lower case, ``</w>`` ends a word, the token that ends a text is
    the one with the largest id."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    # Not trained: that breaks ties by chance.
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("f", "o"), ("fo", "x</w>"), ("r", "e"), ("re", "d</w>"), ("d", "o"), ("do", "g"), ("dog", "s</w>")]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>"))
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    ends = [(token, backend.token_to_id(token)) for token in ("<|startoftext|>", "<|endoftext|>")]
    backend.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=ends
    )
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """All weights random and large enough to matter; norms near one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            fan = parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 4.0
            parameter.copy_(noise / fan + (1.0 if "norm" in name or "ln_" in name else 0.0) * (parameter.dim() == 1))
    return module.eval().requires_grad_(False)


def clip_model(config: Mapping[str, Any] = CLIP, seed: int = 0) -> Any:
    from transformers import CLIPConfig, CLIPModel

    return randomise(CLIPModel(CLIPConfig.from_dict(dict(config))), seed)


def siglip_model(seed: int = 0) -> Any:
    from transformers import SiglipConfig, SiglipModel

    return randomise(SiglipModel(SiglipConfig.from_dict(SIGLIP)), seed)


def write_folder(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None = CLIP) -> Path:
    """``model.safetensors``, ``config.json`` and a tokenizer."""
    write_words(folder)
    save({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors", force=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def predictor(
    width: int, places: tuple[int, ...], prefix: str, seed: int = 3
) -> tuple[nn.Sequential, dict[str, Tensor]]:
    """The linears of an aesthetic predictor, and its tensors as published."""
    ends = (width, 1024, 128, 64, 16, 1)
    layers = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(ends)))
    randomise(layers, seed)
    state = {
        f"{prefix}.{place}.{kind}": getattr(layer, kind)
        for place, layer in zip(places, layers, strict=True)
        for kind in ("weight", "bias")
    }
    return layers, state


def mps_tensors(seed: int = 0, width: int = 16) -> dict[str, Tensor]:
    """``MPS_overall`` in small."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / shape[-1] ** 0.5

    state = {f"model.{name}": tensor for name, tensor in clip_model(seed=seed).state_dict().items()}
    for index in range(4):
        cross, own = (f"cross_model.layers.{index}.{place}.fn." for place in (0, 1))
        for place in (cross, own):
            state[f"{place}norm.weight"] = 1 + 0.3 * torch.randn(width, generator=generator)
            state[f"{place}norm.bias"] = torch.zeros(width)
        state[f"{cross}to_q.weight"] = 3 * random(1024, width)
        state[f"{cross}to_kv.weight"] = 3 * random(128, width)
        state[f"{cross}to_out.weight"] = random(width, 1024)
        state[f"{cross}ff.0.weight"] = random(8 * width, width)
        state[f"{cross}ff.2.weight"] = random(width, 4 * width)
        state[f"{own}rotary_emb.inv_freq"] = 1.0 / (10000 ** (torch.arange(0, 64, 2).float() / 64))
        state[f"{own}fused_attn_ff_proj.weight"] = random(1024 + 128 + 8 * width, width)
        state[f"{own}attn_out.weight"] = random(width, 1024)
        state[f"{own}ff_out.1.weight"] = random(width, 4 * width)
    return state


class OpenClip(nn.Module):
    """CLIP in open_clip's names, from the equations: pre-norm blocks around torch's own attention, the first place's
    state for a picture and the last token's for a text, each through its norm and a matrix."""

    def __init__(self, config: Mapping[str, Any] = CLIP) -> None:
        super().__init__()
        seen, text = config["vision_config"], config["text_config"]
        width, patch = seen["hidden_size"], seen["patch_size"]
        self.visual = nn.Module()
        self.visual.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.visual.class_embedding = nn.Parameter(torch.empty(width))
        self.visual.positional_embedding = nn.Parameter(torch.empty((seen["image_size"] // patch) ** 2 + 1, width))
        self.visual.ln_pre, self.visual.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.visual.transformer = _Blocks(seen)
        self.visual.proj = nn.Parameter(torch.empty(width, config["projection_dim"]))
        self.token_embedding = nn.Embedding(text["vocab_size"], text["hidden_size"])
        self.positional_embedding = nn.Parameter(torch.empty(text["max_position_embeddings"], text["hidden_size"]))
        self.transformer = _Blocks(text)
        self.ln_final = nn.LayerNorm(text["hidden_size"])
        self.text_projection = nn.Parameter(torch.empty(text["hidden_size"], config["projection_dim"]))
        self.logit_scale = nn.Parameter(torch.tensor(2.6))

    def encode_image(self, x_N3HW: Tensor) -> Tensor:
        eye = self.visual
        x = eye.conv1(x_N3HW).flatten(2).transpose(1, 2)
        x = torch.cat([eye.class_embedding.expand(len(x), 1, -1), x], dim=1) + eye.positional_embedding
        return F.normalize(eye.ln_post(eye.transformer(eye.ln_pre(x), None)[:, 0]) @ eye.proj, dim=-1)

    def encode_text(self, ids_NS: Tensor) -> Tensor:
        length = ids_NS.shape[1]
        ahead = torch.full((length, length), -torch.inf).triu(1)
        x = self.transformer(self.token_embedding(ids_NS) + self.positional_embedding[:length], ahead)
        last = self.ln_final(x)[torch.arange(len(x)), ids_NS.argmax(dim=1)]
        return F.normalize(last @ self.text_projection, dim=-1)


class _Blocks(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(_Block(config) for _ in range(config["num_hidden_layers"]))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        for block in self.resblocks:
            h = block.ln_1(x)
            x = x + block.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
            x = x + block.mlp.c_proj(F.gelu(block.mlp.c_fc(block.ln_2(x))))
        return x


class _Block(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, wide = config["hidden_size"], config["intermediate_size"]
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, config["num_attention_heads"], batch_first=True)
        self.mlp = nn.Module()
        self.mlp.c_fc, self.mlp.c_proj = nn.Linear(width, wide), nn.Linear(wide, width)
