"""Pictures that are composed as they are needed, and those of the starter's sprites that a ControlNet learns from."""

from __future__ import annotations

import pytest
import torch

from frolic.data import scenes
from frolic.data.compose import PALETTE
from frolic.data.controlled import SpritePictures, Variants, hold_out
from frolic.data.pictures import ComposedPictures
from small_pack import small_concepts, small_sprites

SIDE = 48


def composed(**changes) -> ComposedPictures:
    settings = {"mix": dict(scenes.TRAINING_MIX), "scattered": 0.25} | changes
    return ComposedPictures(small_sprites(), scenes.Cast(small_concepts()), SIDE, **settings)


def test_pictures_are_of_the_generator_and_in_range():
    data = composed()
    first, again = (data.batch(step, 12, torch.Generator().manual_seed(3))["pixels"] for step in (0, 9))
    assert first.shape == (12, 3, SIDE, SIDE) and first.dtype == torch.float32
    assert float(first.min()) >= -1 and float(first.max()) <= 1
    assert torch.equal(first, again)
    other = data.pictures(12, torch.Generator().manual_seed(4))
    assert not any(torch.equal(a, b) for a in first for b in other), "no two steps see the same pictures"
    assert len({picture.numpy().tobytes() for picture in first}) == 12


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 2), (1.0, 8)])
def test_the_share_of_scattered_sprites(monkeypatch, share, expected):
    asked, made = [], scenes.scenes

    def counted(cast, count, *rest):
        asked.append(count)
        return made(cast, count, *rest)

    monkeypatch.setattr(scenes, "scenes", counted)
    assert len(composed(scattered=share).pictures(8, torch.Generator().manual_seed(0))) == 8
    assert sum(asked) == 8 - expected


def test_the_mix_decides_what_is_composed():
    alone = composed(mix={"single": 1.0}, scattered=0.0).pictures(6, torch.Generator().manual_seed(0))
    assert bool((alone[:, :, 0, 0] == 1).all()), "single things are on white"


def pictures(**changes) -> SpritePictures:
    return SpritePictures(small_sprites(), small_concepts(), Variants(**{"plain": 2} | changes), SIDE, "a mark")


def test_a_sprite_is_its_concepts_main_picture_and_not_the_one_of_its_number():
    sprites = torch.zeros(10, 4, 8, 8, dtype=torch.uint8)
    sprites[:, :3] = (torch.arange(10, dtype=torch.uint8) * 20)[:, None, None, None]
    sprites[:, 3] = 255
    concepts = small_concepts()
    data = SpritePictures(sprites, concepts, Variants(plain=1, coloured=0), SIDE, "a mark")
    middle = data.pixels(torch.arange(len(concepts)))[:, 0, SIDE // 2, SIDE // 2]
    shown = ((middle + 1) * 127.5 / 20).round().long().tolist()
    assert shown == [concept.row for concept in concepts] and shown != list(range(len(concepts)))


def test_every_concept_is_on_every_background_and_captions_say_which():
    data = pictures()
    each = 2 + len(PALETTE) - 1
    assert data.groups.tolist() == [number for number in range(9) for _ in range(each)]
    spoken = data.captions[:each]
    assert spoken.count(["a cup", "a picture of a cup"]) == 2, "white is not mentioned"
    assert ["a cup on a blue background", "a picture of a cup on a blue background"] in spoken
    row = spoken.index(["a cup on a blue background", "a picture of a cup on a blue background"])
    corner = data.pixels(torch.tensor([row]))[0, :, 0, 0]
    assert int(corner.argmax()) == 2


def test_another_variant_or_side_is_another_set():
    assert pictures().mark != pictures(plain=3).mark
    rows, held = hold_out(pictures().groups, 3)
    groups = pictures().groups
    assert len(held) == 3 and not set(groups[rows].tolist()) & set(groups[held].tolist())
