import torch

from frolic.data.compose import PALETTE, Layout, palette_tensor, place, render, scatter, stamp


def square(side: int = 16) -> torch.Tensor:
    """One opaque red sprite in the middle of transparent pixels that hide green."""
    sprite = torch.zeros(1, 4, side, side, dtype=torch.uint8)
    sprite[:, 1] = 255
    middle = slice(side // 4, -side // 4)
    sprite[:, 0, middle, middle] = 255
    sprite[:, 1, middle, middle] = 0
    sprite[:, 3, middle, middle] = 255
    return sprite


def layout(scale: float, x: float, y: float) -> Layout:
    white = torch.ones(1, 3)
    return Layout(torch.tensor([0]), torch.tensor([scale]), torch.tensor([[x, y]]), white, white)


def test_a_sprite_lands_where_the_layout_says():
    picture = render(square(), layout(0.5, 0.25, 0.75), 32)[0]
    assert torch.allclose(picture[:, 24, 8], torch.tensor([1.0, -1.0, -1.0]), atol=1e-3)
    assert torch.equal(picture[:, 8, 24], torch.ones(3))


def test_colours_hidden_under_transparency_do_not_bleed():
    picture = render(square(), layout(1.0, 0.5, 0.5), 48)[0]
    red, green, blue = picture
    assert torch.all(green - blue < 1e-3), "green only ever lay under transparent pixels"
    assert red.min() > 0.99


def test_gradients_run_from_top_to_bottom():
    given = layout(0.01, 0.5, 0.5)
    black = Layout(given.sprite, given.scale, given.centre, torch.zeros(1, 3), torch.ones(1, 3))
    column = render(square(), black, 16)[0, 0, :, 0]
    assert column[0] == -1 and column[-1] == 1 and bool((column.diff() > 0).all())


def test_composition_is_a_function_of_the_generator():
    first, second = (scatter(8, 3, torch.Generator().manual_seed(4)) for _ in range(2))
    assert all(torch.equal(getattr(first, f), getattr(second, f)) for f in Layout.__dataclass_fields__)
    colours = palette_tensor()[[0, 1]]
    placed = place(torch.tensor([0, 0]), colours, torch.Generator().manual_seed(1), scale=(0.8, 0.9), shift=0.05)
    assert bool(((placed.scale >= 0.8) & (placed.scale <= 0.9)).all())
    assert bool(((placed.centre - 0.5).abs() <= 0.05).all())
    assert torch.equal(placed.top, colours)
    assert len(PALETTE) == len(palette_tensor())


def test_a_stamp_is_clipped_and_lies_where_it_should():
    picture = torch.zeros(3, 20, 30)
    sprite = square()[0].float() / 255
    stamp(picture, sprite, 16, 22, -4)
    assert torch.equal(picture[:, 0:8, 26:30], torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 8, 4))
    assert picture[:, :, :26].sum() == 0 and picture[:, 8:].sum() == 0
    stamp(picture, sprite, 16, 40, 40)
    assert picture[:, 8:].sum() == 0, "wholly outside"


def test_small_stamps_are_averages_rather_than_samples():
    """Stripes one pixel wide, reduced eightfold, are an even gray: sampling would pick some of them."""
    stripes = torch.ones(4, 64, 64)
    stripes[:3, :, ::2] = 0
    picture = torch.zeros(3, 8, 8)
    stamp(picture, stripes, 8, 0, 0)
    assert (picture[:, :, 1:-1] - 0.5).abs().max() < 0.03


def test_a_shadow_lies_under_the_foot_and_nowhere_else():
    bright, shaded = torch.ones(3, 32, 32), torch.ones(3, 32, 32)
    sprite = square()[0].float() / 255
    stamp(bright, sprite, 16, 8, 8)
    stamp(shaded, sprite, 16, 8, 8, 0.4)
    darker = (bright - shaded).amax(dim=0)
    assert darker[20, 16] > 0.1 and darker[:14].max() < 0.02 and darker[28:].max() < 0.02
