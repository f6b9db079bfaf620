from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import frolic
from frolic.errors import FileError, NumericsError, RequestError
from frolic.pipeline import Pipeline, Progress
from frolic.pipeline.inputs import Inputs
from frolic.pipeline.resize import fit
from frolic.types import Latents, PixelSize
from given import half_mask, picture, write_controlnet
from tiny import SIZE

PROMPT = "a red panda"


@pytest.fixture(scope="module")
def led(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """The tiny model with a ControlNet."""
    return frolic.load(tiny_folder, controlnet=write_controlnet(tmp_path_factory.mktemp("net") / "net"), device="cpu")


def pixels(pipe: Pipeline, prompt: Any = PROMPT, **fields: Any) -> Tensor:
    tensor = pipe(prompt, output="tensor", **{"seed": 7, "steps": 5, **fields}).pixels
    assert tensor is not None
    return tensor


def tensor_of(image: Image.Image) -> Tensor:
    """[1, 3, H, W] in [-1, 1]."""
    array = torch.from_numpy(np.array(image.convert("RGB")))
    return array.permute(2, 0, 1)[None].float() / 127.5 - 1


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean())


def test_strength_is_how_far_a_picture_gets_from_the_image(tiny: Pipeline) -> None:
    image = picture()
    with torch.inference_mode():
        # This autoencoder is random: the nearest it can come to an image is what it makes of it.
        latents = tiny.vae.encode(tensor_of(image)) * tiny.vae.config.scaling_factor
        nearest = tiny.decode(Latents(latents)).tensor.clamp(-1, 1)
    steps = {strength: pixels(tiny, image=image, strength=strength, steps=20) for strength in (0.05, 0.2, 0.5, 1.0)}
    far = [apart(drawn, nearest) for drawn in steps.values()]
    assert far == sorted(far) and far[0] < far[-1] / 2
    other = pixels(tiny, image=picture(seed=6), strength=1.0, steps=20)
    assert apart(other, steps[1.0]) < 1e-6, "at full strength hardly anything is left of the image but its size"
    assert not torch.equal(steps[0.2], pixels(tiny, image=picture(seed=6), strength=0.2, steps=20))


@pytest.mark.parametrize(("strength", "drawn"), [(1.0, 10), (0.5, 5), (0.2, 2), (0.01, 1)])
def test_strength_is_the_share_of_steps_that_is_drawn(tiny: Pipeline, strength: float, drawn: int) -> None:
    events = list(tiny.stream(PROMPT, inputs=Inputs(picture()), strength=strength, steps=10, seed=1))
    assert [event.total for event in events if isinstance(event, Progress)] == [drawn] * drawn


def test_without_a_size_it_is_that_of_the_image(tiny: Pipeline, led: Pipeline) -> None:
    assert pixels(tiny, image=picture(24, 40)).shape == (1, 3, 40, 24)
    assert pixels(led, control=picture(24, 40)).shape == (1, 3, 40, 24)
    assert pixels(led, image=picture(40, 24), control=picture(24, 40)).shape == (1, 3, 24, 40)
    result = tiny(PROMPT, image=picture(30, 33), seed=1)
    assert result.images[0].size == (30, 33) and "Drawn at 32x36" in result.notes[0]


def test_with_a_size_the_image_is_made_to_fill_it(tiny: Pipeline) -> None:
    wide = Image.new("RGB", (96, 32), "red")
    wide.paste((0, 0, 255), (32, 0, 64, 32))
    only = Image.new("RGB", (32, 32), (0, 0, 255))
    drawn = pixels(tiny, image=wide, strength=0.3, width=32, height=32)
    assert apart(drawn, pixels(tiny, image=only, strength=0.3)) < 1e-9, "the middle third is what fills a square"
    assert pixels(tiny, image=wide, aspect="1:1").shape == (1, 3, SIZE, SIZE)
    assert pixels(tiny, image=picture(8, 8), width=64, height=16).shape == (1, 3, 16, 64)


def test_a_photograph_is_made_smaller_without_aliasing() -> None:
    stripes = torch.ones(1, 3, 256, 256)
    stripes[..., ::2] = -1
    read = Inputs(stripes).read().at((32, 32)).image
    assert read is not None and float(read.abs().max()) < 0.1, "fine stripes are grey from afar"


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (5, 3)])
def test_images_smaller_than_a_latent_are_drawn(tiny: Pipeline, size: tuple[int, int]) -> None:
    assert pixels(tiny, image=picture(*size), strength=0.5).shape == (1, 3, size[1], size[0])


def test_an_image_too_long_for_a_request_is_refused_with_its_side(tiny: Pipeline) -> None:
    with pytest.raises(RequestError, match="The image is 9000x4"):
        tiny(PROMPT, image=Image.new("RGB", (9000, 4)))


def test_a_photograph_is_turned_upright(tiny: Pipeline, tmp_path: Path) -> None:
    upright = picture(24, 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "lying.png", exif=exif)
    read = Inputs(tmp_path / "lying.png").read().image
    assert read is not None and torch.equal(read, tensor_of(upright))
    assert pixels(tiny, image=str(tmp_path / "lying.png")).shape == (1, 3, 40, 24)


def grey() -> Image.Image:
    return picture().convert("L")


def test_what_is_see_through_is_white(tmp_path: Path) -> None:
    clear = picture().convert("RGBA")
    clear.putalpha(half_mask())
    expected = Image.composite(picture(), Image.new("RGB", (SIZE, SIZE), "white"), half_mask())
    grey_clear = grey().convert("LA")
    grey_clear.putalpha(half_mask())
    palette = Image.new("P", (SIZE, SIZE), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.paste(0, (0, 0, SIZE // 2, SIZE))
    blue = Image.composite(Image.new("RGB", (SIZE, SIZE), "blue"), Image.new("RGB", (SIZE, SIZE), "white"), half_mask())
    keyed = Image.new("RGB", (SIZE, SIZE), "blue")
    keyed.paste("red", (0, 0, SIZE // 2, SIZE))
    cases: list[tuple[Image.Image, Image.Image, dict[str, Any]]] = [
        (clear, expected, {}),
        (grey_clear, Image.composite(grey(), Image.new("L", (SIZE, SIZE), 255), half_mask()), {}),
        (palette, blue, {"transparency": 0}),
        (keyed, blue, {"transparency": (255, 0, 0)}),
    ]
    for number, (image, wanted, options) in enumerate(cases):
        path = tmp_path / f"{number}.png"
        image.save(path, **options)
        read = Inputs(path).read().image
        assert read is not None and torch.equal(read, tensor_of(wanted)), number


def test_every_kind_of_picture_is_read_as_what_it_shows(tmp_path: Path) -> None:
    ramp = (np.arange(SIZE * SIZE, dtype=np.uint32).reshape(SIZE, SIZE) * 64).astype(np.uint16)
    eight = Image.fromarray((ramp / 257).round().astype(np.uint8))
    palette = picture().quantize(16)
    black = grey().point(lambda value: 255 * (value > 120)).convert("1")
    cases = {
        "grey": (grey(), grey()),
        "palette": (palette, palette.convert("RGB")),
        "black": (black, black.convert("L")),
        "deep": (Image.fromarray(ramp), eight),
        "deeper": (Image.fromarray(ramp.astype(np.int32)), eight),
    }
    for name, (image, wanted) in cases.items():
        image.save(tmp_path / f"{name}.tiff")
        for given in (tmp_path / f"{name}.tiff", image):
            read = Inputs(given).read().image
            assert read is not None and float((read - tensor_of(wanted)).abs().max()) < 0.01, name
    picture().convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    read = Inputs(tmp_path / "print.jpg").read().image
    assert read is not None and float((read - tensor_of(picture())).abs().mean()) < 0.05


def test_a_damaged_picture_is_refused(tiny: Pipeline, tmp_path: Path) -> None:
    picture(64, 64).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    spoiled = {
        "short.png": whole[: len(whole) // 2],
        "head.png": whole[:20],
        "empty.png": b"",
        "text.png": b"not a picture at all",
        "flipped.png": whole[:60] + bytes(byte ^ 255 for byte in whole[60:90]) + whole[90:],
    }
    for name, data in spoiled.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FileError, match=name):
            tiny(PROMPT, image=tmp_path / name)
    with pytest.raises(FileError, match="no file"):
        tiny(PROMPT, image=tmp_path / "gone.png")
    with pytest.raises(FileError, match="is a folder"):
        tiny(PROMPT, image=tmp_path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(9000, 9000), (12000, 12000)])
def test_a_picture_too_large_to_use_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    Image.new("1", size).save(tmp_path / "huge.png")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("it was unpacked"))
    with pytest.raises(FileError, match=r"huge\.png"):
        Inputs(tmp_path / "huge.png").read()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(4, 8, 8),
        torch.zeros(1, 8, 8),
        torch.zeros(8, 8),
        torch.zeros(2, 3, 8, 8),
        torch.zeros(8, 8, 3),
        torch.zeros(3, 0, 8),
        torch.full((3, 8, 8), 1.5),
        torch.full((3, 8, 8), torch.nan),
        torch.full((3, 8, 8), 255, dtype=torch.uint8),
    ],
)
@pytest.mark.parametrize("name", ["image", "mask", "control"])
def test_a_tensor_that_is_no_picture_is_refused(tensor: Tensor, name: str) -> None:
    given = {"image": torch.zeros(3, 8, 8), name: tensor} if name == "mask" else {name: tensor}
    with pytest.raises(RequestError, match=rf"{name} is a tensor of .*; give \[3, height, width\]"):
        Inputs(**given).read()


@pytest.mark.parametrize("thing", [3, b"bytes", [1, 2], np.zeros((8, 8, 3)), object()])
def test_other_things_are_refused(tiny: Pipeline, thing: Any) -> None:
    with pytest.raises(RequestError, match="give a path, a PIL picture or a tensor"):
        tiny(PROMPT, image=thing)


def test_a_path_a_picture_and_a_tensor_draw_the_same(tiny: Pipeline, tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    batched = tensor_of(picture()).double().requires_grad_()
    given = [tmp_path / "a.png", str(tmp_path / "a.png"), picture(), tensor_of(picture())[0], batched]
    drawn = [tiny(PROMPT, image=one, strength=0.5, seed=3, steps=3) for one in given]
    assert len({result.images[0].tobytes() for result in drawn}) == 1
    assert len({result.record()["inputs"]["image"] for result in drawn}) == 1


def test_a_mask_needs_an_image_and_a_control_picture_a_controlnet(tiny: Pipeline) -> None:
    with pytest.raises(RequestError, match="give the image too"):
        tiny(PROMPT, mask=half_mask())
    with pytest.raises(RequestError, match=r"has no ControlNet.*--controlnet"):
        tiny(PROMPT, control=picture())


def test_what_a_mask_keeps_is_the_image_to_the_bit(tiny: Pipeline) -> None:
    image = picture()
    for strength in (0.5, 1.0):
        drawn = tiny(PROMPT, image=image, mask=half_mask(), strength=strength, seed=3).images[0]
        kept, new = ((0, 0, SIZE // 2, SIZE), (SIZE // 2, 0, SIZE, SIZE))
        assert drawn.crop(kept).tobytes() == image.crop(kept).tobytes()
        assert drawn.crop(new).tobytes() != image.crop(new).tobytes()
    all_kept = tiny(PROMPT, image=image, mask=Image.new("L", (SIZE, SIZE), 0), seed=3).images[0]
    assert all_kept.tobytes() == image.tobytes()
    all_new = pixels(tiny, image=image, mask=Image.new("L", (SIZE, SIZE), 255), strength=0.5)
    assert torch.equal(all_new, pixels(tiny, image=image, strength=0.5))


@pytest.mark.parametrize("size", [(30, 33), (50, 31), (7, 90), (2, 2)])
def test_what_a_mask_keeps_stays_in_its_place_at_any_size(tiny: Pipeline, size: tuple[int, int]) -> None:
    image, mask = picture(*size), half_mask(*size)
    drawn = tiny(PROMPT, image=image, mask=mask, strength=0.5, seed=3).images[0]
    left = (0, 0, size[0] // 2, size[1])
    assert drawn.size == size and drawn.crop(left).tobytes() == image.crop(left).tobytes()


@pytest.mark.parametrize("drawn", [(40, 60), (64, 96), (64, 128), (96, 64), (100, 80)])
def test_what_a_mask_keeps_lies_where_it_comes_back_to(drawn: tuple[int, int]) -> None:
    given = Inputs(picture(60, 40), half_mask(60, 40)).read()
    own, placed = given.staged((40, 60), drawn)
    assert given.image is not None and own.image is not None and placed.image is not None
    assert torch.equal(own.image, given.image) and placed.image.shape == (1, 3, *drawn)
    assert apart(fit(placed.image, PixelSize(40, 60)), given.image) < 1e-3


def test_what_a_mask_keeps_decides_what_is_drawn_beside_it(tiny: Pipeline) -> None:
    one, other = (pixels(tiny, image=image, mask=half_mask(), steps=5) for image in (picture(), picture(seed=9)))
    right = slice(SIZE // 2, None)
    assert apart(one[..., right], other[..., right]) > 1e-4, "even at full strength"


def test_a_mask_of_another_size_is_brought_to_the_images(tiny: Pipeline) -> None:
    small = pixels(tiny, image=picture(), mask=half_mask(8, 8))
    left = slice(0, SIZE // 2 - 4)
    assert torch.equal(small[..., left], tensor_of(picture())[..., left])
    large = pixels(tiny, image=picture(), mask=half_mask(128, 128))
    assert torch.equal(large[..., left], tensor_of(picture())[..., left])
    with pytest.raises(RequestError, match="the mask is 60x20 and the image 32x32"):
        pixels(tiny, image=picture(), mask=half_mask(60, 20))


def test_a_soft_mask_blends(tiny: Pipeline) -> None:
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, SIZE).round().astype(np.uint8), (SIZE, 1)))
    image = tensor_of(picture())
    drawn = pixels(tiny, image=picture(), mask=ramp)
    assert torch.equal(drawn[..., 0], image[..., 0])
    change = (drawn - image).abs().mean(dim=(0, 1, 2))
    third = SIZE // 3
    assert 0 < float(change[:third].mean()) < float(change[-third:].mean())
    assert float(drawn.abs().max()) <= 1


def test_several_pictures_of_one_image(tiny: Pipeline) -> None:
    prompts = [PROMPT, "an orange cat"]
    fields: dict[str, Any] = {"image": picture(), "strength": 0.6, "mask": half_mask(), "steps": 3}
    many = tiny(prompts, num_images=5, seed=20, output="tensor", **fields)
    assert many.pixels is not None and len(many.pixels) == 10 and len({row.sum().item() for row in many.pixels}) == 10
    for index in (0, 4, 5, 9):
        alone = pixels(tiny, prompts[index // 5], **{**fields, "seed": 20 + index})
        assert apart(many.pixels[index : index + 1], alone) < 1e-9


def test_a_control_picture_leads(led: Pipeline, tiny: Pipeline) -> None:
    plain = pixels(tiny)
    assert torch.equal(pixels(led), plain), "a ControlNet without a picture does nothing"
    one, other = pixels(led, control=picture()), pixels(led, control=picture(seed=8))
    assert len({t.sum().item() for t in (plain, one, other)}) == 3
    assert torch.equal(pixels(led, control=picture(), control_scale=0.0), plain)
    far = [apart(pixels(led, control=picture(), control_scale=scale), plain) for scale in (0.2, 1.0)]
    assert far[0] < far[1]


def test_a_control_picture_works_with_everything_else(led: Pipeline) -> None:
    fields: dict[str, Any] = {"control": picture(), "steps": 2, "width": 24, "height": 40}
    with_all = {"image": picture(), "mask": half_mask(), "strength": 0.7, "pag_scale": 1.0, "pag_layers": [1]}
    drawn = pixels(led, [PROMPT, "an orange cat"], num_images=2, **fields, **with_all)
    assert drawn.shape == (4, 3, 40, 24)
    alone = pixels(led, "an orange cat", **fields, **with_all, seed=9)
    assert apart(drawn[2:3], alone) < 1e-9
    interval = pixels(led, **fields, guidance_interval=(0.2, 0.7))
    assert not torch.equal(interval, pixels(led, **fields))
    assert not torch.equal(pixels(led, **fields, apg=True), pixels(led, **fields))


def test_a_record_knows_the_pictures_by_their_hash_and_strength(led: Pipeline) -> None:
    result = led(PROMPT, image=picture(), mask=half_mask(), control=picture(), strength=0.5, control_scale=0.5, seed=1)
    record = result.record()
    assert set(record["inputs"]) == {"image", "mask", "control"}
    assert record["inputs"]["image"] == record["inputs"]["control"] != record["inputs"]["mask"]
    assert record["request"]["strength"] == record["request"]["control_scale"] == 0.5
    assert "inputs" not in led(PROMPT, seed=1).record()


def test_what_was_given_is_left_as_it_was(tiny: Pipeline) -> None:
    image, mask = tensor_of(picture()), tensor_of(half_mask())
    before = image.clone(), mask.clone()
    drawn = tiny(PROMPT, image=image, mask=mask, output="tensor", seed=1).pixels
    assert torch.equal(image, before[0]) and torch.equal(mask, before[1])
    assert drawn is not None and not drawn.is_inference()
    drawn.zero_()
    assert torch.equal(image, before[0])


def test_an_encoder_that_goes_wrong_is_named(tiny_folder: Path) -> None:
    pipe = frolic.load(tiny_folder, device="cpu")
    pipe.vae.encode = lambda x: torch.full((1, 4, x.shape[2] // 4, x.shape[3] // 4), torch.nan)  # type: ignore[method-assign]
    with pytest.raises(NumericsError, match="The encoder gave values that are not finite; try --dtype float32"):
        pipe(PROMPT, image=picture())
    assert pipe(PROMPT).images, "nothing is encoded where nothing is given"


@pytest.mark.parametrize("step", [0, 2])
def test_the_step_that_goes_wrong_is_named_as_it_is_counted(tiny_folder: Path, step: int) -> None:
    pipe = frolic.load(tiny_folder, device="cpu")
    denoise, calls = pipe.transformer.denoise, iter(range(100))

    def spoiled(*arguments: Any, **conditions: Any) -> Tensor:
        found: Tensor = denoise(*arguments, **conditions)
        return found * torch.nan if next(calls) == step else found

    pipe.transformer.denoise = spoiled  # type: ignore[method-assign]
    with pytest.raises(NumericsError, match=f"Denoising, step {step + 1} of 5, gave values"):
        pipe(PROMPT, image=picture(), strength=0.5, steps=10)
