"""The Wan transformer and umT5 against diffusers and transformers, on random weights in float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from frolic.models.text import UMT5Config, UMT5Encoder, umt5_keys, umt5_original_keys
from frolic.models.wan import WanConfig, WanTransformer, diffusers_keys, original_keys
from frolic.models.wan.guess import guess
from frolic.models.wan.published import VARIANTS

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

SMALL = {"num_attention_heads": 2, "attention_head_dim": 24, "text_dim": 16, "freq_dim": 32, "ffn_dim": 40}
KINDS = {
    "t2v": {"in_channels": 16, "out_channels": 16},
    "i2v": {"in_channels": 36, "out_channels": 16},
    "ti2v": {"in_channels": 48, "out_channels": 48},
    "no norm": {"in_channels": 16, "out_channels": 16, "cross_attn_norm": False},
}


def lively(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return module.eval()


def both(kind: str) -> tuple[nn.Module, WanTransformer]:
    theirs = lively(diffusers.WanTransformer3DModel(num_layers=2, **SMALL, **KINDS[kind]))
    config = WanConfig.from_json(dict(theirs.config))
    ours = WanTransformer(config).eval()
    ours.load_state_dict(diffusers_keys(config).load(theirs.state_dict()), strict=True)
    return theirs, ours


def texts(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Zero-padded to 512, as diffusers reads them, and their mask."""
    mask = torch.arange(512)[None] < torch.tensor(lengths)[:, None]
    return torch.randn(len(lengths), 512, 16, generator=torch.Generator().manual_seed(5)) * mask[..., None], mask


def close(got: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    assert got.shape == expected.shape
    assert expected.std() > 0.01, "a flat result would prove nothing"
    assert (got - expected).abs().max() < tolerance * (expected.max() - expected.min())


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_one_prediction(kind: str) -> None:
    theirs, ours = both(kind)
    config = ours.config
    text, mask = texts([7, 33])
    x = torch.randn(2, config.in_channels, 3, 6, 10)
    t = torch.tensor([999.0, 123.0])
    expected = theirs(x, t, text, return_dict=False)[0]
    noisy, known = x[:, : config.out_channels], x[:, config.out_channels :]
    given = {"known_BCTHW": known} if config.known_channels else {}
    # Only as much of the padding as the longest text needs: the rest is counted, not computed.
    close(ours(noisy, t, text[:, :40], mask[:, :40], **given), expected)


@torch.no_grad()
def test_frames_with_times_of_their_own() -> None:
    theirs, ours = both("ti2v")
    text, mask = texts([7, 33])
    x, t_BT = torch.randn(2, 48, 4, 6, 4), torch.tensor([[0.0, 871, 871, 871], [0.0, 20, 20, 20]])
    expected = theirs(x, t_BT.repeat_interleave(6, dim=1), text, return_dict=False)[0]
    close(ours(x, t_BT, text[:, :40], mask[:, :40]), expected)


@torch.no_grad()
def test_padding_is_read_and_a_full_text_has_none() -> None:
    theirs, ours = both("t2v")
    x, t = torch.randn(1, 16, 1, 4, 4), torch.tensor([500.0])
    for length in (1, 511, 512):
        text, mask = texts([length])
        close(ours(x, t, text, mask), theirs(x, t, text, return_dict=False)[0])
    short, mask = texts([7])
    alone = ours.denoise(x, t, ours.context(short[:, :7], mask[:, :7], length=7))
    assert (alone - ours(x, t, short, mask)).abs().max() > 1e-3


@torch.no_grad()
def test_texts_of_two_lengths_in_one_batch() -> None:
    from frolic.models.context import TextContext

    _, ours = both("t2v")
    text, mask = texts([7, 33])
    x, t = torch.randn(2, 16, 2, 4, 4), torch.tensor([500.0, 500.0])
    parts = [ours.context(text[i : i + 1, :n], mask[i : i + 1, :n]) for i, n in ((0, 8), (1, 40))]
    close(ours.denoise(x, t, TextContext.joined(parts)), ours(x, t, text, mask), 1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_full_size_names_and_shapes(name: str) -> None:
    """diffusers' own model and its own conversion of the authors' names are the yardsticks."""
    config = VARIANTS[name]
    settings = {key: value for key, value in config.to_json().items() if not key.startswith("_")}
    with torch.device("meta"):
        theirs = diffusers.WanTransformer3DModel(**settings).state_dict()
        ours = WanTransformer(config).state_dict()
    saved = diffusers_keys(config).save(ours)
    assert {key: value.shape for key, value in saved.items()} == {key: value.shape for key, value in theirs.items()}
    back = diffusers_keys(config).load(saved)
    assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in ours.items()}

    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    original = original_keys(config).save(ours)
    converted = convert_wan_transformer_to_diffusers(dict(original))
    assert {key: value.shape for key, value in converted.items()} == {key: value.shape for key, value in theirs.items()}
    found = guess({key: tuple(value.shape) for key, value in original.items()})
    assert found.config == config and not found.unknown


def test_the_published_sizes_have_the_published_counts() -> None:
    counts = {}
    for name, config in VARIANTS.items():
        with torch.device("meta"):
            counts[name] = round(sum(p.numel() for p in WanTransformer(config).parameters()) / 1e9, 2)
    assert counts == {"1.3b": 1.42, "14b": 14.29, "i2v-a14b": 14.29, "ti2v-5b": 5.0}


@torch.no_grad()
def test_original_names_move_the_right_weights() -> None:
    """By values, not only by names: diffusers' second and third norm are the authors' third and second."""
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    theirs, ours = both("t2v")
    converted = convert_wan_transformer_to_diffusers(original_keys(ours.config).save(ours.state_dict()))
    for key, value in theirs.state_dict().items():
        assert torch.equal(converted[key], value), key


@torch.no_grad()
def test_umt5() -> None:
    config = UMT5Config(vocabulary=50, width=24, head_dim=8, hidden=40, layers=3, heads=3)
    settings = {key: value for key, value in config.to_json().items() if key != "architectures"}
    theirs = lively(transformers.UMT5EncoderModel(transformers.UMT5Config(**settings)))
    assert UMT5Config.from_json(theirs.config.to_dict()) == config
    ours = UMT5Encoder(config).eval()
    ours.load_state_dict(umt5_keys(config).load(theirs.state_dict()), strict=True)
    ids = torch.randint(0, 50, (2, 300), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(300)[None] < torch.tensor([[300], [37]])
    expected = theirs(ids, mask.long()).last_hidden_state
    close(ours(ids, mask)[mask], expected[mask])
    # Padding changes nothing, so a text is encoded without it.
    close(ours(ids[1:, :40], mask[1:, :40])[0, :37], expected[1, :37])
    again = UMT5Encoder(config)
    again.load_state_dict(umt5_original_keys(config).load(umt5_original_keys(config).save(ours.state_dict())))


def test_umt5_xxl_has_transformers_names() -> None:
    config = UMT5Config()
    settings = {key: value for key, value in config.to_json().items() if key != "architectures"}
    with torch.device("meta"):
        theirs = transformers.UMT5EncoderModel(transformers.UMT5Config(**settings)).state_dict()
        ours = UMT5Encoder(config).state_dict()
    saved = {key: value.shape for key, value in umt5_keys(config).save(ours).items()}
    assert saved == {key: value.shape for key, value in theirs.items() if key != "encoder.embed_tokens.weight"}
