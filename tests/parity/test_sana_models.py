"""Every option of the SANA transformer and its ControlNet against diffusers: same weights and inputs, float32."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from frolic.models.sana import (
    Perturb,
    SanaConfig,
    SanaControlNet,
    SanaControlNetConfig,
    SanaTransformer,
    TextContext,
    controlnet_keys,
    diffusers_keys,
)
from frolic.models.sana.positions import GridPositions
from frolic.models.sana.published import PUBLISHED, PUBLISHED_CONTROLNETS
from frolic.models.sana.variants import VARIANTS

diffusers = pytest.importorskip("diffusers")

TINY = {
    "in_channels": 8, "out_channels": 8, "num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 4,
    "num_cross_attention_heads": 2, "cross_attention_head_dim": 16, "cross_attention_dim": 32,
    "caption_channels": 24, "sample_size": 8,
}  # fmt: skip
QK_NORM = {"qk_norm": "rms_norm_across_heads"}
OPTIONS = [
    {},
    QK_NORM,
    {"guidance_embeds": True, "guidance_embeds_scale": 0.3},
    {"interpolation_scale": 1.0},
    {"interpolation_scale": 2.0},
    {"patch_size": 2},
    {"attention_bias": True},
    {"out_channels": None, "mlp_ratio": 3.0, "norm_eps": 1e-3},
]
PAIRS = [one | other for one, other in combinations(OPTIONS[1:], 2) if not one.keys() & other.keys()]
EVERYTHING = {key: value for option in OPTIONS for key, value in option.items()}
MASK = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]])


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def randomise(module) -> None:
    """Every weight random, also those that start at one or zero, so that each of them matters to the result."""
    generator = torch.Generator().manual_seed(5)
    for name, p in module.named_parameters():
        scale = 0.2 if p.ndim > 1 else 0.3
        p.copy_(torch.randn(p.shape, generator=generator) * scale + (0.8 if "norm" in name and p.ndim == 1 else 0))


def assert_close(ours, theirs) -> None:
    """Largest difference under 1e-4 of the reference's range."""
    assert ours.shape == theirs.shape
    span = (theirs.max() - theirs.min()).item()
    assert span > 0
    assert (ours - theirs).abs().max().item() < 1e-4 * span


def both(change):
    theirs = diffusers.SanaTransformer2DModel(**TINY | change).eval()
    randomise(theirs)
    config = SanaConfig.from_json(dict(theirs.config))
    ours = SanaTransformer(config)
    ours.load_state_dict(diffusers_keys(config).load(theirs.state_dict()), strict=True)
    return theirs, ours


def both_controlnets(change, layers=2):
    theirs = diffusers.SanaControlNetModel(**TINY | {"num_layers": layers} | change).eval()
    randomise(theirs)
    config = SanaControlNetConfig.from_json(dict(theirs.config))
    ours = SanaControlNet(config)
    ours.load_state_dict(controlnet_keys(config).load(theirs.state_dict()), strict=True)
    return theirs, ours


def inputs(size=(8, 8), rows=3):
    generator = torch.Generator().manual_seed(1)
    x, text = (torch.randn(rows, *shape, generator=generator) for shape in ((8, *size), (7, 24)))
    t = torch.tensor([999.0, 371.0, 20.0]).repeat(rows // 3 + 1)[:rows]
    return x, t, text, MASK.repeat(rows // 3 + 1, 1)[:rows]


@pytest.mark.parametrize("size", [(8, 8), (6, 10), (16, 12)], ids=str)
@pytest.mark.parametrize("change", [*OPTIONS, *PAIRS, EVERYTHING], ids=lambda change: "-".join(change) or "plain")
def test_transformer(size, change):
    theirs, ours = both(change)
    x, t, text, mask = inputs(size)
    guidance = torch.tensor([4.5, 1.0, 7.0]) if ours.config.guidance_embeds else None
    # diffusers scales what the user says outside of the model.
    scaled = None if guidance is None else guidance * ours.config.guidance_embeds_scale
    expected = theirs(x, encoder_hidden_states=text, timestep=t, guidance=scaled, encoder_attention_mask=mask).sample
    assert_close(ours(x, t, text, mask, guidance_B=guidance), expected)
    assert_close(ours.denoise(x, t, ours.context(text, mask), guidance_B=guidance), expected)


@pytest.mark.parametrize("change", [*OPTIONS, EVERYTHING], ids=lambda change: "-".join(change) or "plain")
def test_a_written_config_builds_the_same_class(change):
    config = SanaConfig.from_json(TINY | change)
    theirs = diffusers.SanaTransformer2DModel.from_config(config.to_json())
    assert SanaConfig.from_json(dict(theirs.config)) == config
    mine = diffusers_keys(config).save(SanaTransformer(config).state_dict())
    assert {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in theirs.state_dict().items()}


def test_timesteps_are_scaled_as_the_pipeline_does():
    theirs, ours = both({"timestep_scale": 0.001})
    x, t, text, mask = inputs()
    expected = theirs(x, encoder_hidden_states=text, timestep=t * 0.001, encoder_attention_mask=mask).sample
    assert_close(ours(x, t, text, mask), expected)


@pytest.mark.parametrize(
    ("scale", "grid"),
    [
        (scale, grid)
        for scale, base in ((1.0, 64), (2.0, 128))
        for grid in ((base, base), (base, base // 2), (base // 2 - 2, base), (16, 16), (base + 10, base - 6), (1, 3))
    ],
    ids=str,
)
def test_positions_of_the_2k_and_4k_models(scale, grid):
    base = 64 if scale == 1 else 128
    embed = diffusers.models.embeddings.PatchEmbed(
        height=base, width=base, patch_size=1, in_channels=1, embed_dim=96, interpolation_scale=scale,
        pos_embed_type="sincos",
    )  # fmt: skip
    embed.proj.weight.zero_()
    embed.proj.bias.zero_()
    ours = GridPositions(96, base, scale).compute(grid)
    assert torch.allclose(ours, embed(torch.zeros(1, 1, *grid)), atol=1e-6)


def _perturbed(theirs, layers, processor):
    for index in layers:
        theirs.transformer_blocks[index].attn1.set_processor(processor())


@pytest.mark.parametrize("change", [{}, {"attention_bias": True}, {"interpolation_scale": 2.0}], ids=str)
@pytest.mark.parametrize("size", [(8, 8), (6, 10)], ids=str)
@pytest.mark.parametrize("layers", [(0,), (1, 3)], ids=str)
def test_perturbed_attention(change, size, layers):
    theirs, ours = both(change)
    x, t, text, mask = inputs(size, rows=6)
    for processor, rows in (("PAGCFGSanaLinearAttnProcessor2_0", 2), ("PAGIdentitySanaLinearAttnProcessor2_0", 3)):
        _perturbed(theirs, layers, getattr(diffusers.models.attention_processor, processor))
        expected = theirs(x, encoder_hidden_states=text, timestep=t, encoder_attention_mask=mask).sample
        perturb = Perturb(frozenset(layers), rows)
        assert_close(ours.denoise(x, t, ours.context(text, mask), perturb=perturb), expected)
        assert_close(ours(x, t, text, mask, perturb=perturb), expected)
        whole = ours(x, t, text, mask)
        assert torch.allclose(whole[:-rows], expected[:-rows], atol=1e-4)
        assert not torch.allclose(whole[-rows:], expected[-rows:], atol=1e-2)


def test_one_perturbed_attention_in_float16():
    theirs, ours = both({})
    name = "PAGCFGSanaLinearAttnProcessor2_0"
    _perturbed(theirs, (0,), getattr(diffusers.models.attention_processor, name))
    x = torch.randn(3, 9, 32).half()
    expected = theirs.half().transformer_blocks[0].attn1(x)
    assert torch.allclose(ours.half().blocks[0].attn(x, 1), expected, atol=2e-2)


@pytest.mark.parametrize("size", [(8, 8), (6, 10)], ids=str)
@pytest.mark.parametrize(
    "change",
    [{}, {"interpolation_scale": 2.0}, {"patch_size": 2}, {"attention_bias": True, "interpolation_scale": 1.0}],
    ids=str,
)
@pytest.mark.parametrize("layers", [1, 3])
def test_controlnet(size, change, layers):
    theirs, ours = both(change)
    their_net, net = both_controlnets(change, layers)
    x, t, text, mask = inputs(size)
    picture = torch.randn(3, 8, *size)
    for scale in (1.0, 0.4):
        given = {"encoder_hidden_states": text, "timestep": t, "encoder_attention_mask": mask}
        samples = their_net(x, controlnet_cond=picture, conditioning_scale=scale, **given).controlnet_block_samples
        expected = theirs(x, controlnet_block_samples=samples, **given).sample
        control = net.control(picture, net.context(text, mask), scale=scale)
        assert_close(ours(x, t, text, mask, control=control), expected)
        assert_close(ours.denoise(x, t, ours.context(text, mask), control=control), expected)


def test_controlnet_with_perturbed_attention_and_guidance_rows():
    """A batch as guidance makes it: two pictures without text, with text, and with perturbed attention."""
    theirs, ours = both({})
    their_net, net = both_controlnets({})
    _perturbed(theirs, (1,), diffusers.models.attention_processor.PAGCFGSanaLinearAttnProcessor2_0)
    x, t, text, mask = inputs(rows=2)
    picture = torch.randn(2, 8, 8, 8)
    rows = torch.tensor([0, 0, 1, 1, 1, 1])
    x, t, pictures = (torch.cat([tensor] * 3) for tensor in (x, t, picture))
    given = {"encoder_hidden_states": text[rows], "timestep": t, "encoder_attention_mask": mask[rows]}
    samples = their_net(x, controlnet_cond=pictures, conditioning_scale=0.7, **given).controlnet_block_samples
    expected = theirs(x, controlnet_block_samples=samples, **given).sample

    def prepared(model):
        return TextContext.cat([model.context(text[i : i + 1], mask[i : i + 1]) for i in range(2)]).rows(rows)

    control = net.control(pictures, prepared(net), scale=0.7)
    perturb = Perturb(frozenset({1}), 2)
    assert_close(ours.denoise(x, t, prepared(ours), perturb=perturb, control=control), expected)


def test_a_controlnet_config_is_written_as_diffusers_reads_it():
    config = SanaControlNetConfig.from_json(TINY | {"num_layers": 2, "interpolation_scale": 2.0, "_class_name": "X"})
    written = config.to_json()
    theirs = diffusers.SanaControlNetModel.from_config(written)
    assert written["_class_name"] == "SanaControlNetModel"
    assert written.keys() - {"_class_name"} <= theirs.config.keys()
    assert SanaControlNetConfig.from_json(dict(theirs.config)) == config


def test_the_controlnets_defaults_are_diffusers():
    assert SanaControlNetConfig.from_json({}) == SanaControlNetConfig.from_json(
        dict(_empty(diffusers.SanaControlNetModel, {}).config)
    )


def _empty(kind, config):
    accelerate = pytest.importorskip("accelerate")
    with accelerate.init_empty_weights():
        return kind.from_config(config)


def _shapes(state):
    return {name: tensor.shape for name, tensor in state.items()}


_ARCHITECTURES = {config: name for name, config in VARIANTS.items()} | {e.config: e.name for e in PUBLISHED}


@pytest.mark.parametrize("config", _ARCHITECTURES, ids=_ARCHITECTURES.get)
def test_published_names_and_shapes(config):
    """At full size, without memory for weights."""
    theirs = _empty(diffusers.SanaTransformer2DModel, config.to_json())
    with torch.device("meta"):
        ours = SanaTransformer(config)
        keymap = diffusers_keys(config)
        assert _shapes(keymap.save(ours.state_dict())) == _shapes(theirs.state_dict())
        assert _shapes(keymap.load(theirs.to("meta").state_dict())) == _shapes(ours.state_dict())


@pytest.mark.parametrize("entry", PUBLISHED_CONTROLNETS, ids=lambda entry: entry.name)
def test_published_controlnet_names_and_shapes(entry):
    theirs = _empty(diffusers.SanaControlNetModel, entry.config.to_json())
    with torch.device("meta"):
        ours = SanaControlNet(entry.config)
        assert _shapes(controlnet_keys(entry.config).save(ours.state_dict())) == _shapes(theirs.state_dict())
