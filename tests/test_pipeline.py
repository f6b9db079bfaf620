from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import frolic
from frolic.errors import FileError, NumericsError, RequestError, ResourceError
from frolic.io.media import read_record
from frolic.pipeline import Pipeline, Progress, Result
from frolic.types import Latents
from tiny import LATENTS, MAX_TOKENS, SIZE, STRIDE

PROMPTS = ["a red panda", "a blue bird on a green field", "an orange cat"]


def psnr(a: Tensor, b: Tensor) -> float:
    error = float((a - b).square().mean())
    return 10 * float(torch.log10(torch.tensor(4.0 / max(error, 1e-20))))


def test_a_call_draws_pictures_of_the_size_asked_for(tiny: Pipeline) -> None:
    result = tiny("a red panda", seed=7, width=24, height=40, num_images=2)
    assert [image.size for image in result.images] == [(24, 40)] * 2
    assert result.seeds == (7, 8) and result.pixels is None and result.seconds > 0 and result.notes == []
    assert result.images[0].tobytes() != result.images[1].tobytes()


def test_tensors_are_ordinary_and_equal_the_pictures(tiny: Pipeline) -> None:
    pixels = tiny("a red panda", seed=7, output="tensor").pixels
    assert pixels is not None and pixels.shape == (1, 3, SIZE, SIZE) and not pixels.is_inference()
    assert float(pixels.abs().max()) <= 1
    image = tiny("a red panda", seed=7).images[0]
    as_bytes = ((pixels[0] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)
    assert image.tobytes() == bytes(as_bytes.flatten().tolist())


def test_the_same_seed_draws_the_same_picture(tiny: Pipeline) -> None:
    one, two, other = (tiny("a red panda", seed=seed).images[0].tobytes() for seed in (7, 7, 8))
    assert one == two != other


def test_a_picture_does_not_depend_on_its_batch_mates(tiny: Pipeline) -> None:
    batch = tiny(PROMPTS, num_images=2, seed=20, output="tensor")
    assert batch.pixels is not None and len(batch.pixels) == 6
    for index in range(6):
        alone = tiny(PROMPTS[index // 2], seed=batch.seeds[index], output="tensor").pixels
        assert alone is not None and psnr(batch.pixels[index : index + 1], alone) > 60


def test_a_picture_does_not_depend_on_its_batch_mates_in_bfloat16(tiny_folder: Path) -> None:
    pipe = frolic.load(tiny_folder, dtype="bfloat16", device="cpu")
    mates = ["two dogs under the moon, an orange cat and a blue bird on a green field", "an orange cat"]
    batch, other = (pipe(["a red panda", mate], seed=20, output="tensor").pixels for mate in mates)
    alone = pipe("a red panda", seed=20, output="tensor").pixels
    assert batch is not None and other is not None and alone is not None
    assert torch.equal(batch[0], other[0])
    assert psnr(batch[:1], alone) > 25


def test_many_pictures_are_drawn_in_several_batches(tiny: Pipeline) -> None:
    result = tiny("a red panda", num_images=11, seed=1, steps=1, output="tensor")
    assert result.pixels is not None and len(result.pixels) == len(result.batches) == 11
    assert result.batches[0] == (0, 8) and result.batches[8:] == ((0, 3), (1, 3), (2, 3))
    last = tiny("a red panda", seed=11, steps=1, output="tensor").pixels
    assert last is not None and psnr(result.pixels[10:], last) > 60


def test_every_setting_changes_the_picture(tiny: Pipeline) -> None:
    base = {"seed": 7, "steps": 3, "guidance_scale": 3.0}
    changes: list[dict[str, Any]] = [
        {},
        {"steps": 4},
        {"guidance_scale": 5.0},
        {"guidance_scale": 1.0},
        {"sampler": "euler"},
        {"negative_prompt": "a blue bird"},
    ]
    pictures = {tiny("a red panda", **{**base, **change}).images[0].tobytes() for change in changes}
    pictures.add(tiny("an orange cat", **base).images[0].tobytes())
    assert len(pictures) == len(changes) + 1


def test_prompts_are_lower_cased_and_stripped(tiny: Pipeline) -> None:
    assert tiny("  A Red PANDA ", seed=1).images[0].tobytes() == tiny("a red panda", seed=1).images[0].tobytes()


def test_a_stream_yields_every_step_and_then_the_result(tiny: Pipeline) -> None:
    events = list(tiny.stream("a red panda", num_images=9, steps=2, seed=1))
    steps = [event for event in events if isinstance(event, Progress)]
    assert [(step.index, step.total, step.first) for step in steps] == [(0, 4, 0), (1, 4, 0), (2, 4, 8), (3, 4, 8)]
    assert isinstance(events[-1], Result) and len(events) == 5
    previews = steps[3].preview()
    assert [p.size for p in previews] == [(SIZE, SIZE)]
    assert previews[0].tobytes() == events[-1].images[8].tobytes()


def test_a_stream_does_not_leak_its_mode(tiny: Pipeline) -> None:
    for _ in tiny.stream("a red panda", seed=1):
        assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()


def test_a_stream_can_be_stopped(tiny: Pipeline) -> None:
    stream = tiny.stream("a red panda", seed=1)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert list(stream) == []


def test_the_text_is_prepared_once_a_request(tiny_folder: Path) -> None:
    pipe = frolic.load(tiny_folder, device="cpu")
    calls = {"text": 0, "context": 0, "denoise": 0}

    def counted(name: str, function: Any) -> Any:
        def call(*args: Any) -> Any:
            calls[name] += 1
            return function(*args)

        return call

    pipe.text_encoder = counted("text", pipe.text_encoder)
    pipe.transformer.context = counted("context", pipe.transformer.context)  # type: ignore[method-assign]
    pipe.transformer.denoise = counted("denoise", pipe.transformer.denoise)  # type: ignore[method-assign]
    pipe(["a red panda", "an orange cat"], num_images=2, steps=5, seed=1)
    assert calls == {"text": 3, "context": 3, "denoise": 5}
    pipe("a red panda", steps=5, seed=2)
    assert calls == {"text": 3, "context": 5, "denoise": 10}


def test_given_noise_is_used_and_sizes_the_picture(tiny: Pipeline) -> None:
    noise = torch.randn(1, LATENTS, 6, 10, generator=torch.Generator().manual_seed(7))
    given = tiny("a red panda", latents=noise, output="tensor")
    drawn = tiny("a red panda", seed=7, height=6 * STRIDE, width=10 * STRIDE, output="tensor")
    assert given.pixels is not None and drawn.pixels is not None
    assert torch.equal(given.pixels, drawn.pixels)
    assert given.record()["noise"] == "given"


@pytest.mark.parametrize(
    "latents",
    [
        torch.zeros(2, LATENTS, 8, 8),
        torch.zeros(1, LATENTS + 1, 8, 8),
        torch.zeros(LATENTS, 8, 8),
        torch.zeros(1, LATENTS, 8, 8, dtype=torch.int64),
        torch.full((1, LATENTS, 8, 8), torch.nan),
        torch.zeros(1, LATENTS, 0, 8),
    ],
)
def test_noise_that_does_not_fit_is_refused(tiny: Pipeline, latents: Tensor) -> None:
    with pytest.raises(RequestError, match="latents"):
        tiny("a red panda", latents=latents)


def test_noise_that_contradicts_the_size_is_refused(tiny: Pipeline) -> None:
    with pytest.raises(RequestError, match="32x32"):
        tiny("a red panda", latents=torch.zeros(1, LATENTS, 8, 8), height=64)


def test_remarks_are_handed_on(tiny: Pipeline) -> None:
    result = tiny("a red panda eating ramen under the moon on a green field " * 3, seed=1, width=30)
    assert any("Drawn at 32x32 and brought to 30x32." in note for note in result.notes)
    assert any("this model reads 12; the rest was ignored" in note for note in result.notes)


def test_a_negative_prompt_that_is_cut_is_said_where_it_counts(tiny: Pipeline) -> None:
    long = "a red panda eating ramen under the moon on a green field " * 3
    notes = tiny("a red panda", seed=1, steps=1, negative_prompt=long).notes
    assert len(notes) == 1 and notes[0].startswith("the negative prompt has ") and "was ignored" in notes[0]
    assert tiny("a red panda", seed=1, steps=1, negative_prompt=long, guidance_scale=1.0).notes == []


class Spoiled:
    """Stands for a part of the model whose numbers went wrong."""

    def __init__(self, part: Any, value: float) -> None:
        self.config = getattr(part, "config", None)
        self._part, self._value = part, value

    def __call__(self, *args: Any) -> Tensor:
        return self._part(*args) * self._value

    def context(self, *args: Any) -> Any:
        return self._part.context(*args)

    def denoise(self, *args: Any) -> Tensor:
        return self._part.denoise(*args) * self._value

    def decode(self, z: Tensor) -> Tensor:
        return self._part.decode(z) * self._value


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("text_encoder", float("nan"), "The text encoder gave values that are not finite"),
        ("transformer", float("nan"), "Denoising, step 1 of 3, gave values that are not finite"),
        ("vae", float("inf"), "The decoder gave values that are not finite"),
        ("vae", 0.0, "one flat colour"),
    ],
)
def test_numbers_that_went_wrong_stop_the_stage(tiny_folder: Path, part: str, value: float, said: str) -> None:
    pipe = frolic.load(tiny_folder, device="cpu")
    setattr(pipe, part, Spoiled(getattr(pipe, part), value))
    with pytest.raises(NumericsError, match=said):
        pipe("a red panda", seed=1)


def test_a_picture_that_is_all_beyond_white_is_flat(tiny_folder: Path) -> None:
    pipe = frolic.load(tiny_folder, device="cpu")
    decode = pipe.vae.decode
    pipe.vae.decode = lambda z: decode(z) + 1000  # type: ignore[method-assign]
    with pytest.raises(NumericsError, match="one flat colour"):
        pipe("a red panda", seed=1, steps=1)


class Full:
    """Stands for a part of the model that finds no memory."""

    def __init__(self, part: Any, error: Exception) -> None:
        self.config, self._error = part.config, error

    def decode(self, z: Tensor) -> Tensor:
        raise self._error

    @property
    def decoder(self) -> Any:
        raise self._error


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate")]
)
def test_memory_that_ran_out_is_said(tiny_folder: Path, error: Exception) -> None:
    pipe = frolic.load(tiny_folder, device="cpu")
    pipe.vae = Full(pipe.vae, error)
    with pytest.raises(ResourceError, match="Memory ran out while the picture of 32x32 was decoded"):
        pipe("a red panda", seed=1, steps=1)


def test_memory_that_ran_out_for_the_pictures_is_said(tiny: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Tensor) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate")

    monkeypatch.setattr("frolic.pipeline.draw.to_image", full)
    with pytest.raises(ResourceError, match="Memory ran out at 32x32"):
        tiny("a red panda", seed=1, steps=1)


def test_another_error_of_torch_is_not_called_memory(tiny_folder: Path) -> None:
    pipe = frolic.load(tiny_folder, device="cpu")
    pipe.vae = Full(pipe.vae, RuntimeError("a mistake"))
    with pytest.raises(RuntimeError, match="a mistake"):
        pipe("a red panda", seed=1, steps=1)


def test_gradients_reach_the_latents_through_decode(tiny: Pipeline) -> None:
    latents = torch.randn(1, LATENTS, 8, 8, requires_grad=True)
    tiny.decode(Latents(latents)).tensor.sum().backward()
    assert latents.grad is not None and latents.grad.abs().sum() > 0


def test_text_encoded_while_drawing_can_be_trained_with(tiny: Pipeline) -> None:
    with torch.inference_mode():
        tiny.encode(["two dogs"])
    text = tiny.encode(["two dogs", "two dogs"])
    assert not text.embeds.is_inference() and text.embeds.shape[0] == text.mask.shape[0] == 2
    assert text.embeds[0].equal(text.embeds[1])


def test_a_saved_picture_knows_how_it_was_made(tiny: Pipeline, tmp_path: Path) -> None:
    result = tiny(["a red panda", "an orange cat"], seed=5, negative_prompt="blurry")
    path = result.save(tmp_path / "a.png", 1)
    record = read_record(path)
    assert record == result.record(1)
    assert record["request"]["prompt"] == "an orange cat" and record["request"]["seed"] == 6
    assert record["batch"] == [1, 2, MAX_TOKENS] and len(record["model"]["hash"]) == 64
    assert str(tmp_path) not in json.dumps(record) and "/" not in json.dumps(record)
    with Image.open(path) as image:
        assert image.tobytes() == result.images[1].tobytes()
    with pytest.raises(FileError, match="already exists"):
        result.save(path)


def test_a_request_is_given_whole_or_by_its_fields(tiny: Pipeline) -> None:
    request = frolic.Request(("a red panda",), seed=3, steps=2)
    assert tiny(request).images[0].tobytes() == tiny("a red panda", seed=3, steps=2).images[0].tobytes()
    with pytest.raises(RequestError, match="not both"):
        tiny(request, steps=3)
    with pytest.raises(RequestError, match="did you mean 'steps'"):
        tiny("a red panda", stepz=3)
    with pytest.raises(RequestError, match="output"):
        tiny("a red panda", output="numpy")  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1.0, 4.5])
def test_the_same_folder_draws_the_same_in_diffusers(tiny: Pipeline, tiny_folder: Path, scale: float) -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.SanaPipeline.from_pretrained(tiny_folder, torch_dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    noise = torch.randn(2, LATENTS, 8, 8, generator=torch.Generator().manual_seed(1))
    prompts = ["A Red panda", "an orange cat"]
    expected = theirs(
        prompt=prompts,
        negative_prompt="blue",
        latents=noise.clone(),
        height=SIZE,
        width=SIZE,
        num_inference_steps=20,
        guidance_scale=scale,
        output_type="pt",
        use_resolution_binning=False,
        max_sequence_length=tiny.defaults.max_tokens,
        complex_human_instruction=None,
    ).images
    ours = tiny(prompts, negative_prompt="blue", latents=noise, steps=20, guidance_scale=scale, output="tensor").pixels
    assert ours is not None
    assert float((ours - (expected * 2 - 1)).abs().max()) < 1e-4


def test_the_public_surface_is_small_and_lazy() -> None:
    assert sorted(frolic.__all__) == ["Pipeline", "Request", "Result", "Strength", "__version__", "load"]
    assert frolic.Pipeline is Pipeline and frolic.Result is Result
    with pytest.raises(AttributeError):
        frolic.nothing  # noqa: B018
    code = (
        "import sys, frolic, frolic.cli.main; print([m for m in ('torch', 'typer', 'rich', 'PIL') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_drawing_imports_nothing_that_it_does_not_need(tiny_folder: Path, tmp_path: Path) -> None:
    """Each of these costs a newcomer time before the first picture; torch's compiler alone costs two seconds."""
    unwanted = ("torch._dynamo", "torch._inductor", "diffusers", "transformers", "pydantic", "typer", "rich", "yaml")
    code = (
        "import sys; from frolic.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        f"finally: print([m for m in {unwanted!r} if m in sys.modules])"
    )
    arguments = ["a red panda", "-m", str(tiny_folder), "-o", str(tmp_path / "a.png"), "-q", "--device", "cpu"]
    ran = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n" and (tmp_path / "a.png").exists()
