"""Other people's names for the tensors of the transformer and of its ControlNet: diffusers' and the authors' own."""

from __future__ import annotations

from frolic.keymap import POINTWISE, Edit, KeyMap, Rule
from frolic.models.sana.config import SanaConfig
from frolic.models.sana.positions import GridPositions

_B, _T = "blocks.{i}", "transformer_blocks.{i}"
_KINDS = ("weight", "bias")


def _both(theirs: str, ours: str) -> list[Rule]:
    return [Rule.of(f"{theirs}.{kind}", f"{ours}.{kind}") for kind in _KINDS]


def _patches(config: SanaConfig) -> Edit:
    """A strided convolution over patches is a linear over flattened ones, which have lost the patch's side."""
    side = config.patch_size
    return Edit(load=lambda w: w.flatten(1), save=lambda w: w.unflatten(1, (-1, side, side)))


def _diffusers_blocks() -> list[Rule]:
    return [
        Rule.of(f"{_T}.scale_shift_table", f"{_B}.table"),
        *[Rule.of([f"{_T}.attn1.to_{n}.{kind}" for n in "qkv"], f"{_B}.attn.qkv.{kind}") for kind in _KINDS],
        *_both(f"{_T}.attn1.to_out.0", f"{_B}.attn.out"),
        *_both(f"{_T}.attn2.to_q", f"{_B}.cross.q"),
        *[Rule.of([f"{_T}.attn2.to_{n}.{kind}" for n in "kv"], f"{_B}.cross.kv.{kind}") for kind in _KINDS],
        *_both(f"{_T}.attn2.to_out.0", f"{_B}.cross.out"),
        *[
            Rule.of(f"{_T}.{theirs}.norm_{n}.weight", f"{_B}.{ours}.norm_{n}.weight")
            for theirs, ours in (("attn1", "attn"), ("attn2", "cross"))
            for n in "qk"
        ],
        Rule.of(f"{_T}.ff.conv_inverted.weight", f"{_B}.mlp.expand.weight", POINTWISE),
        Rule.of(f"{_T}.ff.conv_inverted.bias", f"{_B}.mlp.expand.bias"),
        *_both(f"{_T}.ff.conv_depth", f"{_B}.mlp.depth"),
        Rule.of(f"{_T}.ff.conv_point.weight", f"{_B}.mlp.project.weight", POINTWISE),
    ]


def _diffusers_embeds(config: SanaConfig) -> list[Rule]:
    """What stands before the blocks, in a transformer and in a ControlNet."""
    # With a guidance scale to embed, diffusers has another class there, which nests its embedders less deeply.
    time = "time_embed" if config.guidance_embeds else "time_embed.emb"
    return [
        Rule.of("patch_embed.proj.weight", "patch.weight", _patches(config)),
        Rule.of("patch_embed.proj.bias", "patch.bias"),
        *_both(f"{time}.timestep_embedder.linear_1", "time.fc1"),
        *_both(f"{time}.timestep_embedder.linear_2", "time.fc2"),
        *_both("time_embed.guidance_embedder.linear_1", "guidance.fc1"),
        *_both("time_embed.guidance_embedder.linear_2", "guidance.fc2"),
        *_both("time_embed.linear", "modulation"),
        *_both("caption_projection.linear_1", "caption.fc1"),
        *_both("caption_projection.linear_2", "caption.fc2"),
        Rule.of("caption_norm.weight", "caption.norm.weight"),
    ]


def diffusers_keys(config: SanaConfig) -> KeyMap:
    """diffusers' ``SanaTransformer2DModel``, of these dimensions."""
    return KeyMap(
        [
            *_diffusers_embeds(config),
            *_diffusers_blocks(),
            Rule.of("scale_shift_table", "table"),
            *_both("proj_out", "out"),
        ]
    )


def controlnet_keys(config: SanaConfig) -> KeyMap:
    """diffusers' ``SanaControlNetModel``, of these dimensions."""
    return KeyMap(
        [
            *_diffusers_embeds(config),
            *_diffusers_blocks(),
            *_both("input_block", "input_block"),
            *_both("controlnet_blocks.{i}", "controlnet_blocks.{i}"),
        ]
    )


def _original_blocks(block: str) -> list[Rule]:
    return [
        Rule.of(f"{block}.scale_shift_table", f"{_B}.table"),
        *_both(f"{block}.attn.qkv", f"{_B}.attn.qkv"),
        *_both(f"{block}.attn.proj", f"{_B}.attn.out"),
        *_both(f"{block}.cross_attn.q_linear", f"{_B}.cross.q"),
        *_both(f"{block}.cross_attn.kv_linear", f"{_B}.cross.kv"),
        *_both(f"{block}.cross_attn.proj", f"{_B}.cross.out"),
        *[
            Rule.of(f"{block}.{theirs}.{n}_norm.weight", f"{_B}.{ours}.norm_{n}.weight")
            for theirs, ours in (("attn", "attn"), ("cross_attn", "cross"))
            for n in "qk"
        ],
        Rule.of(f"{block}.mlp.inverted_conv.conv.weight", f"{_B}.mlp.expand.weight", POINTWISE),
        Rule.of(f"{block}.mlp.inverted_conv.conv.bias", f"{_B}.mlp.expand.bias"),
        *_both(f"{block}.mlp.depth_conv.conv", f"{_B}.mlp.depth"),
        Rule.of(f"{block}.mlp.point_conv.conv.weight", f"{_B}.mlp.project.weight", POINTWISE),
    ]


def _original_embeds(config: SanaConfig) -> list[Rule]:
    return [
        Rule.of("x_embedder.proj.weight", "patch.weight", _patches(config)),
        Rule.of("x_embedder.proj.bias", "patch.bias"),
        *_both("t_embedder.mlp.0", "time.fc1"),
        *_both("t_embedder.mlp.2", "time.fc2"),
        *_both("cfg_embedder.mlp.0", "guidance.fc1"),
        *_both("cfg_embedder.mlp.2", "guidance.fc2"),
        *_both("t_block.1", "modulation"),
        *_both("y_embedder.y_proj.fc1", "caption.fc1"),
        *_both("y_embedder.y_proj.fc2", "caption.fc2"),
        Rule.of("attention_y_norm.weight", "caption.norm.weight"),
    ]


_ORIGINAL_HEAD = [*_both("final_layer.linear", "out"), Rule.of("final_layer.scale_shift_table", "table")]

# The caption that training drops to, a table of positions that is computed here, and a head of Sprint's training loss.
_ORIGINAL_EXTRA = ("y_embedder.y_embedding", "pos_embed", "logvar_linear.weight", "logvar_linear.bias")


def original_keys(config: SanaConfig) -> KeyMap:
    """The authors' own names, which ComfyUI's files have too, under a prefix or not.

    Saved files lack the rest of what ``dropped`` lists: the authors' loader leaves missing ones as they are. Only the
    table of positions goes along where the model has positions, because ComfyUI tells from it that it has.
    """
    rebuilt = {}
    if config.interpolation_scale is not None:
        base = config.sample_size // config.patch_size
        positions = GridPositions(config.width, base, config.interpolation_scale)
        rebuilt["pos_embed"] = lambda: positions.compute((base, base))
    rules = [*_original_embeds(config), *_original_blocks(_B), *_ORIGINAL_HEAD]
    return KeyMap(rules, _ORIGINAL_EXTRA, rebuilt)


def original_controlnet_keys(config: SanaConfig) -> KeyMap:
    """The authors' names for a ControlNet. Their files hold the transformer that it was trained beside as well."""
    beside = [text for rule in (*_original_blocks(_B), *_ORIGINAL_HEAD) for text in rule.theirs]
    return KeyMap(
        [
            *_original_embeds(config),
            *_original_blocks("controlnet.{i}.copied_block"),
            *_both("controlnet.0.before_proj", "input_block"),
            *_both("controlnet.{i}.after_proj", "controlnet_blocks.{i}"),
        ],
        (*_ORIGINAL_EXTRA, *beside),
    )
