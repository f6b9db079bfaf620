"""The encoder of umT5 (Chung et al. 2023, arXiv 2304.09151): hidden states of a text in any of 107 languages.

An own module for the same reason as Gemma's: importing transformers costs seconds, and a part of ours is read strictly,
in the dtype and at the time that the plan says.

B batch, S tokens, D width, N heads, K head width, F feed-forward width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.keymap import KeyMap, Rule
from frolic.models.configs import LAYERS, POSITIVE, SIZE, Kind, read_config, refuse, whole
from frolic.nn.norm import RMSNorm

_NAMES = {
    "vocab_size": "vocabulary",
    "d_model": "width",
    "d_kv": "head_dim",
    "d_ff": "hidden",
    "num_layers": "layers",
    "num_heads": "heads",
    "relative_attention_num_buckets": "buckets",
    "relative_attention_max_distance": "farthest",
    "layer_norm_epsilon": "eps",
}
_KNOWN: dict[str, Kind] = {
    **dict.fromkeys(_NAMES, SIZE),
    "num_layers": LAYERS,
    "layer_norm_epsilon": POSITIVE,
    "relative_attention_num_buckets": whole(4, 1024),
}
_FIXED: dict[str, tuple[Any, ...]] = {
    "model_type": ("umt5",),
    "feed_forward_proj": ("gated-gelu",),
    "dense_act_fn": ("gelu_new",),
    "is_gated_act": (True,),
}
_IGNORED = {
    "architectures", "classifier_dropout", "decoder_start_token_id", "dropout_rate", "dtype", "torch_dtype",
    "eos_token_id", "pad_token_id", "bos_token_id", "initializer_factor", "is_decoder", "is_encoder_decoder",
    "num_decoder_layers", "output_past", "scalable_attention", "tie_word_embeddings", "tokenizer_class",
    "transformers_version", "use_cache", "output_hidden_states", "output_attentions", "return_dict", "id2label",
    "label2id", "problem_type", "scale_decoder_outputs", "chunk_size_feed_forward", "task_specific_params",
}  # fmt: skip


@dataclass(frozen=True)
class UMT5Config:
    """Defaults are umT5-xxl's."""

    vocabulary: int = 256384
    width: int = 4096
    head_dim: int = 64
    hidden: int = 10240
    layers: int = 24
    heads: int = 64
    buckets: int = 32
    farthest: int = 128
    eps: float = 1e-6

    def __post_init__(self) -> None:
        problems = []
        if self.buckets % 4:
            problems.append(f"relative_attention_num_buckets is {self.buckets}, it must be a multiple of 4")
        elif self.farthest <= self.buckets // 4:
            problems.append(f"relative_attention_max_distance is {self.farthest}, it must be above {self.buckets // 4}")
        refuse("umT5", problems)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> UMT5Config:
        """From transformers' ``UMT5Config``.

        Raises:
            CheckpointError: listing every entry that is unknown or cannot be honoured.
        """
        got = read_config(raw, what="umT5", known=_KNOWN, fixed=_FIXED, ignored=_IGNORED)
        return cls(**{_NAMES[name]: value for name, value in got.items()})

    def to_json(self) -> dict[str, Any]:
        """As transformers writes it."""
        return {
            "architectures": ["UMT5EncoderModel"],
            "model_type": "umt5",
            **{theirs: getattr(self, ours) for theirs, ours in _NAMES.items()},
            "feed_forward_proj": "gated-gelu",
            "is_encoder_decoder": True,
        }


class _Attention(nn.Module):
    """Logits are not scaled; each layer has its own bias by distance."""

    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        inner = config.heads * config.head_dim
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * inner, bias=False)
        self.out = nn.Linear(inner, config.width, bias=False)
        self.distance = nn.Embedding(config.buckets, config.heads)

    def forward(self, x_BSD: Tensor, bucket_SS: Tensor, real_BS: Tensor) -> Tensor:
        q, k, v = self.qkv(x_BSD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self.distance(bucket_SS).permute(2, 0, 1).masked_fill(~real_BS[:, None, None], -math.inf)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        return self.out(out.transpose(1, 2).flatten(2))


class _Block(nn.Module):
    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.norm1 = RMSNorm(config.width, eps=config.eps)
        self.attn = _Attention(config)
        self.norm2 = RMSNorm(config.width, eps=config.eps)
        self.gate = nn.Linear(config.width, config.hidden, bias=False)
        self.expand = nn.Linear(config.width, config.hidden, bias=False)
        self.project = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x_BSD: Tensor, bucket_SS: Tensor, real_BS: Tensor) -> Tensor:
        x_BSD = x_BSD + self.attn(self.norm1(x_BSD), bucket_SS, real_BS)
        h = self.norm2(x_BSD)
        return x_BSD + self.project(F.gelu(self.gate(h), approximate="tanh") * self.expand(h))


class UMT5Encoder(nn.Module):
    """Token ids to the hidden states after the last norm. Where a token is not real, what comes out means nothing."""

    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, eps=config.eps)

    def forward(self, ids_BS: Tensor, mask_BS: Tensor) -> Tensor:
        """``ids`` [B, S] and ``mask`` [B, S] (true where a token is real) to states [B, S, D]."""
        place = torch.arange(ids_BS.shape[1], device=ids_BS.device)
        buckets = self._buckets(place[None] - place[:, None])
        x_BSD = self.tokens(ids_BS)
        for block in self.blocks:
            x_BSD = block(x_BSD, buckets, mask_BS.bool())
        return self.norm(x_BSD)

    def _buckets(self, ahead_SS: Tensor) -> Tensor:
        """Which learned bias is for a key that stands ``ahead`` of the query: half of them for either side, of those
        half for a distance each, and the rest for spans that widen with the logarithm (T5, arXiv 1910.10683, 2.1)."""
        side = self.config.buckets // 2
        near = side // 2
        far = ahead_SS.abs()
        wide = torch.log(far.clamp(min=1).float() / near) / math.log(self.config.farthest / near) * (side - near)
        spanned = torch.where(far < near, far, (near + wide.long()).clamp(max=side - 1))
        return spanned + (ahead_SS > 0).long() * side


_B = "blocks.{i}"


def _rules(block: str, attention: str, distance: str, norms: tuple[str, str], feed: tuple[str, str, str]) -> list[Rule]:
    return [
        Rule.of([f"{block}.{attention}.{n}.weight" for n in "qkv"], f"{_B}.attn.qkv.weight"),
        Rule.of(f"{block}.{attention}.o.weight", f"{_B}.attn.out.weight"),
        Rule.of(f"{block}.{distance}.weight", f"{_B}.attn.distance.weight"),
        *[Rule.of(f"{block}.{norm}.weight", f"{_B}.norm{i}.weight") for i, norm in enumerate(norms, 1)],
        *[
            Rule.of(f"{block}.{theirs}.weight", f"{_B}.{ours}.weight")
            for theirs, ours in zip(feed, ("gate", "expand", "project"), strict=True)
        ],
    ]


def umt5_keys(config: UMT5Config) -> KeyMap:
    """transformers' ``UMT5EncoderModel``. Some files hold the token table twice."""
    feed = "layer.1.DenseReluDense"
    return KeyMap(
        [
            Rule.of("shared.weight", "tokens.weight"),
            *_rules(
                "encoder.block.{i}",
                "layer.0.SelfAttention",
                "layer.0.SelfAttention.relative_attention_bias",
                ("layer.0.layer_norm", "layer.1.layer_norm"),
                (f"{feed}.wi_0", f"{feed}.wi_1", f"{feed}.wo"),
            ),
            Rule.of("encoder.final_layer_norm.weight", "norm.weight"),
        ],
        dropped=("encoder.embed_tokens.weight",),
    )


def umt5_original_keys(config: UMT5Config) -> KeyMap:
    """The names in Wan's own file of it."""
    return KeyMap(
        [
            Rule.of("token_embedding.weight", "tokens.weight"),
            *_rules(_B, "attn", "pos_embedding.embedding", ("norm1", "norm2"), ("ffn.gate.0", "ffn.fc1", "ffn.fc2")),
            Rule.of("norm.weight", "norm.weight"),
        ]
    )
