from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import frolic
from frolic.errors import NumericsError, RequestError, ResourceError
from frolic.io.files import write_json
from frolic.io.media import read_record
from frolic.io.safetensors import save
from frolic.models.dcae import DCAE, DCAEConfig
from frolic.models.dcae.config import RES, VIT, Stage
from frolic.models.dcae.local import Doubling
from frolic.models.sana import SanaControlNet, SanaTransformer
from frolic.models.sana.spec import SANA
from frolic.models.text import Gemma2Encoder
from frolic.pipeline import Pipeline, Progress, decode
from frolic.pipeline.kept import Kept
from frolic.pipeline.parts import Offloaded, Reread
from given import half_mask, picture, write_controlnet
from tiny import write_tiny_folder

PROMPT = "a red panda"
NAMES = {SanaTransformer: "transformer", DCAE: "vae", Gemma2Encoder: "text_encoder", SanaControlNet: "controlnet"}


class Watched:
    """Which parts of a model were built, in order, and which of them are in memory."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self._alive: list[tuple[str, weakref.ref[nn.Module]]] = []

    def seen(self, module: nn.Module) -> None:
        self.read.append(NAMES[type(module)])
        self._alive.append((self.read[-1], weakref.ref(module)))

    @property
    def alive(self) -> set[str]:
        return {name for name, module in self._alive if module() is not None}


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Sees every part whose weights are read."""
    from frolic import assemble

    seen, read_into = Watched(), assemble.read_into

    def reading(plan: Any, modules: dict[str, nn.Module]) -> None:
        read_into(plan, modules)
        for module in modules.values():
            seen.seen(module)

    monkeypatch.setattr(assemble, "read_into", reading)
    return seen


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_controlnet(tmp_path_factory.mktemp("net") / "net")


REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {"prompt": PROMPT},
    "several": {"prompt": [PROMPT, "an orange cat"], "num_images": 5, "negative_prompt": "blue"},
    "image": {"prompt": PROMPT, "image": picture(), "mask": half_mask(), "strength": 0.6},
    "control": {"prompt": PROMPT, "control": picture(), "pag_scale": 1.0},
    "instructed": {"prompt": PROMPT, "instruction": "draw well: "},
}


@pytest.mark.parametrize("name", REQUESTS)
def test_sparing_memory_changes_no_bit(tiny_folder: Path, net: Path, name: str) -> None:
    pipes = [frolic.load(tiny_folder, controlnet=net, memory=mode, device="cpu") for mode in ("full", "low")]
    fields = {**REQUESTS[name], "seed": 7, "steps": 2, "output": "tensor"}
    full, low, again = (pipe(**fields).pixels for pipe in (*pipes, pipes[1]))
    assert torch.equal(full, low) and torch.equal(low, again)


@pytest.fixture
def interpolating(tmp_path: Path) -> Path:
    """A model whose decoder enlarges as SANA's does."""
    folder = write_tiny_folder(tmp_path / "interpolating")
    stages = (Stage(RES, 8, 1), Stage(RES, 16, 1), Stage(VIT, 32, 1, (5,)))
    config = DCAEConfig(
        latent_channels=4, head_dim=16, encoder=stages, decoder=stages, scaling_factor=0.5, up="interpolate"
    )
    torch.manual_seed(1)
    state = SANA.components["vae"].keymap(config).save(DCAE(config).state_dict())
    save(state, folder / "vae" / "diffusion_pytorch_model.safetensors", force=True)
    write_json(folder / "vae" / "config.json", config.to_json(), force=True)
    return folder


def test_sparing_memory_merges_the_same_weights(interpolating: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merged, of = [], Doubling.of
    monkeypatch.setattr(Doubling, "of", lambda conv: merged.append(conv) or of(conv))
    pictures = []
    for memory in ("full", "low"):
        pipe = frolic.load(interpolating, memory=memory, device="cpu")
        pictures += [pipe(PROMPT, seed=7, steps=1, output="tensor").pixels for _ in range(2)]
        assert len(merged) == {"full": 2, "low": 4}[memory], "as often as the weights are read"
        del merged[:]
    assert all(torch.equal(pictures[0], picture) for picture in pictures)


def test_parts_are_read_and_moved_so_that_they_can_be_trained() -> None:
    modes = []

    class Moved(nn.Linear):
        def to(self, *where: Any) -> Any:
            modes.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled()))
            return super().to(*where)

    read, moved = Reread(None, lambda: nn.Linear(2, 2)), Offloaded(Moved(2, 2), torch.device("cpu"))
    with torch.inference_mode():
        parts = [read.get(), moved.get()]
        moved.release()
        assert torch.is_inference_mode_enabled()
    assert modes == 2 * [(False, False)]
    for part in parts:
        part.requires_grad_(False).requires_grad_()
        part(torch.ones(1, 2)).sum().backward()
        assert part.weight.grad is not None


def test_a_model_that_drew_in_little_memory_can_be_trained(tiny_folder: Path) -> None:
    pipe = frolic.load(tiny_folder, memory="low", device="cpu")
    with torch.inference_mode():
        vae = pipe.vae
    vae.requires_grad_()
    vae.decode(torch.randn(1, 4, 4, 4)).sum().backward()
    assert all(weight.grad is not None for weight in vae.decoder.parameters())


def test_parts_are_in_memory_only_while_they_are_needed(tiny_folder: Path, net: Path, watched: Watched) -> None:
    pipe = frolic.load(tiny_folder, controlnet=net, memory="low", device="cpu")
    assert watched.read == [] and pipe.stride == 4 and pipe.has_controlnet
    stream = pipe.stream([PROMPT, "a cat"], num_images=5, seed=1, steps=2)
    for event in stream:
        if isinstance(event, Progress):
            assert watched.alive == {"transformer"}
    assert watched.read == ["text_encoder", "transformer", "vae"] and watched.alive == set()


def test_what_is_remembered_is_not_read_for_again(tiny_folder: Path, watched: Watched) -> None:
    pipe = frolic.load(tiny_folder, memory="low", device="cpu")
    pipe(PROMPT, seed=1, steps=1)
    del watched.read[:]
    pipe(PROMPT, seed=2, steps=1)
    assert watched.read == ["transformer", "vae"], "the text is remembered"
    del watched.read[:]
    pipe("an orange cat", seed=2, steps=1)
    assert watched.read == ["text_encoder", "transformer", "vae"]


def test_pictures_to_start_from_are_encoded_before_the_transformer_is_read(
    tiny_folder: Path, net: Path, watched: Watched
) -> None:
    pipe = frolic.load(tiny_folder, controlnet=net, memory="low", device="cpu")
    steps = pipe.stream(PROMPT, seed=1, steps=1, inputs=frolic_inputs())
    for event in steps:
        if isinstance(event, Progress):
            assert watched.alive == {"transformer", "controlnet"}
    assert watched.read == ["text_encoder", "vae", "transformer", "controlnet", "vae"] and watched.alive == set()


def frolic_inputs() -> Any:
    from frolic.pipeline import Inputs

    return Inputs(image=picture(), control=picture(seed=2))


def test_a_preview_may_look_while_memory_is_spared(tiny_folder: Path, tiny: Pipeline) -> None:
    pipe = frolic.load(tiny_folder, memory="low", device="cpu")
    looks = [
        [event.preview()[0].tobytes() for event in one.stream(PROMPT, seed=1, steps=2) if isinstance(event, Progress)]
        for one in (pipe, tiny)
    ]
    assert looks[0] == looks[1]


def test_all_parts_stay_where_memory_is_not_spared(tiny_folder: Path, watched: Watched) -> None:
    pipe = frolic.load(tiny_folder, memory="full", device="cpu")
    for seed in (1, 2):
        pipe(PROMPT, seed=seed, steps=1)
    assert sorted(watched.read) == ["text_encoder", "transformer", "vae"] and len(watched.alive) == 3


@pytest.mark.parametrize(("free", "spared"), [(10**12, False), (1000, True)])
def test_auto_spares_memory_where_there_is_too_little(
    tiny_folder: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch, free: int, spared: bool
) -> None:
    monkeypatch.setattr("frolic.plan.build.free_bytes", lambda _: free)
    pipe = frolic.load(tiny_folder, device="cpu")
    assert (watched.read == []) == spared
    assert pipe(PROMPT, seed=1, steps=1).images


def test_a_request_that_fails_or_is_stopped_leaves_nothing_in_memory(
    tiny_folder: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = frolic.load(tiny_folder, memory="low", device="cpu")
    stream = pipe.stream(PROMPT, seed=1, steps=3)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert watched.alive == set()
    with monkeypatch.context() as patch:
        patch.setattr(SanaTransformer, "denoise", lambda _, x, *rest, **more: x * torch.nan)
        with pytest.raises(NumericsError):
            pipe(PROMPT, seed=1, steps=3)
    del watched.read[:]
    assert pipe(PROMPT, seed=1, steps=1).images and watched.read == ["transformer", "vae"]
    assert watched.alive == set()


def test_a_part_that_spares_memory_may_be_replaced(tiny_folder: Path) -> None:
    pipe = frolic.load(tiny_folder, memory="low", device="cpu")
    before = pipe(PROMPT, seed=1, steps=1).images[0].tobytes()
    vae = frolic.load(tiny_folder, device="cpu").vae
    with torch.no_grad():
        for parameter in vae.parameters():  # type: ignore[attr-defined]
            parameter.mul_(1.1)
    pipe.vae = vae
    assert pipe(PROMPT, seed=1, steps=1).images[0].tobytes() != before


def psnr(a: Tensor, b: Tensor) -> float:
    return 10 * float(torch.log10(4.0 / (a - b).square().mean().clamp_min(1e-20)))


@pytest.mark.parametrize("size", [(32, 32), (64, 24), (24, 128), (4, 4), (30, 34)])
def test_tiling_draws_the_same_picture(tiny_folder: Path, size: tuple[int, int]) -> None:
    fields: dict[str, Any] = {"seed": 3, "steps": 1, "width": size[0], "height": size[1], "output": "tensor"}
    on, off = (frolic.load(tiny_folder, tiling=how, device="cpu")(PROMPT, **fields).pixels for how in ("on", "off"))
    assert on is not None and off is not None and psnr(on, off) > 60


def test_tiling_is_what_was_asked_for(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(DCAE, "decode", counted(DCAE.decode, calls, "decode"))
    monkeypatch.setattr(decode, "decode_tiled", counted(decode.decode_tiled, calls, "decode_tiled"))
    for how, expected in (("on", "decode_tiled"), ("off", "decode"), ("auto", "decode")):
        frolic.load(tiny_folder, tiling=how, device="cpu")(PROMPT, seed=1, steps=1)
        assert set(calls) == {expected}, how
        del calls[:]


def counted(function: Callable[..., Tensor], calls: list[str], name: str) -> Callable[..., Tensor]:
    def call(*arguments: Any, **options: Any) -> Tensor:
        calls.append(name)
        return function(*arguments, **options)

    return call


@pytest.fixture
def full_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """No memory to decode in, until it is called."""

    def full(*_: Any, **__: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(DCAE, "decode", full)
        patch.setattr(decode, "decode_tiled", full)
        yield patch.undo


@pytest.mark.parametrize("memory", ["full", "low"])
def test_what_no_memory_was_left_to_decode_is_kept(
    tiny_folder: Path, tmp_path: Path, full_memory: Callable[[], None], memory: str
) -> None:
    pipe = frolic.load(tiny_folder, memory=memory, device="cpu")
    fields: dict[str, Any] = {"seed": 5, "steps": 2, "num_images": 2, "width": 30, "height": 34}
    with pytest.raises(ResourceError, match=r"Memory ran out while .* decoded") as caught:
        pipe([PROMPT, "an orange cat"], **fields)
    assert "latents" not in str(caught.value) and list(tmp_path.iterdir()) == []
    pipe.rescue = tmp_path
    for name in ("frolic-5.latents.safetensors", "frolic-5-2.latents.safetensors"):
        with pytest.raises(ResourceError, match=rf"{name}, decode them later with --resume-decode"):
            pipe([PROMPT, "an orange cat"], **fields)
    full_memory()
    undisturbed = pipe([PROMPT, "an orange cat"], **fields)
    kept = Kept.read(tmp_path / "frolic-5.latents.safetensors")
    images = frolic.load(tiny_folder, device="cpu").resume(kept, [])
    assert [image.tobytes() for image in images] == [image.tobytes() for image in undisturbed.images]
    assert list(kept.records) == [undisturbed.record(index) for index in range(4)]


def test_memory_that_runs_out_at_the_second_picture_keeps_both(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = frolic.load(tiny_folder, tiling="off", device="cpu")
    undisturbed = [image.tobytes() for image in pipe(PROMPT, seed=5, steps=2, num_images=2).images]
    whole, calls = pipe.vae.decode, iter(range(9))

    def second(*given: Any, **_: Any) -> Tensor:
        if next(calls) >= 1:
            raise torch.OutOfMemoryError("out of memory")
        return whole(given[-1])

    with monkeypatch.context() as patch:
        patch.setattr(pipe.vae, "decode", second)
        patch.setattr(decode, "decode_tiled", second)
        pipe.rescue = tmp_path
        with pytest.raises(ResourceError, match=r"frolic-5\.latents"):
            pipe(PROMPT, seed=5, steps=2, num_images=2)
    kept = Kept.read(tmp_path / "frolic-5.latents.safetensors")
    assert [image.tobytes() for image in pipe.resume(kept, [])] == undisturbed


def test_a_picture_drawn_from_another_is_kept_with_what_stays_of_that(
    tiny_folder: Path, net: Path, tmp_path: Path, full_memory: Callable[[], None]
) -> None:
    pipe = frolic.load(tiny_folder, controlnet=net, device="cpu")
    pipe.rescue = tmp_path
    given: dict[str, Any] = {"image": picture(), "mask": half_mask(), "strength": 0.7, "control": picture(seed=2)}
    with pytest.raises(ResourceError, match=r"frolic-5\.latents"):
        pipe(PROMPT, seed=5, steps=2, **given)
    full_memory()
    images = frolic.load(tiny_folder, device="cpu").resume(Kept.read(tmp_path / "frolic-5.latents.safetensors"), [])
    assert images[0].tobytes() == pipe(PROMPT, seed=5, steps=2, **given).images[0].tobytes()


def test_latents_of_another_kind_of_model_are_refused(tiny: Pipeline) -> None:
    record = {"request": {"width": 32, "height": 32}}
    with pytest.raises(RequestError, match="have 8 channels, this model's have 4"):
        tiny.resume(Kept(torch.zeros(1, 8, 8, 8), (record,)), [])


def test_a_resumed_picture_that_goes_wrong_is_said(tiny_folder: Path) -> None:
    pipe = frolic.load(tiny_folder, device="cpu")
    pipe.vae.decode = lambda z: torch.zeros(1, 3, 32, 32)  # type: ignore[method-assign]
    with pytest.raises(NumericsError, match="one flat colour"):
        pipe.resume(Kept(torch.ones(1, 4, 8, 8), ({"request": {"width": 32, "height": 32}},)), [])


def test_what_is_kept_says_what_a_picture_would(tiny: Pipeline, tmp_path: Path) -> None:
    result = tiny(PROMPT, seed=3, steps=1)
    path = Kept(torch.ones(1, 4, 8, 8), (result.record(),)).save(tmp_path)
    result.save(tmp_path / "a.png")
    assert Kept.read(path).records[0] == read_record(tmp_path / "a.png")
