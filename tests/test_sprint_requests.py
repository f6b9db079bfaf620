"""Models that draw in a few steps, as a user meets them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import frolic
from frolic.errors import CheckpointError, RequestError
from frolic.io.files import write_json
from frolic.pipeline import Progress
from frolic.request import Request
from frolic.sampling.noise import sample_noise
from frolic.spec import SamplingDefaults
from given import picture, write_controlnet
from tiny import write_tiny_folder

PLAIN = SamplingDefaults(
    height=128, width=96, steps=20, guidance_scale=4.5, sampler="dpmpp_2m", shift=3.0, max_tokens=32
)
FEW = replace(PLAIN, sampler="scm", steps=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("sprint") / "tiny", sprint=True)


@pytest.fixture(scope="module")
def pipe(folder: Path) -> frolic.Pipeline:
    return frolic.load(folder, device="cpu")


@pytest.mark.parametrize(
    "times", [(), (1.0, 1.0), (0.5, 1.0), (1.0, 0.0), (1.6,), (-0.1,), ("1",), (float("nan"),), 1.0, (True,)]
)
def test_times_that_no_step_can_be_made_at(times):
    with pytest.raises(RequestError, match=r"times is .*falling numbers, above 0 and at most 1\.5708"):
        Request.of("a", times=times)


def test_all_that_a_few_steps_rule_out_is_one_error():
    asked = Request.of("a", seed=1, steps=20, sampler="euler", frames=9)
    with pytest.raises(RequestError) as caught:
        asked.completed(FEW, 32)
    said = str(caught.value)
    assert "frames needs a model of videos" in said
    assert "sampler is 'euler', and this model draws with scm alone" in said
    assert "steps is 20, and this model draws in 1 to 4" in said
    with pytest.raises(RequestError, match="there are 5 times, and this model draws in 1 to 4"):
        Request.of("a", times=(1.5, 1.2, 0.9, 0.6, 0.3)).completed(FEW, 32)
    with pytest.raises(RequestError, match="steps is 2 and there are 3 times; leave out steps"):
        Request.of("a", steps=2, times=(1.5, 1.2, 0.9))


def test_other_models_have_no_use_for_what_is_sprints():
    with pytest.raises(RequestError) as caught:
        Request.of("a", sampler="scm", times=(1.5, 1.0)).completed(PLAIN, 32)
    assert "sampler scm is for models" in str(caught.value) and "times is for models" in str(caught.value)


def test_guidance_of_two_branches_is_said_and_passed_over():
    asked = {"negative_prompt": "rain", "pag_scale": 2.0, "guidance_interval": (0.1, 0.9)}
    request, notes = Request.of("a", seed=1, **asked).completed(FEW, 32)
    assert (request.negative_prompt, request.pag_scale, request.guidance_interval) == ("", 0.0, None)
    assert notes == [
        "This model is told the guidance scale and has no use for negative_prompt, pag_scale and guidance_interval, "
        "which were ignored."
    ]
    assert not request.guided and request.guidance_scale == 4.5
    alone, said = Request.of("a", seed=1, apg=True).completed(FEW, 32)
    assert not alone.apg and said[0].endswith("no use for apg, which was ignored.")
    assert Request.of("a", seed=1, negative_prompt="").completed(FEW, 32)[1] == []


def test_times_are_steps_and_a_record_keeps_them():
    request, _ = Request.of("a", seed=1, times=[1.5, 1.0, 0.5]).completed(FEW, 32)
    assert (request.steps, request.times) == (3, (1.5, 1.0, 0.5))
    said = json.loads(json.dumps(request.picture(0)))
    assert Request.of(said.pop("prompt"), **said).completed(FEW, 32)[0] == request
    plain, _ = Request.of("a", seed=1).completed(FEW, 32)
    assert plain.steps == 2 and "times" not in plain.picture(0)


def test_noise_is_drawn_where_it_is_used_and_belongs_to_one_picture(pipe, monkeypatch):
    drawn: list[tuple[int, int]] = []

    def noted(shape, seed, indices, draw=0):
        drawn.append((seed, draw))
        return sample_noise(shape, seed, indices, draw)

    monkeypatch.setattr("frolic.pipeline.draw.sample_noise", noted)
    prompts = ["a red panda", "an orange cat"]
    both = pipe(prompts, seed=5, steps=3, output="tensor").pixels
    assert drawn == [(5, 0), (6, 0), (5, 1), (6, 1), (5, 2), (6, 2)], "none follows the last step"
    alone = pipe(prompts[1], seed=6, steps=3, output="tensor").pixels
    assert (both[1:] - alone).abs().max() < 1e-5
    generator = torch.Generator().manual_seed(5)
    first, second = (torch.randn(4, 8, 8, generator=generator) for _ in range(2))
    assert torch.equal(sample_noise((4, 8, 8), 5, [0])[0], first)
    assert torch.equal(sample_noise((4, 8, 8), 5, [0], 1)[0], second)


def test_every_step_is_a_picture_and_the_scale_is_told(pipe):
    events = list(pipe.stream("a red panda", seed=1, steps=4))
    assert [event.index for event in events if isinstance(event, Progress)] == [0, 1, 2, 3]
    weak, strong = (pipe("a red panda", seed=1, guidance_scale=scale, output="tensor").pixels for scale in (0.0, 8.0))
    assert (weak - strong).abs().max() > 1e-3


def test_a_strength_that_keeps_nothing_is_said(pipe):
    near = pipe("a cat", image=picture(), strength=0.5, seed=1, output="tensor")
    far = pipe("a cat", image=picture(), strength=0.6, seed=1, output="tensor")
    assert near.notes == []
    assert far.notes == ["At 2 steps a strength of 0.6 draws the image wholly anew; give a strength of 0.5 or less."]
    other = pipe("a cat", image=picture(seed=8), strength=0.6, seed=1, output="tensor")
    assert torch.equal(far.pixels, other.pixels), "it is true"
    assert pipe("a cat", image=picture(), strength=0.6, times=(0.9, 0.4), seed=1).notes == []


def test_inpainting_keeps_the_rest(pipe):
    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, (16, 0, 32, 32))
    got = pipe("a cat", image=picture(), mask=mask, seed=1).images[0]
    assert got.crop((0, 0, 16, 32)).tobytes() == picture().crop((0, 0, 16, 32)).tobytes()
    assert got.tobytes() != picture().tobytes()


def test_the_command(folder: Path, command, tmp_path: Path):
    picture().save(tmp_path / "given.png")
    done = command("a cat", "-m", str(folder), "-s", "3", "-o", "a.png", "-n", "rain", "--times", "1.5708,1.1,0.6")
    assert done.code == 0 and "no use for negative_prompt" in done.err
    again = command("--from", "a.png", "-m", str(folder), "-o", "b.png")
    assert again.code == 0, again.err
    assert Image.open("a.png").tobytes() == Image.open("b.png").tobytes()
    fewer = command("--from", "a.png", "-m", str(folder), "--steps", "2", "-o", "c.png")
    assert fewer.code == 0, fewer.err
    assert Image.open("c.png").tobytes() != Image.open("a.png").tobytes()
    implied = command("a cat", "-m", str(folder), "--image", str(tmp_path / "given.png"), "-o", "d.png")
    assert implied.code == 0 and "anew" not in implied.err
    refused = command("a cat", "-m", str(folder), "--steps", "5", "--sampler", "euler", "-o", "e.png")
    assert refused.code and "1 to 4" in refused.err and "scm alone" in refused.err and not Path("e.png").exists()
    wrong = command("a cat", "-m", str(folder), "--times", "a,b")
    assert wrong.code and "as 1.5708,1.3" in wrong.err


def change(path: Path, **values) -> None:
    write_json(path, json.loads(path.read_text()) | values, force=True)


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path):
    own = write_tiny_folder(tmp_path / "own", sprint=True)
    change(own / "frolic.json", sampler="euler")
    with pytest.raises(CheckpointError, match="euler, but the transformer embeds its guidance and needs scm"):
        frolic.load(own)
    change(own / "frolic.json", sampler="scm", steps=20)
    with pytest.raises(CheckpointError, match=r"steps.*20, but the transformer draws in 1 to 4"):
        frolic.load(own)
    change(own / "frolic.json", steps=1)
    assert frolic.load(own).defaults.steps == 1
    with pytest.raises(CheckpointError, match=r"controlnet.*not supported beside a transformer that embeds"):
        frolic.load(own, controlnet=write_controlnet(tmp_path / "net"))
    plain = write_tiny_folder(tmp_path / "plain")
    change(plain / "frolic.json", sampler="scm")
    with pytest.raises(CheckpointError, match="scm, but the transformer embeds no guidance"):
        frolic.load(plain)
