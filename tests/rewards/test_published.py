"""Rewards with published weights: gradients, independence, what is kept, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from frolic.errors import CheckpointError, ConfigError, FileError, ModelNotFoundError, UnsafeFileError
from frolic.io.safetensors import load, save
from frolic.rewards import Reward, RewardSpec, make_reward
from frolic.rewards.kept import Kept
from published import (
    CLIP,
    LONG,
    PROMPTS,
    SIGLIP,
    OpenClip,
    clip_model,
    mps_tensors,
    predictor,
    randomise,
    siglip_model,
    write_folder,
)

WITH_TEXT = ("clip", "hps-v2.0", "hps-v2.1", "pickscore", "mps")
ALL = (*WITH_TEXT, "aesthetic-v2", "aesthetic-v2.5")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each kind of weights."""
    root = tmp_path_factory.mktemp("rewards")
    made = {
        "clip": write_folder(root / "clip", randomise(OpenClip()).state_dict()),
        "mps": write_folder(root / "mps", mps_tensors()),
        "aesthetic-v2": write_folder(root / "v2", clip_model().state_dict()),
        "aesthetic-v2.5": write_folder(root / "v25", siglip_model().state_dict(), SIGLIP),
    }
    save(predictor(16, (0, 2, 4, 6, 7), "layers")[1], root / "v2" / "predictor.safetensors")
    save(predictor(32, (0, 2, 4, 6, 8), "scoring_head")[1], root / "v25" / "predictor.safetensors")
    return {**dict.fromkeys(WITH_TEXT, made["clip"]), **made}


def made(folders: dict[str, Path], name: str, **options: Any) -> Any:
    return make_reward(RewardSpec(name, {"weights": folders[name], **options}))


def clips(count: int, frames: int = 2, height: int = 50, width: int = 64, seed: int = 0) -> Tensor:
    return torch.rand(count, frames, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ALL)
def test_it_is_a_reward(folders, name):
    reward = made(folders, name)
    assert isinstance(reward, Reward) and reward.name == name and reward.differentiable
    score = reward.score(clips(3).half(), PROMPTS)
    assert score.shape == (3,) and score.dtype == torch.float32 and score.isfinite().all()
    assert not any(parameter.requires_grad for parameter in reward.parameters())
    assert not any(tensor.is_meta for tensor in [*reward.parameters(), *reward.buffers()])


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_true(folders, name):
    """Along a random direction, against the difference of two scores, in float64."""
    reward = made(folders, name).double()
    x = clips(1, 1)[0].double().mul(0.6).add(0.2).requires_grad_()
    if name == "mps":
        text = reward.texts.of(["a red fox"])[0]
        extra = (text.states[None], text.whole[None], (text.relevance > 0)[None])
        score = lambda x: reward.agreement(x, *extra)[0]  # noqa: E731
    elif name in WITH_TEXT:
        text = reward.texts.of(["a red fox"])[0][None]
        score = lambda x: reward.agreement(x, text)[0]  # noqa: E731
    else:
        score = lambda x: reward.mark(x)[0]  # noqa: E731
    way = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (slope,) = torch.autograd.grad(score(x), x)
    step = 1e-5
    with torch.no_grad():
        measured = (score(x + step * way) - score(x - step * way)) / (2 * step)
    assert measured.abs() > 1e-6
    torch.testing.assert_close((slope * way).sum(), measured, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_gradients_reach_every_pixel_that_is_looked_at(folders, name):
    frames = clips(2, height=90, width=130).mul(0.6).add(0.2).requires_grad_()
    made(folders, name).score(frames, PROMPTS[:2]).sum().backward()
    assert frames.grad is not None
    reached = (frames.grad != 0).any(dim=2)
    if name in ("pickscore", "clip"):
        assert not reached[..., :10].any(), "cut off"
        reached = reached[..., 22:-22]
    assert reached.all()


@pytest.mark.parametrize("name", ALL)
def test_a_clip_has_its_score_whatever_its_mates(folders, name):
    frames, prompts = clips(4), [*PROMPTS, LONG]
    together = made(folders, name).score(frames, prompts)
    for index in range(4):
        alone = made(folders, name).score(frames[index : index + 1], prompts[index : index + 1])
        torch.testing.assert_close(alone[0], together[index], rtol=0, atol=1e-6)


def test_frames_are_scored_one_by_one(folders):
    reward, frames = made(folders, "clip"), clips(1, 3)
    each = torch.stack([reward.score(frames[:, i : i + 1], ["two dogs"]) for i in range(3)])
    torch.testing.assert_close(reward.score(frames, ["two dogs"]), each.mean(dim=0))


def faint_prompt_beside_a_loud_one(reward: Any) -> tuple[list[str], Tensor]:
    """Two prompts of which one's words are far less relevant, by making them so."""
    prompts = ["two dogs", "a red fox"]
    texts = reward.texts.of(prompts)
    reward.texts._values[prompts[1]] = texts[1]._replace(relevance=texts[1].relevance * 20)
    return prompts, reward.score(clips(2), prompts)


def test_the_published_mask_depends_on_the_batch_and_ours_does_not(folders):
    for compat, same in (("", True), ("original", False)):
        reward = made(folders, "mps", compat=compat, threshold=0.04)
        prompts, together = faint_prompt_beside_a_loud_one(reward)
        alone = torch.cat([reward.score(clips(2)[i : i + 1], prompts[i : i + 1]) for i in range(2)])
        apart = (together - alone).abs()
        assert apart[1] < 1e-6
        assert (apart[0] < 1e-6) == same, compat
        assert same or apart[0] > 1e-3


def test_the_published_rounding_of_pictures_is_not_ours(folders):
    frames = clips(2)
    ours = made(folders, "mps").score(frames[:1], PROMPTS[:1])
    theirs = made(folders, "mps", compat="original").score(frames[:1], PROMPTS[:1])
    assert 1e-7 < float((ours - theirs).abs()) < 1e-3


def test_the_condition_decides_which_words_count(folders):
    one, other = (made(folders, "mps", condition=text, threshold=0.925) for text in ("light, color.", "dogs"))
    assert not torch.allclose(one.score(clips(3), PROMPTS), other.score(clips(3), PROMPTS), atol=1e-4)


@pytest.mark.parametrize("name", WITH_TEXT)
def test_a_prompt_is_read_once(folders, name, monkeypatch):
    reward = made(folders, name)
    calls: list[list[int]] = []
    read = reward.towers.read
    monkeypatch.setattr(reward.towers, "read", lambda ids: calls.append(ids) or read(ids))
    first = reward.score(clips(3, 4), ["two dogs", "a fox", "two dogs"])
    assert len(calls) == 2 + (name == "mps")
    assert torch.equal(first, reward.score(clips(3, 4), ["two dogs", "a fox", "two dogs"]))
    assert len(calls) == 2 + (name == "mps")
    reward.double()
    reward.score(clips(1), ["two dogs"])
    assert len(calls) == 3 + 2 * (name == "mps"), "what was kept is of another dtype"


def test_what_is_kept_is_bounded_and_in_order():
    asked: list[str] = []
    kept = Kept(3, lambda prompt: asked.append(prompt) or prompt.upper())
    assert kept.of(list("abcdea")) == list("ABCDEA") and len(kept._values) == 3
    assert kept.of(["d"]) == ["D"] and asked == list("abcde")
    kept.of(["f", "g"])
    assert list(kept._values) == ["d", "f", "g"]


def test_what_is_kept_belongs_to_no_graph_and_no_mode():
    weight = torch.ones(2, requires_grad=True)
    kept = Kept(3, lambda prompt: weight * len(prompt))
    with torch.inference_mode():
        first = kept.of(["a"])[0]
    for value in (first, kept.of(["bc"])[0]):
        assert not value.requires_grad and not value.is_inference()


@pytest.mark.parametrize("name", WITH_TEXT)
def test_what_was_read_in_inference_mode_serves_training(folders, name):
    reward = made(folders, name)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        reward.score(clips(1), ["two dogs"])
    frames = clips(1).requires_grad_()
    score = reward.score(frames, ["two dogs"])
    score.sum().backward()
    assert frames.grad is not None and frames.grad.abs().sum() > 0
    assert torch.equal(score.detach(), made(folders, name).score(clips(1), ["two dogs"]))


@pytest.mark.parametrize("name", ALL)
def test_scoring_opens_no_files(folders, name, tmp_path):
    place = tmp_path / "m"
    shutil.copytree(folders[name], place)
    reward = make_reward(RewardSpec(name, {"weights": place}))
    shutil.rmtree(place)
    opened: list[Any] = []
    # A hook cannot be taken back; it hears nothing once this is over.
    listening = [True]
    sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "open" and listening else None)
    reward.score(clips(1), ["two dogs"])
    listening.clear()
    assert not opened


@pytest.mark.parametrize("name", ALL)
def test_half_precision_is_near(folders, name):
    want = made(folders, name).score(clips(2), PROMPTS[:2])
    got = made(folders, name, dtype="bfloat16").score(clips(2), PROMPTS[:2])
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=0.1, atol=0.1)
    assert not torch.equal(got, want)


def test_shards_are_one_model(folders, tmp_path):
    tensors = list(load(folders["clip"] / "model.safetensors").items())
    shutil.copytree(folders["clip"], tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    names = {"a.safetensors": tensors[:20], "b.safetensors": tensors[20:]}
    for name, part in names.items():
        save(dict(part), tmp_path / "m" / name)
    places = {key: name for name, part in names.items() for key, _ in part}
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    reward = make_reward(RewardSpec("clip", {"weights": tmp_path / "m"}))
    assert torch.equal(reward.score(clips(2), PROMPTS[:2]), made(folders, "clip").score(clips(2), PROMPTS[:2]))
    save({key: tensor + 1 for key, tensor in tensors[20:]}, tmp_path / "m" / "b.safetensors", force=True)
    assert make_reward(RewardSpec("clip", {"weights": tmp_path / "m"})).marks["weights"] != reward.marks["weights"]


def test_marks_are_of_the_files(folders, tmp_path):
    reward = made(folders, "aesthetic-v2")
    assert set(reward.marks) == {"weights", "predictor"} and all(len(mark) == 64 for mark in reward.marks.values())
    assert set(made(folders, "mps").marks) == {"weights", "tokenizer"}
    shutil.copytree(folders["aesthetic-v2"], tmp_path / "m")
    state = predictor(16, (0, 2, 4, 6, 7), "layers", seed=9)[1]
    save(state, tmp_path / "m" / "predictor.safetensors", force=True)
    other = make_reward(RewardSpec("aesthetic-v2", {"weights": tmp_path / "m"}))
    assert other.marks["weights"] == reward.marks["weights"] and other.marks["predictor"] != reward.marks["predictor"]


def test_fit_is_the_published_one_unless_said(folders):
    frames, prompt = clips(1, 1, 42, 84), ["two dogs"]
    scores = {fit: made(folders, "clip", fit=fit).score(frames, prompt) for fit in ("squash", "crop", "pad")}
    assert len({round(float(score), 5) for score in scores.values()}) == 3
    for name, fit in (("hps-v2.1", "squash"), ("pickscore", "crop"), ("clip", "crop")):
        assert torch.equal(made(folders, name).score(frames, prompt), scores[fit])


def test_everything_that_is_wrong_with_the_files_is_one_error(folders, tmp_path):
    place = tmp_path / "m"
    shutil.copytree(folders["mps"], place)
    tensors = load(place / "model.safetensors")
    del tensors["model.text_projection.weight"], tensors["cross_model.layers.3.0.fn.to_q.weight"]
    tensors["model.extra"] = torch.zeros(1)
    tensors["optimizer.step"] = torch.zeros(1)
    tensors["model.visual_projection.weight"] = torch.zeros(3, 32)
    tensors["cross_model.layers.0.1.fn.attn_out.weight"][0, 0] = math.nan
    save(tensors, place / "model.safetensors", force=True)
    (place / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError) as error:
        make_reward(RewardSpec("mps", {"weights": place}))
    said = str(error.value)
    assert "missing (3)" in said and "unexpected (2)" in said and "wrong shape (1)" in said and "not finite (1)" in said
    for text in (
        "weights: model.text_projection.weight",
        "weights: cross_model.layers.3.0.fn.to_q.weight",
        "tokenizer.json beside the weights",
        "weights: model.extra",
        "weights: optimizer.step",
        "is 3x32, needs 16x32",
        "weights: cross_model.layers.0.1.fn.attn_out.weight",
    ):
        assert text in said, text


def test_two_files_are_one_error_too(folders, tmp_path):
    shutil.copytree(folders["aesthetic-v2"], tmp_path / "m")
    weights = load(tmp_path / "m" / "model.safetensors")
    del weights["visual_projection.weight"]
    save(weights, tmp_path / "m" / "model.safetensors", force=True)
    save(predictor(32, (0, 2, 4, 6, 8), "scoring_head")[1], tmp_path / "m" / "predictor.safetensors", force=True)
    with pytest.raises(CheckpointError) as error:
        make_reward(RewardSpec("aesthetic-v2", {"weights": tmp_path / "m"}))
    assert "weights: visual_projection.weight" in str(error.value) and "missing (11)" in str(error.value)
    assert "unexpected (10)" in str(error.value) and "predictor: layers.0.weight" in str(error.value)


def test_a_tokenizer_that_is_no_clips_is_refused(folders, tmp_path):
    from texts import write_tokenizer

    with pytest.raises(CheckpointError, match="does not put a first and a last token"):
        made(folders, "clip", tokenizer=write_tokenizer(tmp_path / "tokenizer.json"))
    shutil.copytree(folders["clip"], tmp_path / "m")
    small = randomise(OpenClip({**CLIP, "text_config": {**CLIP["text_config"], "vocab_size": 100}})).state_dict()
    save(small, tmp_path / "m" / "model.safetensors", force=True)
    (tmp_path / "m" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokens, the weights 49408|wrong shape"):
        make_reward(RewardSpec("hps-v2.1", {"weights": tmp_path / "m"}))
    with pytest.raises(FileError, match=r"no file .*other\.json"):
        made(folders, "clip", tokenizer=tmp_path / "other.json")


def test_what_fills_a_line_counts_and_can_be_said(folders, tmp_path):
    place = tmp_path / "m"
    shutil.copytree(folders["mps"], place)
    settings = place / "tokenizer_config.json"
    plain = make_reward(RewardSpec("mps", {"weights": place})).score(clips(1), ["two dogs"])
    settings.write_text('{"pad_token": {"content": "<|endoftext|>"}}')
    assert torch.equal(make_reward(RewardSpec("mps", {"weights": place})).score(clips(1), ["two dogs"]), plain)
    settings.write_text('{"pad_token": "!"}')
    other = make_reward(RewardSpec("mps", {"weights": place})).score(clips(1), ["two dogs"])
    assert not torch.allclose(other, plain, atol=1e-5)
    settings.write_text('{"pad_token": "<pad>"}')
    with pytest.raises(CheckpointError, match=r"fills with '<pad>'"):
        make_reward(RewardSpec("mps", {"weights": place}))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("hps-v2.1", {}, "needs weights"),
        ("clip", {"dtype": "int8"}, "dtype is 'int8'"),
        ("clip", {"fit": "stretch"}, "fit is 'stretch'"),
        ("clip", {"model": "openai-vit-l-41"}, "did you mean 'openai-vit-l-14'"),
        ("mps", {"compat": "orginal"}, "did you mean 'original'"),
        ("mps", {"threshold": 1.5}, "threshold is 1.5"),
        ("mps", {"colour": 1}, "cannot be made so"),
    ],
)
def test_options_that_do_not_fit_are_refused(folders, name, options, said):
    weights = {} if said == "needs weights" else {"weights": folders[name]}
    with pytest.raises(ConfigError, match=said):
        make_reward(RewardSpec(name, {**weights, **options}))


def test_prompts_are_counted(folders):
    for name in ("clip", "mps"):
        with pytest.raises(ConfigError, match="3 clips came with 1 prompts"):
            made(folders, name).score(clips(3), ["two dogs"])


def test_places_that_hold_no_weights_are_refused(folders, tmp_path):
    with pytest.raises(FileError, match="There is no file"):
        make_reward(RewardSpec("clip", {"weights": tmp_path / "nothing"}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFoundError):
        make_reward(RewardSpec("hps-v2.1", {"weights": tmp_path / "empty"}))
    torch.save({}, tmp_path / "empty" / "model.pt")
    with pytest.raises(UnsafeFileError):
        make_reward(RewardSpec("hps-v2.1", {"weights": tmp_path / "empty" / "model.pt"}))
    with pytest.raises(CheckpointError, match="reads a 'clip'"):
        make_reward(RewardSpec("clip", {"weights": folders["aesthetic-v2.5"]}))


def test_a_file_alone_is_the_published_model(folders, tmp_path):
    """Without a config, so its sizes are checked against the published ones."""
    file = folders["clip"] / "model.safetensors"
    with pytest.raises(ConfigError, match=r"give model, one of openai-vit-b-32"):
        make_reward(RewardSpec("clip", {"weights": file}))
    with pytest.raises(CheckpointError, match=r"ln_final\.bias is 24, needs 1024"):
        make_reward(RewardSpec("hps-v2.1", {"weights": file}))
    with pytest.raises(CheckpointError, match=r"ln_final\.bias is 24, needs 768"):
        make_reward(RewardSpec("clip", {"weights": file, "model": "openai-vit-l-14"}))


def test_settings_that_make_no_model_are_refused(folders, tmp_path):
    shutil.copytree(folders["clip"], tmp_path / "m")
    for text in ('{"model_type": "clip", "vision_config": {"hidden_act": "none such"}}', "[]"):
        (tmp_path / "m" / "config.json").write_text(text)
        with pytest.raises(CheckpointError):
            make_reward(RewardSpec("clip", {"weights": tmp_path / "m"}))


def test_transformers_is_asked_for(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match="rewards extra"):
        made(folders, "clip")
