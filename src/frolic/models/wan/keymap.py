"""Other people's names for the tensors of the transformer: diffusers' and the authors' own."""

from __future__ import annotations

from frolic.keymap import Edit, KeyMap, Rule
from frolic.models.wan.config import WanConfig

_B = "blocks.{i}"
_KINDS = ("weight", "bias")
_TABLE = Edit(load=lambda w: w.squeeze(0), save=lambda w: w.unsqueeze(0))


def _both(theirs: str, ours: str) -> list[Rule]:
    return [Rule.of(f"{theirs}.{kind}", f"{ours}.{kind}") for kind in _KINDS]


def _patches(config: WanConfig) -> Edit:
    """A strided convolution over patches is a linear over flattened ones, which have lost the patch's sides."""
    return Edit(load=lambda w: w.flatten(1), save=lambda w: w.unflatten(1, (-1, *config.patch)))


def _attention(theirs: str, ours: str, projections: str, name: str, out: str) -> list[Rule]:
    """``projections`` are those that are one linear here; ``name`` is what each of all is called, ``out`` the last."""
    rest = [_both(f"{theirs}.{name.format(n=n)}", f"{ours}.{n}") for n in "qkv" if n not in projections]
    return [
        *[rule for rules in rest for rule in rules],
        *[
            Rule.of([f"{theirs}.{name.format(n=n)}.{kind}" for n in projections], f"{ours}.{projections}.{kind}")
            for kind in _KINDS
        ],
        *_both(f"{theirs}.{out}", f"{ours}.out"),
        *[Rule.of(f"{theirs}.norm_{n}.weight", f"{ours}.norm_{n}.weight") for n in "qk"],
    ]


def diffusers_keys(config: WanConfig) -> KeyMap:
    """diffusers' ``WanTransformer3DModel``, of these dimensions. Its second and third norm are the authors' third and
    second."""
    embedder = "condition_embedder"
    return KeyMap(
        [
            Rule.of("patch_embedding.weight", "patch.weight", _patches(config)),
            Rule.of("patch_embedding.bias", "patch.bias"),
            *_both(f"{embedder}.time_embedder.linear_1", "time.fc1"),
            *_both(f"{embedder}.time_embedder.linear_2", "time.fc2"),
            *_both(f"{embedder}.time_proj", "modulation"),
            *_both(f"{embedder}.text_embedder.linear_1", "caption.fc1"),
            *_both(f"{embedder}.text_embedder.linear_2", "caption.fc2"),
            Rule.of(f"{_B}.scale_shift_table", f"{_B}.table", _TABLE),
            *_attention(f"{_B}.attn1", f"{_B}.attn", "qkv", "to_{n}", "to_out.0"),
            *_attention(f"{_B}.attn2", f"{_B}.cross", "kv", "to_{n}", "to_out.0"),
            *_both(f"{_B}.norm2", f"{_B}.norm_cross"),
            *_both(f"{_B}.ffn.net.0.proj", f"{_B}.mlp.expand"),
            *_both(f"{_B}.ffn.net.2", f"{_B}.mlp.project"),
            Rule.of("scale_shift_table", "table", _TABLE),
            *_both("proj_out", "out"),
        ]
    )


def original_keys(config: WanConfig) -> KeyMap:
    """The authors' own names, which ComfyUI's files have too, under a prefix or not."""
    return KeyMap(
        [
            Rule.of("patch_embedding.weight", "patch.weight", _patches(config)),
            Rule.of("patch_embedding.bias", "patch.bias"),
            *_both("time_embedding.0", "time.fc1"),
            *_both("time_embedding.2", "time.fc2"),
            *_both("time_projection.1", "modulation"),
            *_both("text_embedding.0", "caption.fc1"),
            *_both("text_embedding.2", "caption.fc2"),
            Rule.of(f"{_B}.modulation", f"{_B}.table", _TABLE),
            *_attention(f"{_B}.self_attn", f"{_B}.attn", "qkv", "{n}", "o"),
            *_attention(f"{_B}.cross_attn", f"{_B}.cross", "kv", "{n}", "o"),
            *_both(f"{_B}.norm3", f"{_B}.norm_cross"),
            *_both(f"{_B}.ffn.0", f"{_B}.mlp.expand"),
            *_both(f"{_B}.ffn.2", f"{_B}.mlp.project"),
            Rule.of("head.modulation", "table", _TABLE),
            *_both("head.head", "out"),
        ],
        dropped=("freqs",),
    )
