"""Models of which one block at a time is in memory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import frolic
from frolic.accel.stream import BlockStream, block_number, blocks_of, in_memory, pinned_bytes
from frolic.adapters import target, write
from frolic.errors import CheckpointError
from frolic.io.safetensors import load as load_tensors
from frolic.io.safetensors import save
from frolic.lora.adapter import Adapter
from frolic.lora.delta import Delta
from frolic.models.sana.spec import SANA
from frolic.pipeline import Progress
from frolic.pipeline.parts import Parts, Streamed
from given import half_mask, picture, write_controlnet
from tiny_wan import write_tiny_wan

PROMPT = "a red panda"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_controlnet(tmp_path_factory.mktemp("net") / "net")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """With magnitudes (DoRA), which depend on the weights that are not there when it is attached."""
    pipe = frolic.load(tiny_folder, device="cpu")
    transformer: Any = pipe.transformer
    spec = SANA.components["transformer"]
    goal = target(spec, transformer.config, transformer)
    generator = torch.Generator().manual_seed(0)
    deltas = {}
    for name, (rows, columns) in goal.shapes.items():
        a, b = (torch.randn(shape, generator=generator) / 4 for shape in ((2, columns), (rows, 2)))
        deltas[name] = Delta(a, b, magnitude=0.5 + torch.rand(rows, generator=generator))
    path = tmp_path_factory.mktemp("adapter") / "dora.safetensors"
    write(Adapter(deltas), path, goal, "diffusers", dtype=torch.float32)
    return path


REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "several": {"prompt": [PROMPT, "an orange cat"], "num_images": 3, "negative_prompt": "blue"},
    "image": {"image": picture(), "mask": half_mask(), "strength": 0.6},
    "control": {"control": picture(), "pag_scale": 1.0},
    "cached": {"step_cache": 0.5},
    "instructed": {"instruction": "draw well: "},
}


@pytest.mark.parametrize("name", REQUESTS)
def test_block_after_block_changes_no_bit(tiny_folder: Path, net: Path, name: str) -> None:
    pipes = [frolic.load(tiny_folder, controlnet=net, memory=mode, device="cpu") for mode in ("full", "blocks")]
    fields = {"prompt": PROMPT, **REQUESTS[name], "seed": 7, "steps": 3, "output": "tensor"}
    full, streamed, again = (pipe(**fields).pixels for pipe in (*pipes, pipes[1]))
    assert torch.equal(full, streamed) and torch.equal(streamed, again)


def test_adapters_with_magnitudes_are_the_same(tiny_folder: Path, adapter: Path) -> None:
    pictures = []
    for mode in ("full", "blocks"):
        pipe = frolic.load(tiny_folder, memory=mode, device="cpu", loras={str(adapter): 0.7})
        pictures.append(pipe(PROMPT, seed=7, steps=2, output="tensor").pixels)
    plain = frolic.load(tiny_folder, device="cpu")(PROMPT, seed=7, steps=2, output="tensor").pixels
    assert torch.equal(*pictures) and not torch.equal(plain, pictures[0])


@pytest.mark.parametrize("kind", ["t2v", "t2v-two", "ti2v"])
def test_videos_are_the_same(tmp_path: Path, kind: str) -> None:
    folder = write_tiny_wan(tmp_path / "wan", kind)
    clips = [
        frolic.load(folder, memory=mode, device="cpu", dtype="float32")(PROMPT, seed=3, steps=3, output="tensor").pixels
        for mode in ("full", "blocks")
    ]
    assert torch.equal(*clips)


def held(module: nn.Module) -> set[int]:
    """The blocks whose weights are in memory."""
    found = blocks_of(module)
    assert found is not None
    return {
        number
        for number, block in enumerate(found[1])
        if any(weight.untyped_storage().nbytes() >= weight.nbytes > 4 for weight in block.parameters())
    }


class Toy(nn.Module):
    def __init__(self, depth: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = None
        self.first = nn.Linear(8, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)) for _ in range(depth))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


def test_two_blocks_are_in_memory_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Toy()
    x = torch.randn(3, 8)
    with torch.no_grad():
        expected = module(x)
        fetch, brought, seen = in_memory(module, CPU), [], []

        def counting(index: int) -> Mapping[str, Tensor]:
            brought.append(index)
            return fetch(index)

        stream = BlockStream(module, counting, CPU)
        assert held(module) == set()
        for number, block in enumerate(module.blocks):
            block.register_forward_hook(lambda *_, number=number: seen.append((number, held(module))), prepend=True)
        assert torch.equal(module(x), expected) and torch.equal(module(x), expected)
        stream.release()
    assert seen == 2 * [(number, {number}) for number in range(5)], (
        "the next one's weights are not put in before its turn"
    )
    assert [brought[at] for at in range(10)] == 2 * list(range(5)), "each once a pass, in order"
    assert held(module) == set()


def test_on_a_gpu_nothing_is_fetched_before_the_last_but_one_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU works behind what enqueues its work: weights that are forgotten are still there until they were read."""
    module, log, left = Toy(), [], []

    class Event:
        def __init__(self, name: str) -> None:
            self.name = name

        def synchronize(self) -> None:
            log.append(self.name)

    class Queue:
        def wait_event(self, event: Event) -> None:
            pass

        def record_event(self) -> Event:
            left.append(len(left))
            return Event(f"done {left[-1]}")

    fetch = in_memory(module, CPU)

    def noted(index: int) -> Mapping[str, Tensor]:
        log.append(f"fetch {index}")
        return fetch(index)

    stream = BlockStream(module, noted, CPU)
    stream._copies = type("Copies", (), {"record_event": lambda self: Event("copied")})()  # type: ignore[assignment]
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Queue())
    monkeypatch.setattr(torch.cuda, "stream", lambda copies: nullcontext())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, queue: None)
    with torch.no_grad():
        module(torch.randn(3, 8))
    stream.release()
    wanted = ["fetch 0", "fetch 1"]
    for index in range(2, 5):
        wanted += [f"done {index - 2}", f"fetch {index}"]
    assert log[: len(wanted)] == wanted


def test_what_is_pinned_is_rounded_up() -> None:
    module = nn.Module()
    module.blocks = nn.ModuleList(nn.Linear(10, 10, bias=False) for _ in range(2))
    module.out = nn.Linear(3, 3, bias=False)
    assert pinned_bytes(module) == 2 * 512 + 36, "400 bytes each, and what is outside of blocks as it is"


def test_a_block_out_of_turn_is_brought_all_the_same() -> None:
    module = Toy()
    x = torch.randn(3, 8)
    with torch.no_grad():
        expected = [block(x) for block in module.blocks]
        BlockStream(module, in_memory(module, CPU), CPU)
        for index in (3, 0, 0, 4, 2):
            assert torch.equal(module.blocks[index](x), expected[index])


def test_shapes_and_dtypes_stay_while_weights_are_away() -> None:
    module = Toy().bfloat16()
    before = {name: (tensor.shape, tensor.dtype) for name, tensor in module.state_dict().items()}
    BlockStream(module, in_memory(module, CPU), CPU)
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in module.state_dict().items()} == before


def test_what_fails_is_the_callers_and_the_block_can_be_called_again() -> None:
    module = Toy()
    x, fetch, broken = torch.randn(3, 8), in_memory(module, CPU), [True]

    def fetching(index: int) -> Mapping[str, Tensor]:
        if index == 2 and broken[0]:
            raise CheckpointError("the file is gone")
        return fetch(index)

    with torch.no_grad():
        expected = module(x)
        BlockStream(module, fetching, CPU)
        for _ in range(2):
            with pytest.raises(CheckpointError, match="gone"):
                module(x)
        broken[0] = False
        assert torch.equal(module(x), expected)
        with pytest.raises(RuntimeError):
            module(torch.randn(3, 7))
        assert held(module) == set() and torch.equal(module(x), expected)


def test_from_the_cpus_memory_as_well() -> None:
    """What a GPU's models do, with the CPU as the device."""
    module = Toy()
    x = torch.randn(3, 8)
    with torch.inference_mode():
        expected = module(x)
        parts = Parts(transformer=Streamed(module, CPU))
        assert torch.equal(parts.transformer(x), expected)
        parts.spare()
        assert held(module) == set() and torch.equal(parts.transformer(x), expected)


def test_weights_outside_of_blocks_are_read_once_and_blocks_from_their_files(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from frolic import assemble

    read: list[set[int | None]] = []
    reading = assemble.read_tensors

    def watching(entries: Any, *rest: Any, **options: Any) -> dict[str, Tensor]:
        if any(name.startswith(("transformer_blocks", "patch_embed")) for name in entries):
            read.append(
                {int(name.split(".")[1]) if name.startswith("transformer_blocks") else None for name in entries}
            )
        return reading(entries, *rest, **options)

    monkeypatch.setattr(assemble, "read_tensors", watching)
    pipe = frolic.load(tiny_folder, memory="blocks", device="cpu")
    assert read == []
    for event in pipe.stream(PROMPT, seed=1, steps=2):
        if isinstance(event, Progress):
            assert read[0] == {None} and all(len(each) == 1 for each in read)
    assert read.count({None}) == 1 and read.count({0}) >= 3 and read.count({1}) >= 3, "for the text, and for each step"


def test_a_damaged_block_is_named(own_folder: Path) -> None:
    path = own_folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_tensors(path)
    weights["transformer_blocks.1.attn1.to_q.weight"][0, 0] = torch.nan
    save(weights, path, force=True)
    pipe = frolic.load(own_folder, memory="blocks", device="cpu")
    with pytest.raises(CheckpointError, match=r"transformer_blocks\.1\.attn1\.to_q\.weight"):
        pipe(PROMPT, seed=1, steps=1)


@pytest.mark.parametrize(("free", "mode"), [(10**9, "full"), (500_000, "low"), (1000, "blocks")])
def test_auto_takes_the_first_that_fits(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, free: int, mode: str
) -> None:
    from frolic.plan import make_plan
    from frolic.plan.estimate import estimate
    from frolic.request import Request

    monkeypatch.setattr("frolic.plan.build.free_bytes", lambda _: free)
    plan = make_plan(tiny_folder, device="cpu")
    assert plan.mode() == mode, {name: part.bytes for name, part in plan.parts.items()}
    found = estimate(plan, Request(prompts=(PROMPT,)))
    assert found.mode == mode
    sized = {
        one: estimate(make_plan(tiny_folder, device="cpu", memory=one), Request(prompts=(PROMPT,))).peak
        for one in ("full", "low", "blocks")
    }
    assert sized["blocks"] <= sized["low"] < sized["full"]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("blocks.12.attn.qkv.weight", 12),
        ("layers.0.norm", 0),
        ("blocks", None),
        ("patch.weight", None),
        ("a.blocks.1", None),
    ],
)
def test_the_number_of_a_block(name: str, number: int | None) -> None:
    assert block_number(name) == number


@pytest.mark.gpu
def test_on_a_gpu_the_same_picture_in_less_memory(tmp_path: Path) -> None:
    from tiny import write_tiny_folder

    folder = write_tiny_folder(tmp_path / "tiny")
    pictures = [
        frolic.load(folder, memory=mode, device="cuda", dtype="float32")(
            PROMPT, seed=7, steps=3, output="tensor"
        ).pixels
        for mode in ("full", "blocks")
    ]
    assert torch.equal(*pictures)
    module = nn.Sequential()
    module.blocks = nn.ModuleList(nn.Linear(4096, 4096) for _ in range(16))  # 64 MiB each
    x = torch.randn(8, 4096, device="cuda")
    with torch.no_grad():
        streamed = Streamed(module, torch.device("cuda")).get()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        for block in streamed.blocks:
            x = block(x)
        torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before < 4 * 64 * 2**20


def test_weights_are_pinned_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they are, and not beside what they were: there may be no room for both."""
    module = torch.nn.Module()
    module.blocks = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(3))
    beside: list[int] = []
    pinned: list[torch.Tensor] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        held = {each.data_ptr() for each in module.state_dict().values()}
        beside.append(sum(each.data_ptr() not in held for each in pinned))
        pinned.append(tensor.clone())
        return pinned[-1]

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    in_memory(module, torch.device("cuda"))
    assert beside == [0] * 6
    assert {each.data_ptr() for each in module.state_dict().values()} == {each.data_ptr() for each in pinned}
