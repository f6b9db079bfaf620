"""Several prompts with several pictures each: none changes another, whatever their lengths and their order."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

import frolic
from frolic.pipeline import Pipeline
from frolic.sampling.solvers import SAMPLERS
from tiny import OWN

SHORT, EMPTY = "an orange cat", ""
LONG = "a red panda eating ramen under the moon, a blue bird on a green field, " * 5
PROMPTS = [LONG, SHORT, EMPTY]


@pytest.fixture(scope="module")
def pipe(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """The tiny model with room for long prompts, so that short ones are mostly padding."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path_factory.mktemp("batches") / "m"))
    (folder / "frolic.json").write_text(json.dumps(OWN | {"max_tokens": 200}))
    return frolic.load(folder, device="cpu")


def pixels(pipe: Pipeline, *args: object, **fields: object) -> Tensor:
    drawn = pipe(*args, output="tensor", **fields).pixels  # type: ignore[arg-type]
    assert drawn is not None
    return drawn


def same(one: Tensor, other: Tensor) -> bool:
    """PSNR above 60 dB."""
    return one.shape == other.shape and float((one - other).square().mean()) < 4e-6


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[::-1], [SHORT, LONG], [LONG, LONG, SHORT]])
@pytest.mark.parametrize("options", [{}, {"guidance_scale": 1.0}, {"pag_scale": 2.0}, {"negative_prompt": LONG}])
def test_each_picture_is_the_one_drawn_alone(pipe: Pipeline, prompts: list[str], options: dict[str, object]) -> None:
    batch = pixels(pipe, prompts, num_images=2, seed=30, **options)
    assert len(batch) == 2 * len(prompts)
    for index, picture in enumerate(batch.split(1)):
        assert same(picture, pixels(pipe, prompts[index // 2], seed=30 + index, **options)), index
    assert not same(batch[:1], batch[1:2]) and not same(batch[:1], batch[2:3])


@pytest.mark.parametrize("sampler", [name for name, sampler in SAMPLERS.items() if not sampler.renoises])
def test_with_every_sampler(pipe: Pipeline, sampler: str) -> None:
    batch = pixels(pipe, PROMPTS, seed=3, sampler=sampler, steps=6)
    for index, prompt in enumerate(PROMPTS):
        assert same(batch[index : index + 1], pixels(pipe, prompt, seed=3 + index, sampler=sampler, steps=6))


def test_with_seeds_of_ones_own(pipe: Pipeline) -> None:
    seeds = (9, 2, 9, 5)
    batch = pixels(pipe, [LONG, SHORT], num_images=2, seed=seeds)
    alone = [pixels(pipe, [LONG, SHORT][index // 2], seed=seed) for index, seed in enumerate(seeds)]
    assert same(batch, torch.cat(alone))


def test_across_the_end_of_a_batch(pipe: Pipeline) -> None:
    result = pipe([LONG, SHORT], num_images=5, seed=1, steps=2, output="tensor")
    assert result.batches[7:] == ((7, 8), (0, 2), (1, 2)) and result.pixels is not None
    for index in (4, 5, 7, 8, 9):
        alone = pixels(pipe, [LONG, SHORT][index // 5], seed=1 + index, steps=2)
        assert same(result.pixels[index : index + 1], alone)


def test_in_native_mode_each_prompt_lends_its_own_mask(pipe: Pipeline, tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "m"))
    (folder / "frolic.json").write_text(json.dumps(OWN | {"max_tokens": 200}))
    native = frolic.load(folder, device="cpu", compat="native")
    batch = pixels(native, PROMPTS, num_images=2, seed=3, negative_prompt="two dogs")
    for index, picture in enumerate(batch.split(1)):
        alone = pixels(native, PROMPTS[index // 2], seed=3 + index, negative_prompt="two dogs")
        assert same(picture, alone)
    assert not same(batch, pixels(pipe, PROMPTS, num_images=2, seed=3, negative_prompt="two dogs"))


def test_one_picture_leads_every_row(pipe: Pipeline) -> None:
    image = torch.linspace(-1, 1, 3 * 32 * 32).reshape(3, 32, 32)
    mask = torch.ones(3, 32, 32)
    mask[:, :, :16] = -1
    given = {"image": image, "mask": mask, "strength": 0.7}
    batch = pixels(pipe, [LONG, SHORT], num_images=2, seed=3, **given)
    for index, picture in enumerate(batch.split(1)):
        assert same(picture, pixels(pipe, [LONG, SHORT][index // 2], seed=3 + index, **given))
