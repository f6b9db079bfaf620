"""Published rewards beside the libraries that they are published for, on tiny random weights."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from frolic.errors import FrolicError
from frolic.io.tokenizer import Tokenizer
from frolic.rewards import RewardSpec, make_reward
from frolic.rewards.keymaps import CLIP_LAYOUTS
from frolic.rewards.mps import CONDITION
from frolic.rewards.preprocess import CLIP_MEAN, CLIP_STD, normalise, resize
from frolic.rewards.towers import CLIPS, SO400M, clip, siglip_eye
from published import (
    CLIP,
    LONG,
    PROMPTS,
    TOKENS,
    OpenClip,
    clip_model,
    mps_tensors,
    predictor,
    randomise,
    siglip_model,
    write_folder,
)

CLOSE = {"rtol": 0, "atol": 1e-5}


def clips(count: int, frames: int = 2, height: int = 42, width: int = 42) -> Tensor:
    return torch.rand(count, frames, 3, height, width, generator=torch.Generator().manual_seed(count))


def ids(folder: Any, prompts: list[str], fill: int | None = None) -> Tensor:
    """[N, TOKENS], filled up with ``fill`` (the last token by default)."""
    words = Tokenizer(folder / "tokenizer.json")
    rows = [words.cut(prompt, TOKENS) for prompt in prompts]
    fill = words.ids("")[-1] if fill is None else fill
    return torch.tensor([row + [fill] * (TOKENS - len(row)) for row in rows])


def clip_norm(x: Tensor) -> Tensor:
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
    return (x - mean) / deviation


def by_frame(frames_BT3HW: Tensor, score) -> Tensor:
    return torch.stack([score(frames_BT3HW[:, i]) for i in range(frames_BT3HW.shape[1])]).mean(dim=0)


@pytest.mark.parametrize("name", ["hps-v2.0", "hps-v2.1", "pickscore", "clip"])
def test_open_clips_equations(tmp_path, name):
    theirs = randomise(OpenClip())
    folder = write_folder(tmp_path / "m", theirs.state_dict())
    frames, prompts = clips(4), [*PROMPTS, LONG]
    texts = theirs.encode_text(ids(folder, prompts, fill=0))
    want = by_frame(frames, lambda x: (theirs.encode_image(clip_norm(x)) * texts).sum(dim=1))
    got = make_reward(RewardSpec(name, {"weights": folder})).score(frames, prompts)
    torch.testing.assert_close(got, want, **CLOSE)
    assert want.std() > 0.01, "weights too tame to tell"


def test_open_clip_itself(tmp_path):
    library = installed("open_clip")
    seen, text = CLIP["vision_config"], CLIP["text_config"]
    theirs = library.CLIP(
        embed_dim=CLIP["projection_dim"],
        vision_cfg=library.CLIPVisionCfg(
            layers=2, width=seen["hidden_size"], head_width=16, mlp_ratio=2.0, image_size=42, patch_size=14
        ),
        text_cfg=library.CLIPTextCfg(
            context_length=TOKENS, vocab_size=600, width=text["hidden_size"], heads=2, layers=2, mlp_ratio=2.0
        ),
    )
    randomise(theirs)
    assert theirs.state_dict().keys() == OpenClip().state_dict().keys()
    folder = write_folder(tmp_path / "m", theirs.state_dict())
    frames, prompts = clips(4), [*PROMPTS, LONG]
    texts = theirs.encode_text(ids(folder, prompts, fill=0), normalize=True)
    want = by_frame(frames, lambda x: (theirs.encode_image(clip_norm(x), normalize=True) * texts).sum(dim=1))
    got = make_reward(RewardSpec("hps-v2.1", {"weights": folder})).score(frames, prompts)
    torch.testing.assert_close(got, want, **CLOSE)


def test_open_clips_full_size_names():
    library = installed("open_clip")
    for ours, name in (("laion-vit-h-14", "ViT-H-14"), ("openai-vit-l-14", "ViT-L-14")):
        config = library.get_model_config(name)
        with torch.device("meta"):
            theirs = library.CLIP(**config, quick_gelu=False).state_dict()
        check_names(ours, theirs)


def test_transformers(tmp_path):
    theirs = clip_model()
    folder = write_folder(tmp_path / "m", theirs.state_dict())
    frames, prompts = clips(4), [*PROMPTS, LONG]
    texts = F.normalize(theirs.get_text_features(input_ids=ids(folder, prompts)).pooler_output, dim=-1)

    def score(x: Tensor) -> Tensor:
        return (F.normalize(theirs.get_image_features(pixel_values=clip_norm(x)).pooler_output, dim=-1) * texts).sum(1)

    got = make_reward(RewardSpec("pickscore", {"weights": folder})).score(frames, prompts)
    torch.testing.assert_close(got, by_frame(frames, score), **CLOSE)


def test_both_layouts_give_the_same(tmp_path):
    theirs = clip_model()
    meta = {name: tensor.to("meta") for name, tensor in theirs.state_dict().items() if name != "logit_scale"}
    plain, fused = (
        write_folder(tmp_path / layout.name, layout.expected({**theirs.state_dict()})) for layout in CLIP_LAYOUTS
    )
    assert CLIP_LAYOUTS[1].expected(meta).keys() == OpenClip().state_dict().keys() - {"logit_scale"}
    one, other = (make_reward(RewardSpec("clip", {"weights": f})).score(clips(3), PROMPTS) for f in (plain, fused))
    assert torch.equal(one, other)


def test_aesthetic_v2(tmp_path):
    theirs = clip_model(seed=5)
    layers, state = predictor(16, (0, 2, 4, 6, 7), "layers")
    folder = write_folder(tmp_path / "m", theirs.state_dict())
    write_folder(tmp_path / "p", state, None)
    (tmp_path / "p" / "model.safetensors").rename(folder / "predictor.safetensors")
    frames = clips(3)

    def score(x: Tensor) -> Tensor:
        return layers(F.normalize(theirs.get_image_features(pixel_values=clip_norm(x)).pooler_output, dim=-1))[:, 0]

    got = make_reward(RewardSpec("aesthetic-v2", {"weights": folder})).score(frames, ["", "", ""])
    torch.testing.assert_close(got, by_frame(frames, score), **CLOSE)


def test_aesthetic_v2_5(tmp_path):
    theirs = siglip_model(seed=6)
    layers, state = predictor(32, (0, 2, 4, 6, 8), "scoring_head")
    folder = write_folder(tmp_path / "m", theirs.state_dict(), {**config_of(theirs)})
    write_folder(tmp_path / "p", state, None)
    frames = clips(3)

    def score(x: Tensor) -> Tensor:
        pooled = theirs.vision_model(pixel_values=(x - 0.5) / 0.5).pooler_output
        return layers(F.normalize(pooled, dim=-1))[:, 0]

    options = {"weights": folder, "predictor": tmp_path / "p" / "model.safetensors"}
    got = make_reward(RewardSpec("aesthetic-v2.5", options)).score(frames, ["", "", ""])
    torch.testing.assert_close(got, by_frame(frames, score), **CLOSE)


def config_of(model: Any) -> dict[str, Any]:
    return model.config.to_dict() | {"model_type": "siglip"}


class Mps:
    """The published equations, one head after the other; ``original`` with what this package does otherwise."""

    def __init__(self, state: dict[str, Tensor], original: bool) -> None:
        self.clip = clip_model()
        self.clip.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
        self.state, self.original = state, original

    def score(self, x_N3HW: Tensor, text_ids: Tensor, condition_ids: Tensor) -> Tensor:
        text, condition = (self.texts(i) for i in (text_ids, condition_ids.expand(len(text_ids), -1)))
        whole = text[torch.arange(len(text)), text_ids.argmax(dim=1)]
        relevance = torch.einsum("bid,bjd->bij", text, condition).amax(dim=2)
        relevance = relevance / (relevance.max() if self.original else relevance.max(dim=1, keepdim=True)[0])
        mask = torch.where(relevance > 0.01, 0.0, -torch.inf)
        pixels = clip_norm(x_N3HW)
        pixels = pixels.half().float() if self.original else pixels
        x = self.clip.visual_projection(self.clip.vision_model(pixel_values=pixels).last_hidden_state)
        for index in range(4):
            x = x + self.read(f"cross_model.layers.{index}.0.fn.", x, text, mask)
            x = x + self.turn(f"cross_model.layers.{index}.1.fn.", x)
        return F.cosine_similarity(x[:, 0], whole, dim=-1)

    def texts(self, ids: Tensor) -> Tensor:
        return self.clip.text_projection(self.clip.text_model(input_ids=ids).last_hidden_state)

    def norm(self, at: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.state[f"{at}norm.weight"], self.state[f"{at}norm.bias"])

    def heads(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        out = []
        for head in q.chunk(16, dim=-1):
            logits = head @ k.transpose(1, 2) / 8
            out.append((logits if mask is None else logits + mask[:, None]).softmax(dim=-1) @ v)
        return torch.cat(out, dim=-1)

    def gated(self, x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        return x[..., :half] * F.silu(x[..., half:])

    def read(self, at: str, x: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        s, x = self.state, self.norm(at, x)
        kv = text @ s[f"{at}to_kv.weight"].t()
        out = self.heads(x @ s[f"{at}to_q.weight"].t(), kv[..., :64], kv[..., 64:], mask) @ s[f"{at}to_out.weight"].t()
        return out + self.gated(x @ s[f"{at}ff.0.weight"].t()) @ s[f"{at}ff.2.weight"].t()

    def turn(self, at: str, x: Tensor) -> Tensor:
        s = self.state
        q, k, v, wide = (self.norm(at, x) @ s[f"{at}fused_attn_ff_proj.weight"].t()).split([1024, 64, 64, 128], dim=-1)
        angle = torch.arange(x.shape[1]).float()[:, None] * s[f"{at}rotary_emb.inv_freq"]
        turned = torch.polar(torch.ones_like(angle), angle)

        def rotate(h: Tensor) -> Tensor:
            both = torch.complex(h[..., :32].contiguous(), h[..., 32:].contiguous()) * turned
            return torch.cat([both.real, both.imag], dim=-1)

        q = torch.cat([rotate(h) for h in q.chunk(16, dim=-1)], dim=-1)
        return self.heads(q, rotate(k), v, None) @ s[f"{at}attn_out.weight"].t() + (
            self.gated(wide) @ s[f"{at}ff_out.1.weight"].t()
        )


@pytest.mark.parametrize("compat", ["", "original"])
def test_mps(tmp_path, compat):
    state = mps_tensors()
    folder = write_folder(tmp_path / "m", state)
    reference = Mps(state, compat == "original")
    frames, prompts = clips(4), [*PROMPTS, LONG]
    text, condition = ids(folder, prompts), ids(folder, [CONDITION])
    want = by_frame(frames, lambda x: reference.score(x, text, condition))
    got = make_reward(RewardSpec("mps", {"weights": folder, "compat": compat})).score(frames, prompts)
    torch.testing.assert_close(got, want, **CLOSE)
    assert want.std() > 0.01, "weights too tame to tell"


def check_names(ours: str, theirs: dict[str, Tensor]) -> None:
    towers = clip(CLIPS[ours], None, "squash")  # type: ignore[arg-type]
    expected = CLIP_LAYOUTS[1].expected(towers.state_dict())
    assert shapes(expected) == {k: v for k, v in shapes(theirs).items() if k != "logit_scale"}


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize(("name", "count"), [("openai-vit-l-14", 427_616_513), ("laion-vit-h-14", 986_109_441)])
def test_full_size_names_and_shapes(name, count):
    """``count`` is the published number of parameters, of which one is the scale."""
    with torch.device("meta"):
        theirs = OpenClip(CLIPS[name]).state_dict()
    check_names(name, theirs)
    assert sum(tensor.numel() for tensor in theirs.values()) == count


def test_full_size_so400m():
    import transformers

    eye = siglip_eye(SO400M, None, "squash")  # type: ignore[arg-type]
    with torch.device("meta"):
        theirs = transformers.SiglipModel(
            transformers.SiglipConfig(vision_config=dict(SO400M["vision_config"]), text_config={"num_hidden_layers": 1})
        ).state_dict()
    assert shapes(eye.state_dict()) == {k: v for k, v in shapes(theirs).items() if k.startswith("vision_model.")}
    assert tuple(eye.state_dict()["vision_model.embeddings.position_embedding.weight"].shape) == (729, 1152)
    assert sum(tensor.numel() for tensor in eye.state_dict().values()) == 428_225_600


@pytest.mark.parametrize(("fit", "size"), [("squash", (24, 24)), ("crop", (24, 34)), ("pad", (17, 24))])
def test_pictures_are_fitted_as_pil_does(fit, size):
    """To within what rounding to 8 bits does, on a picture without overshoot."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 60), torch.linspace(0, 1, 85), indexing="ij")
    picture = torch.stack([rows, columns, rows * columns]) * 0.8 + 0.1
    image = Image.fromarray((picture.permute(1, 2, 0) * 255).round().byte().numpy())
    image = image.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    square = Image.new("RGB", (24, 24))
    square.paste(image, ((24 - size[1]) // 2, (24 - size[0]) // 2))
    want = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8).view(24, 24, 3).permute(2, 0, 1) / 255
    torch.testing.assert_close(resize(picture[None], 24, fit)[0], want, rtol=0, atol=1.6 / 255)
    torch.testing.assert_close(normalise(picture[None])[0], clip_norm(picture))


def installed(name: str) -> Any:
    """A library that is not among this project's tools; the test is skipped where it is missing or does not work."""
    try:
        return importlib.import_module(name)
    except FrolicError:
        raise
    except Exception as error:
        pytest.skip(f"{name} cannot be imported ({type(error).__name__})")
