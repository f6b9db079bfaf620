import torch

from frolic.data.compose import PALETTE, Layout, palette_tensor, place, render, scatter


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
