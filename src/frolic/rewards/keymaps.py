"""What published rewards call their weights, and how those names and shapes become ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from frolic.keymap import Edit, KeyMap, Rule

_TRANSPOSED = Edit(load=lambda w: w.t(), save=lambda w: w.t())


def _blocks(ours: str, theirs: str) -> list[Rule]:
    """A tower's blocks: transformers has three matrices where open_clip has one."""
    fused = [
        Rule.of(
            [f"{ours}.encoder.layers.{{i}}.self_attn.{part}_proj.{kind}" for part in "qkv"],
            f"{theirs}.resblocks.{{i}}.attn.in_proj_{kind}",
        )
        for kind in ("weight", "bias")
    ]
    rest = {
        "self_attn.out_proj": "attn.out_proj",
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    return fused + [
        Rule.of(f"{ours}.encoder.layers.{{i}}.{mine}.{{p}}", f"{theirs}.resblocks.{{i}}.{other}.{{p}}")
        for mine, other in rest.items()
    ]


OPEN_CLIP = KeyMap(
    [
        Rule.of("vision_model.embeddings.class_embedding", "visual.class_embedding"),
        Rule.of("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight"),
        Rule.of("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
        Rule.of("vision_model.pre_layrnorm.{p}", "visual.ln_pre.{p}"),
        Rule.of("vision_model.post_layernorm.{p}", "visual.ln_post.{p}"),
        Rule.of("visual_projection.weight", "visual.proj", _TRANSPOSED),
        *_blocks("vision_model", "visual.transformer"),
        Rule.of("text_model.embeddings.token_embedding.weight", "token_embedding.weight"),
        Rule.of("text_model.embeddings.position_embedding.weight", "positional_embedding"),
        Rule.of("text_model.final_layer_norm.{p}", "ln_final.{p}"),
        Rule.of("text_projection.weight", "text_projection", _TRANSPOSED),
        *_blocks("text_model", "transformer"),
    ]
)
"""From transformers' names to open_clip's. In this direction, because a rule fuses and does not split: ``save`` reads a
file in open_clip's names."""


@dataclass(frozen=True)
class Layout:
    """How a file names a module's tensors. ``expected`` makes what the file has to hold of the module's own (on meta),
    ``load`` the module's own of what it holds."""

    name: str
    expected: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    load: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]

    @classmethod
    def of(cls, name: str, theirs: KeyMap) -> Layout:
        """A map from their names to ours."""
        return cls(name, theirs.save, theirs.load)


CLIP_LAYOUTS = (Layout("transformers", dict, dict), Layout("open_clip", OPEN_CLIP.load, OPEN_CLIP.save))
PLAIN = (Layout("transformers", dict, dict),)


def sequence(prefix: str, places: Iterable[int]) -> Layout:
    """An ``nn.Sequential`` of linears that stand at ``places`` in the published one, between dropouts."""
    rules = [Rule.of(f"{prefix}.{place}.{{p}}", f"{index}.{{p}}") for index, place in enumerate(places)]
    return Layout.of("published", KeyMap(rules))


AESTHETIC_V2 = sequence("layers", (0, 2, 4, 6, 7))
AESTHETIC_V2_5 = sequence("scoring_head", (0, 2, 4, 6, 8))

MPS_CROSS = Layout.of(
    "published",
    KeyMap(
        [
            Rule.of("layers.{i}.0.fn.ff.0.weight", "layers.{i}.cross.ff_in.weight"),
            Rule.of("layers.{i}.0.fn.ff.2.weight", "layers.{i}.cross.ff_out.weight"),
            Rule.of("layers.{i}.0.fn.{m}.{p}", "layers.{i}.cross.{m}.{p}"),
            Rule.of("layers.{i}.1.fn.rotary_emb.inv_freq", "layers.{i}.own.frequencies"),
            Rule.of("layers.{i}.1.fn.ff_out.1.weight", "layers.{i}.own.ff_out.weight"),
            Rule.of("layers.{i}.1.fn.fused_attn_ff_proj.weight", "layers.{i}.own.fused.weight"),
            Rule.of("layers.{i}.1.fn.{m}.{p}", "layers.{i}.own.{m}.{p}"),
        ]
    ),
)

UNUSED = (
    "logit_scale",
    "logit_bias",
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
    "attn_mask",
    "context_length",
    "input_resolution",
    "vocab_size",
)
"""Tensors that published files may hold and no score needs: a cosine has no scale, and the rest are no weights."""

UNUSED_TEXT = (
    "text_model.",
    "text_projection.weight",
    "text_projection",
    "transformer.",
    "token_embedding.weight",
    "positional_embedding",
    "ln_final.",
)
"""What belongs to a text tower, where only pictures are looked at; one that ends in a dot is a beginning."""


def is_unused(name: str, unused: Iterable[str]) -> bool:
    """Whether ``name`` is one of ``unused``, or begins as one of those that end in a dot."""
    return any(name.startswith(text) if text.endswith(".") else name == text for text in unused)


def recognise(names: Iterable[str]) -> str:
    """Which published reward's file has these ``names``: the towers of ``clip`` or ``siglip``, ``mps``, the layers of
    ``aesthetic-v2`` or ``aesthetic-v2.5``, or nothing."""
    names = set(names)
    seen = "vision_model.embeddings.patch_embedding"
    signs = {
        "mps": {"model.visual_projection.weight", "cross_model.layers.0.0.fn.to_q.weight"},
        "clip": {"visual.conv1.weight", "visual.proj", "text_projection", "token_embedding.weight"},
        "clip in transformers' names": {f"{seen}.weight", "visual_projection.weight"},
        "siglip": {f"{seen}.weight", f"{seen}.bias", "vision_model.head.probe"},
        "aesthetic-v2": {"layers.0.weight", "layers.7.weight"},
        "aesthetic-v2.5": {"scoring_head.0.weight", "scoring_head.8.weight"},
    }
    return next((kind.split()[0] for kind, wanted in signs.items() if wanted <= names), "")
