"""Gemma 2 as a text encoder (Gemma Team 2024, arXiv 2408.00118): hidden states, no vocabulary head.

An own module, because importing transformers costs more than drawing the starter's picture.

B batch, P tokens of a prefix, S tokens behind it, T = P + S, D width, N heads, G key/value heads, K head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.errors import CheckpointError
from frolic.keymap import KeyMap, Rule
from frolic.models.configs import LAYERS, MAPPING, POSITIVE, SIZE, TEXT, Kind, read_config
from frolic.nn.attention import softmax_attention
from frolic.nn.norm import GemmaRMSNorm

_NAMES = {
    "vocab_size": "vocabulary",
    "hidden_size": "width",
    "intermediate_size": "hidden",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_dim",
    "rms_norm_eps": "eps",
    "query_pre_attn_scalar": "query_scalar",
    "attn_logit_softcapping": "softcap",
    "sliding_window": "window",
}
_KNOWN: dict[str, Kind] = {
    **dict.fromkeys(_NAMES, SIZE),
    "num_hidden_layers": LAYERS,
    "rms_norm_eps": POSITIVE,
    "query_pre_attn_scalar": POSITIVE,
    "attn_logit_softcapping": POSITIVE.or_none(),
    "sliding_window": SIZE.or_none(),
    "rope_theta": POSITIVE,
    "rope_parameters": MAPPING.or_none(),
    "rope_scaling": MAPPING.or_none(),
    "layer_types": TEXT.list().or_none(),
}
_FIXED: dict[str, tuple[Any, ...]] = {
    "model_type": ("gemma2",),
    "attention_bias": (False,),
    "hidden_activation": ("gelu_pytorch_tanh",),
    "hidden_act": ("gelu_pytorch_tanh",),
    "use_bidirectional_attention": (None, False),
}
_IGNORED = {
    "architectures", "attention_dropout", "bos_token_id", "eos_token_id", "pad_token_id", "cache_implementation",
    "dtype", "torch_dtype", "final_logit_softcapping", "initializer_range", "max_position_embeddings",
    "tie_word_embeddings", "transformers_version", "use_cache", "is_encoder_decoder", "output_hidden_states",
    "output_attentions", "return_dict", "chunk_size_feed_forward", "id2label", "label2id", "problem_type",
    "sliding_window_size",
}  # fmt: skip


@dataclass(frozen=True)
class Gemma2Config:
    """Defaults are Gemma 2 2B's. Layers alternate between a sliding window (even ones) and all that came before."""

    vocabulary: int = 256000
    width: int = 2304
    hidden: int = 9216
    layers: int = 26
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 256
    eps: float = 1e-6
    rope_theta: float = 10000.0
    query_scalar: int = 256
    softcap: float | None = 50.0
    window: int | None = 4096

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Gemma2Config:
        """From transformers' ``Gemma2Config``, of version 4 or 5.

        Raises:
            CheckpointError: listing every entry that is unknown or cannot be honoured.
        """
        got = read_config(raw, what="Gemma 2", known=_KNOWN, fixed=_FIXED, ignored=_IGNORED)
        rope = got.get("rope_parameters") or got.get("rope_scaling") or {}
        if rope.get("rope_type", "default") != "default":
            raise CheckpointError(f"The text encoder's rope_type {rope['rope_type']!r} is not known; use 'default'.")
        theta = rope.get("rope_theta", got.get("rope_theta", cls.rope_theta))
        if not POSITIVE.fits(theta):
            raise CheckpointError(f"The text encoder's rope_theta is {theta!r}; it must be {POSITIVE.says}.")
        values = {ours: got[theirs] for theirs, ours in _NAMES.items() if theirs in got}
        config = cls(**values, rope_theta=theta)
        if config.head_dim % 2 or config.heads % config.kv_heads:
            raise CheckpointError(
                f"The text encoder has {config.heads} heads of {config.head_dim} channels and {config.kv_heads} of "
                "keys; the channels must be even, and the first number a multiple of the last."
            )
        if got.get("layer_types") not in (None, config.layer_types()):
            raise CheckpointError("The text encoder's layer_types do not alternate sliding and full attention.")
        return config

    def layer_types(self) -> list[str]:
        return ["full_attention" if i % 2 else "sliding_attention" for i in range(self.layers)]

    def to_json(self) -> dict[str, Any]:
        """As transformers writes it."""
        return {
            "architectures": ["Gemma2Model"],
            "model_type": "gemma2",
            **{theirs: getattr(self, ours) for theirs, ours in _NAMES.items()},
            "attention_bias": False,
            "hidden_activation": "gelu_pytorch_tanh",
            "layer_types": self.layer_types(),
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "bos_token_id": 2,
            "eos_token_id": 1,
            "pad_token_id": 0,
        }


KeysValues: TypeAlias = tuple[Tensor, Tensor]
"""A layer's keys, turned to their positions, and values: ``[B, G, T, K]`` each."""


@dataclass(frozen=True)
class Prefix:
    """What an encoder keeps of a text that others begin with: ``states`` [1, P, D] and each layer's keys and values.

    A token sees none that come after it, so these are the same whatever follows.
    """

    states_1PD: Tensor
    layers: tuple[KeysValues, ...]

    @property
    def length(self) -> int:
        return self.states_1PD.shape[1]

    def first(self, count: int) -> Prefix:
        """Of its first ``count`` tokens only; nothing is computed or copied."""
        layers = tuple((k[:, :, :count], v[:, :, :count]) for k, v in self.layers)
        return Prefix(self.states_1PD[:, :count], layers)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions and an optional soft cap on the logits."""

    def __init__(self, config: Gemma2Config) -> None:
        super().__init__()
        self.config = config
        self.q = nn.Linear(config.width, config.heads * config.head_dim, bias=False)
        self.k = nn.Linear(config.width, config.kv_heads * config.head_dim, bias=False)
        self.v = nn.Linear(config.width, config.kv_heads * config.head_dim, bias=False)
        self.out = nn.Linear(config.heads * config.head_dim, config.width, bias=False)

    def forward(
        self, x_BSD: Tensor, rotary: tuple[Tensor, Tensor], allowed_B1ST: Tensor, before: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        c = self.config
        q, k, v = (rearrange(f(x_BSD), "b s (n k) -> b n s k", k=c.head_dim) for f in (self.q, self.k, self.v))
        q, k = rotate(q, *rotary), rotate(k, *rotary)
        if before is not None:
            k, v = (torch.cat([p.expand(len(t), -1, -1, -1), t], dim=2) for p, t in zip(before, (k, v), strict=True))
        known = (k, v)
        k, v = (repeat(t, "b g t k -> b (g r) t k", r=c.heads // c.kv_heads) for t in (k, v))
        scale = c.query_scalar**-0.5
        if c.softcap is None:
            out = softmax_attention(q, k, v, allowed_B1ST, scale=scale)
        else:
            logits = torch.tanh((q @ k.transpose(-1, -2)) * (scale / c.softcap)) * c.softcap
            logits = logits.float().masked_fill(~allowed_B1ST, torch.finfo(torch.float32).min)
            out = logits.softmax(dim=-1).to(v.dtype) @ v
        return self.out(rearrange(out, "b n s k -> b s (n k)")), known


class MLP(nn.Module):
    def __init__(self, config: Gemma2Config) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.hidden, bias=False)
        self.up = nn.Linear(config.width, config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.gate(x), approximate="tanh") * self.up(x))


class Layer(nn.Module):
    """Norms before and after each of attention and feed-forward, as Gemma 2 has them."""

    def __init__(self, config: Gemma2Config, index: int) -> None:
        super().__init__()
        self.sliding = config.layer_types()[index] == "sliding_attention"
        self.attn = Attention(config)
        self.mlp = MLP(config)
        self.norm_attn_in = GemmaRMSNorm(config.width, eps=config.eps)
        self.norm_attn_out = GemmaRMSNorm(config.width, eps=config.eps)
        self.norm_mlp_in = GemmaRMSNorm(config.width, eps=config.eps)
        self.norm_mlp_out = GemmaRMSNorm(config.width, eps=config.eps)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], allowed: Tensor, before: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        seen, known = self.attn(self.norm_attn_in(x), rotary, allowed, before)
        x = x + self.norm_attn_out(seen)
        return x + self.norm_mlp_out(self.mlp(self.norm_mlp_in(x))), known


class Gemma2Encoder(nn.Module):
    """Token ids to the hidden states after the last norm."""

    def __init__(self, config: Gemma2Config) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocabulary, config.width)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.layers))
        self.norm = GemmaRMSNorm(config.width, eps=config.eps)

    def forward(self, ids_BS: Tensor, mask_BS: Tensor, prefix: Prefix | None = None) -> Tensor:
        """``ids`` [B, S] padded on the right, ``mask`` [B, S] (true where a token is real) to ``[B, S, D]``.

        With a ``prefix``, those of the tokens behind it: as if it stood before each row, at the cost of the row alone.
        Padding sees the real tokens before it and no other padding, as published.
        """
        return self._run(ids_BS, mask_BS, prefix, None)

    def prefix(self, ids_1P: Tensor) -> Prefix:
        """What ``forward`` needs of texts that begin with ``ids`` [1, P], all of them real."""
        known: list[KeysValues] = []
        states = self._run(ids_1P, torch.ones_like(ids_1P, dtype=torch.bool), None, known)
        return Prefix(states, tuple(known))

    def _run(self, ids_BS: Tensor, mask_BS: Tensor, prefix: Prefix | None, known: list[KeysValues] | None) -> Tensor:
        """The hidden states; each layer's keys and values are put into ``known``, where wanted."""
        # The published model rounds this scale to its own dtype, and so is tuned to the rounded one.
        scale = torch.tensor(self.config.width**0.5).to(self.embed.weight.dtype)
        x = self.embed(ids_BS) * scale.to(self.embed.weight.device)
        past = 0 if prefix is None else prefix.length
        rotary = rotary_table(past, ids_BS.shape[1], self.config.head_dim, self.config.rope_theta, x)
        full = allowed_pairs(mask_BS, None, past)
        sliding = allowed_pairs(mask_BS, self.config.window, past)
        for index, layer in enumerate(self.layers):
            before = None if prefix is None else prefix.layers[index]
            x, own = layer(x, rotary, sliding if layer.sliding else full, before)
            if known is not None:
                known.append(own)
        return self.norm(x)


def rotary_table(start: int, length: int, head_dim: int, theta: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine ``[S, K]`` for ``length`` positions from ``start`` on. Computed in float32, rounded to the dtype
    of ``like``, on its device."""
    powers = torch.arange(0, head_dim, 2, dtype=torch.float32, device=like.device) / head_dim
    positions = torch.arange(start, start + length, dtype=torch.float32, device=like.device)
    angles = positions[:, None] * theta**-powers
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x_BNSK: Tensor, cos_SK: Tensor, sin_SK: Tensor) -> Tensor:
    """Rotary position embedding, pairing each channel with the one half a head away."""
    first, second = x_BNSK.chunk(2, dim=-1)
    return x_BNSK * cos_SK + torch.cat([-second, first], dim=-1) * sin_SK


def allowed_pairs(mask_BS: Tensor, window: int | None, past: int = 0) -> Tensor:
    """``[B, 1, S, T]``: may token i, behind ``past`` real ones, read token j? Itself where there is no other, so that a
    row of padding stays finite."""
    length = mask_BS.shape[1]
    position = torch.arange(past + length, device=mask_BS.device)
    behind = position[past:, None] - position[None, :]
    causal = behind >= 0
    if window is not None:
        causal = causal & (behind < window)
    allowed = causal & F.pad(mask_BS.bool(), (past, 0), value=True)[:, None, None, :]
    return allowed | ((behind == 0) & ~allowed.any(dim=-1, keepdim=True))


def transformers_keys(config: Gemma2Config) -> KeyMap:
    """transformers' names for the tensors of ``Gemma2Model``."""
    layer = "layers.{i}"
    rules = [Rule.of("embed_tokens.weight", "embed.weight"), Rule.of("norm.weight", "norm.weight")]
    for theirs, ours in (
        ("self_attn.q_proj", "attn.q"),
        ("self_attn.k_proj", "attn.k"),
        ("self_attn.v_proj", "attn.v"),
        ("self_attn.o_proj", "attn.out"),
        ("mlp.gate_proj", "mlp.gate"),
        ("mlp.up_proj", "mlp.up"),
        ("mlp.down_proj", "mlp.down"),
        ("input_layernorm", "norm_attn_in"),
        ("post_attention_layernorm", "norm_attn_out"),
        ("pre_feedforward_layernorm", "norm_mlp_in"),
        ("post_feedforward_layernorm", "norm_mlp_out"),
    ):
        rules.append(Rule.of(f"{layer}.{theirs}.weight", f"{layer}.{ours}.weight"))
    return KeyMap(rules)


def causal_lm_keys(config: Gemma2Config) -> KeyMap:
    """transformers' names for the tensors of ``Gemma2ForCausalLM``. Its head shares the embedding's weights, so that a
    file may hold it or not; an encoder has no use for it."""
    return KeyMap(transformers_keys(config).under("model.").rules, dropped=("lm_head.weight",))
