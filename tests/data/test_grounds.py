import pytest
import torch

from frolic.data.compose import PALETTE
from frolic.data.grounds import SCENERY, paint
from frolic.errors import RequestError


def nearest_word(colour: torch.Tensor) -> str:
    known = torch.tensor(list(PALETTE.values())) / 255
    return list(PALETTE)[int((known - colour).square().sum(dim=1).argmin())]


@pytest.mark.parametrize("word", [word for word in PALETTE if word != "white"])
def test_a_colour_stays_what_its_word_says_however_it_is_painted(word):
    pictures = paint([word] * 30, range(30), 24, 36)
    assert pictures.shape == (30, 3, 24, 36)
    for picture in pictures:
        assert nearest_word(picture.mean(dim=(1, 2))) == word
    spread = (pictures.amax(dim=(2, 3)) - pictures.amin(dim=(2, 3))).amax(dim=1)
    assert (spread < 1e-6).sum() > 5 and (spread > 0.02).sum() > 5, "some plain, some gradients"


def test_white_is_white():
    assert torch.equal(paint(["white"] * 8, range(8), 9, 9), torch.ones(8, 3, 9, 9))


def test_scenery_looks_like_what_it_is():
    sky, night, grass, sea, room = (paint([w] * 6, range(6), 64, 96).mean(dim=0) for w in SCENERY)
    upper, lower = slice(0, 20), slice(50, 64)
    assert sky[2].mean() > sky[0].mean() + 0.15
    assert night.mean() < 0.35 and night[2].mean() > night[0].mean() and night.amax() > 0.35
    for scenery in (grass, sea):
        assert scenery[2, upper].mean() > scenery[0, upper].mean() + 0.1, "sky above"
    assert grass[1, lower].mean() > max(grass[0, lower].mean(), grass[2, lower].mean()) + 0.15
    assert sea[2, lower].mean() > sea[0, lower].mean() + 0.3
    assert room[0, lower].mean() > room[2, lower].mean() + 0.15, "a wooden floor"
    assert room[:, upper].mean() > 0.8, "a light wall"


@pytest.mark.parametrize("word", [*SCENERY, "blue"])
@pytest.mark.parametrize("shape", [(64, 64), (48, 80), (80, 48), (33, 47)])
def test_a_ground_is_a_function_of_its_seed_in_any_shape(word, shape):
    pictures = paint([word] * 8, range(8), *shape)
    assert pictures.shape == (8, 3, *shape) and bool(((pictures >= 0) & (pictures <= 1)).all())
    assert torch.equal(paint([word], [5], *shape)[0], pictures[5])
    assert len({tuple(p.flatten().tolist()) for p in pictures}) > 3


def test_an_unknown_ground_is_named():
    with pytest.raises(RequestError, match="did you mean 'grass'"):
        paint(["gras"], [0], 8, 8)
