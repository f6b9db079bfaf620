"""Reward training, end to end at a tiny size: prompts in, an adapter that says what it gained out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import frolic
from frolic.adapters.shelf import described
from frolic.config import load_recipe
from frolic.data.prompts import read_prompts, shipped, split_prompts
from frolic.errors import CheckpointError, ConfigError, FileError, NumericsError, RequestError
from frolic.io.safetensors import read_header
from frolic.rewards.looks import Bright, Vivid
from frolic.train.held_out import HeldOut
from frolic.train.jobs import JobRegistry
from frolic.train.objectives.nft import NFT
from frolic.train.objectives.reward import scored
from frolic.train.state import load_checkpoint
from frolic.train.trainer import Outcome, Trainer
from tiny import write_tiny_folder
from tiny_wan import write_tiny_wan

JOBS = JobRegistry({"reward": "frolic.train.tasks.reward"})
WEIGHTS = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_wan(tmp_path_factory.mktemp("reward") / "wan", "t2v-two")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("# colours\n" + "".join(f"a {word} bird\n" for word in ("blue", "red", "green", "old", "big")))
    return path


def recipe(root: Path, base: Path, prompts: Path, *more: str, name: str = "starter/reward") -> Any:
    tiny = [
        f"vars.model={base}", f"data.prompts={prompts}", f"output.folder={root}", "data.height=32", "data.width=32",
        "data.held_out=2", "trainer.steps=4", "trainer.device=cpu", "trainer.batch_size=2", "job.rank=2", "job.alpha=2",
        "job.steps=3", "job.check_steps=3", "job.check_every=2", "optimizer.lr=0.02", "schedule.warmup=0",
        "job.sweep=[0.5, 1.0]", "job.held_out=[contrast]", "job.floor=1000", "trainer.precision=fp32",
        "job.gradient.choice.count=1",
    ]  # fmt: skip
    return load_recipe(name, [*tiny, *more], environment="ci", jobs=JOBS)


def train(root: Path, base: Path, prompts: Path, *more: str, until: int | None = None) -> Outcome:
    wanted = recipe(root, base, prompts, *more)
    torch.manual_seed(0)
    return Trainer(wanted, JOBS.build(wanted)).run(until=until)


def report(outcome: Outcome) -> dict[str, Any]:
    assert outcome.export is not None
    found: dict[str, Any] = json.loads((outcome.export / "training.json").read_text())
    return found


def test_from_prompts_to_an_adapter_that_says_what_it_gained(tmp_path: Path, base: Path, prompts: Path) -> None:
    more = ("vars.reward=bright", "trainer.steps=12", "job.check_every=4", "vars.title=Sunny", "optimizer.lr=0.05")
    outcome = train(tmp_path / "run", base, prompts, *more)
    assert outcome.export is not None and not outcome.ended
    said = described("sunny", outcome.export / WEIGHTS).reward
    assert said is not None and said["name"] == "bright" and set(said["held_out"]) == {"contrast"}
    found = report(outcome)
    assert said["gain_sd"] == pytest.approx(found["sweep"][f"{found['weight']:g}"]["bright"], abs=1e-3)
    assert found["sweep"]["1"]["bright"] > found["sweep"]["0.5"]["bright"] > 0
    # What it claims is what a user sees: with the adapter by its file, pictures are brighter.
    pipe = frolic.load(base)
    drawn = {}
    for weight in (0.0, 1.0):
        pixels = pipe("a blue bird", seed=3, height=32, width=32, output="tensor",
                      loras={str(outcome.export / WEIGHTS): weight}).pixels  # fmt: skip
        assert pixels is not None
        drawn[weight] = float(pixels.mean())
    assert drawn[1.0] > drawn[0.0]
    lines = [json.loads(line) for line in (tmp_path / "run" / "held_out.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert len(list((tmp_path / "run" / "previews").iterdir())) == 3
    assert "held_out/contrast" in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    "more",
    [[], ["job.gradient.estimate=renoised"], ["job.method=nft", "trainer.batch_size=4", "job.nft.group=2"]],
    ids=str,
)
def test_two_halves_are_the_whole(tmp_path: Path, base: Path, prompts: Path, more: list[str]) -> None:
    straight = train(tmp_path / "straight", base, prompts, *more)
    train(tmp_path / "halves", base, prompts, *more, until=3)
    halves = train(tmp_path / "halves", base, prompts, *more)
    one, two = (load_checkpoint(outcome.checkpoint).tensors["transformer"] for outcome in (straight, halves))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    assert any(tensor.abs().sum() > 0 for key, tensor in one.items() if key.startswith("up"))


@pytest.mark.parametrize("kind", ["picture", "clip"])
def test_parts_that_come_when_they_are_needed_train_the_same(
    tmp_path: Path, base: Path, wan: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """What other devices do, with files in place of the CPU's memory."""
    from frolic.train.tasks import reward

    clip = ("vars.reward=bright", "data.frames=5", "job.train=high")
    given = (wan, prompts, *clip) if kind == "clip" else (base, prompts)
    full = train(tmp_path / "full", *given)
    true = reward.open_base
    monkeypatch.setattr(
        reward, "open_base", lambda *model, memory, **more: true(*model, memory={"full": "low"}[memory], **more)
    )
    low = train(tmp_path / "low", *given)
    one, two = (load_checkpoint(outcome.checkpoint).tensors["transformer"] for outcome in (full, low))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    assert any(tensor.abs().sum() > 0 for key, tensor in one.items() if key.startswith("up"))


def test_scores_alone_are_enough_for_nft(tmp_path: Path, base: Path, prompts: Path) -> None:
    more = (
        "vars.reward=bright", "job.method=nft", "job.nft.group=8", "trainer.batch_size=16", "trainer.steps=36",
        "job.check_every=36", "optimizer.lr=0.02", "job.nft.keep=0.5", "trainer.ema=0", "job.anchor=0",
    )  # fmt: skip
    # At 0.05 it went up by 4 to 8 or down by 0.1, as the processor rounds; at this rate by 8 and more for four seeds.
    assert report(train(tmp_path / "run", base, prompts, *more))["sweep"]["1"]["bright"] > 1


def test_both_experts_of_a_clip_model(tmp_path: Path, wan: Path, prompts: Path) -> None:
    more = (
        "vars.reward=lively", "data.frames=5", "job.gradient.window.latents=2", "job.steps=4", "job.check_steps=4",
        "job.held_out=[steady]", "job.recompute=true", "trainer.steps=2", "trainer.batch_size=1",
    )  # fmt: skip
    outcome = train(tmp_path / "both", wan, prompts, *more)
    assert outcome.export is not None
    keys = read_header(outcome.export / WEIGHTS).entries
    assert {key.split(".")[0] for key in keys} == {"transformer", "transformer_2"}
    high = train(tmp_path / "high", wan, prompts, *more, "job.train=high")
    assert high.export is not None
    header = read_header(high.export / WEIGHTS)
    assert {key.split(".")[0] for key in header.entries} == {"transformer"}
    assert header.metadata["frolic.expert"] == "high"
    pipe = frolic.load(wan)
    asked: dict[str, Any] = {"seed": 1, "height": 32, "width": 32, "frames": 5, "steps": 4, "output": "tensor"}
    plain = pipe("a red bird", **asked).pixels
    for each in (outcome, high):
        changed = pipe("a red bird", loras={str(each.export / WEIGHTS): 1.0}, **asked).pixels  # type: ignore[operator]
        assert plain is not None and changed is not None and float((changed - plain).abs().max()) > 1e-4


def test_a_run_that_only_pleases_its_reward_is_ended(tmp_path: Path, base: Path, prompts: Path) -> None:
    """Contrast is watched while brightness is trained without end: what is all white has none."""
    more = (
        "vars.reward=bright", "trainer.steps=60", "job.check_every=3", "optimizer.lr=0.1", "job.floor=0.1",
        "job.anchor=0",
    )  # fmt: skip
    outcome = train(tmp_path / "run", base, prompts, *more)
    assert "contrast" in outcome.ended and outcome.step < 60
    history = [json.loads(line) for line in (tmp_path / "run" / "held_out.jsonl").read_text().splitlines()]
    assert history[-1]["gains"]["contrast"] < -0.1 and history[-2]["fallen"] == ["contrast"]
    again = train(tmp_path / "run", base, prompts, *more)
    assert again.ended == outcome.ended and again.step == outcome.step, "it does not go on when it is started again"


class Counting:
    """Draws what it is told."""

    def __init__(self, shown: Sequence[float]) -> None:
        self.shown = list(shown)

    def __call__(self, modules: Mapping[str, nn.Module]) -> Tensor:
        level = self.shown.pop(0) if modules else 0.5
        return torch.rand(4, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.2 + level - 0.1


def test_checks_keep_the_best_and_end_after_patience(tmp_path: Path) -> None:
    kept: list[int] = []
    draw = Counting([0.5, 0.6, 0.4, 0.7, 0.4, 0.3])
    watch = HeldOut(1, ["a"] * 4, [Vivid(), Bright()], {"vivid": 1.0}, draw, patience=2, keep=lambda *_: kept.append(1))
    stops = [watch.check(step, {"net": nn.Linear(1, 1)}, tmp_path).stop for step in range(1, 7)]
    assert [bool(stop) for stop in stops] == [False] * 5 + [True], "one bad check is forgiven, two in a row are not"
    assert watch.best() is not None and watch.best()["step"] in (1, 2, 4)  # type: ignore[index]
    assert watch.resume(3, tmp_path) == "" and [entry["step"] for entry in watch.history] == [1, 2, 3]
    assert watch.value({"vivid": 1.0, "bright": -0.2}) == -math.inf
    assert watch.fallen({"vivid": 1.0, "bright": math.nan}) == ["bright"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["job.rewards=[vivid, brigth]"], "bright"),
        (["job.rewards=[vivid]", "job.held_out=[vivid]"], "name it once"),
        (["job.held_out=['contrast:0.5']"], "no weight"),
        (["job.rewards=[lively]"], "more frames"),
        (["job.train=high"], "no two experts"),
        (["job.targets=[nothing.*]"], "match no linear"),
        (["job.gradient.choice={choose: list, steps: [7]}"], "steps 7"),
        (["data.held_out=5"], "held out"),
        (["data.height=33"], "33 pixels"),
        (["data.frames=5"], "model of pictures"),
        (["job.guidance_scale_2=3"], "the model has one"),
        (["trainer.workers=2", "trainer.accumulation=2"], r"trainer\.workers"),
        (["job.method=nft", "job.nft.group=4"], "a pass has 2 samples"),
    ],
    ids=str,
)
def test_what_cannot_be_trained_is_refused(
    tmp_path: Path, base: Path, prompts: Path, more: list[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        JOBS.build(recipe(tmp_path / "run", base, prompts, *more))


@pytest.mark.parametrize("sprint", [False, True])
def test_it_draws_what_the_pipeline_draws(tmp_path: Path, prompts: Path, sprint: bool) -> None:
    """The same seeds, the noise between a Sprint model's steps included."""
    folder = write_tiny_folder(tmp_path / "base", sprint=sprint)
    job: Any = JOBS.build(recipe(tmp_path / "run", folder, prompts, "job.steps=2", "job.guidance_scale=4"))
    asked = ["a blue bird", "a red bird"]
    states, mask = job.source.texts(asked)
    with torch.no_grad(), job.objective.painter.plain():
        ours = job.objective.painter.draw(states, mask, [3, 4])[:, 0]
    pipe = frolic.load(folder, device="cpu", dtype="float32")
    theirs = pipe(asked, seed=3, steps=2, height=32, width=32, guidance_scale=4.0, output="tensor").pixels
    assert theirs is not None and theirs.std() > 0.05
    # Texts are kept in bfloat16 for training.
    torch.testing.assert_close(ours, (theirs / 2 + 0.5).clamp(0, 1), atol=5e-3, rtol=0)


def test_a_model_of_few_steps_is_trained_on_what_it_draws(tmp_path: Path, prompts: Path) -> None:
    sprint = write_tiny_folder(tmp_path / "sprint", sprint=True)
    few = ("job.steps=2", "job.check_steps=2", "job.guidance_scale=4")
    with pytest.raises(ConfigError, match=r"job\.sampler.*job\.steps.*estimate.*job\.method"):
        wrong = (
            "job.sampler=euler", "job.steps=5", "job.method=nft", "job.gradient.estimate=renoised", "job.nft.group=2"
        )  # fmt: skip
        JOBS.build(recipe(tmp_path / "run", sprint, prompts, *wrong))
    more = ("vars.reward=bright", "trainer.steps=12", "job.check_every=12", "optimizer.lr=0.05", "job.anchor=0")
    outcome = train(tmp_path / "run", sprint, prompts, *few, *more)
    assert outcome.export is not None and report(outcome)["sweep"]["1"]["bright"] > 0.1
    pipe, drawn = frolic.load(sprint, device="cpu", dtype="float32"), []
    for weight in (0.0, 1.0):
        pixels = pipe(["a blue bird", "a red bird"], seed=3, steps=2, height=32, width=32, guidance_scale=4.0,
                      output="tensor", loras={str(outcome.export / WEIGHTS): weight}).pixels  # fmt: skip
        assert pixels is not None
        drawn.append(float(pixels.mean()))
    assert drawn[1] > drawn[0]


def silent(frames: Any, prompts: Sequence[str]) -> list[float]:
    return [math.nan] * len(prompts)


class Fading:
    """Two numbers, which are those of the held-out pictures, and then none."""

    def __init__(self) -> None:
        self.said = 0

    def __call__(self, frames: Any, prompts: Sequence[str]) -> list[float]:
        first, self.said = self.said, self.said + len(prompts)
        return [float(k) if k < 2 else math.nan for k in range(first, self.said)]


fading = Fading()


def test_a_reward_without_gradients_wants_nft(tmp_path: Path, base: Path, prompts: Path) -> None:
    more = [f"job.rewards=['python:{Path(__file__)}:silent']"]
    with pytest.raises(ConfigError, match="nft"):
        JOBS.build(recipe(tmp_path / "run", base, prompts, *more))


def test_updates_that_cannot_be_scored_are_skipped_and_end_the_run(tmp_path: Path, base: Path, prompts: Path) -> None:
    more = ["job.method=nft", "job.nft.group=2", "trainer.patience=3", "job.check_every=100"]
    with pytest.raises(NumericsError, match="3 updates in a row"):
        train(tmp_path / "run", base, prompts, *more, f"job.rewards=['python:{Path(__file__)}:fading']")
    with pytest.raises(ConfigError, match="fewer than 2 of 2 held-out pictures"):
        train(tmp_path / "none", base, prompts, *more, f"job.rewards=['python:{Path(__file__)}:silent']")


class Shy(Bright):
    """Has no number for the first picture of all."""

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        score = super().score(frames_BT3HW, prompts)
        return torch.where(torch.tensor([prompt == "first" for prompt in prompts]), torch.nan, score)


def test_what_has_no_number_is_left_out_of_gains(tmp_path: Path) -> None:
    frames = torch.linspace(0.2, 0.8, 40)[:, None, None, None, None].expand(40, 1, 3, 8, 8)
    prompts = ["first", *["a"] * 39]

    def draw(modules: Mapping[str, nn.Module]) -> Tensor:
        return frames + 0.1 if modules else frames

    watch = HeldOut(1, prompts, [Shy()], {"bright": 1.0}, draw)
    known = Bright().score(frames, prompts)[1:]
    assert watch.base().mean["bright"] == pytest.approx(float(known.mean()))
    assert watch.base().deviation["bright"] == pytest.approx(float(known.std()))
    gained = Bright().score(frames + 0.1, prompts)[1:].mean() - known.mean()
    assert watch.gains(frames + 0.1)["bright"] == pytest.approx(float(gained / known.std()), rel=1e-4)


def test_rewards_see_a_few_frames_at_a_time() -> None:
    seen: list[int] = []

    class Counts(Bright):
        def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
            seen.append(frames_BT3HW.shape[0] * frames_BT3HW.shape[1])
            return super().score(frames_BT3HW, prompts)

    for clips, length in ((70, 1), (5, 40)):
        watch = HeldOut(1, ["a"] * clips, [Counts()], {}, lambda _: torch.zeros(0))
        frames = torch.rand(clips, length, 3, 8, 8)
        assert torch.equal(watch.scores(frames)["bright"], Bright().score(frames, ["a"] * clips).float())
    assert seen == [32, 32, 6, 40, 40, 40, 40, 40]


def test_nft_trains_at_the_noise_levels_of_the_expert_that_it_trains(
    tmp_path: Path, wan: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every update: none has a loss that nothing of the adapter is in."""
    more = (
        "vars.reward=lively", "data.frames=5", "job.steps=4", "job.check_steps=4", "job.held_out=[]",
        "job.method=nft", "job.nft.group=2", "job.nft.times=1", "job.check_every=6", "trainer.steps=6",
        "job.train=low", "trainer.accumulation=2", "trainer.batch_size=4",
    )  # fmt: skip
    follows: list[int] = []
    true = NFT._follow
    monkeypatch.setattr(NFT, "_follow", lambda self: (follows.append(1), true(self))[1])
    outcome = train(tmp_path / "low", wan, prompts, *more)
    assert outcome.step == 6 and len(follows) == 6, "once in an update, whatever passes it has"
    lines = [json.loads(line) for line in (tmp_path / "low" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["skipped"] == 0 for line in lines if "skipped" in line)
    # An adapter to begin with is the old policy too.
    wanted = recipe(tmp_path / "more", wan, prompts, *more, f"trainer.init_from={outcome.export}")
    job = JOBS.build(wanted)
    assert job.warm_start is not None and outcome.export is not None and isinstance(job.objective, NFT)
    job.warm_start(outcome.export)
    for name, factors in job.objective.factors.items():
        assert all(torch.equal(a, b) for a, b in zip(factors.up, job.objective.old[name].up, strict=True))
        assert any(float(up.detach().abs().sum()) > 0 for up in factors.up)
    # And it is that adapter, or none.
    with pytest.raises(CheckpointError, match=r"(?s)set job\.rank and job\.targets.*of rank 2 and not 1"):
        JOBS.build(recipe(tmp_path / "rank", wan, prompts, *more, "job.rank=1")).warm_start(outcome.export)  # type: ignore[misc]
    with pytest.raises(CheckpointError, match="changed by it alone"):
        other = recipe(tmp_path / "targets", wan, prompts, *more, "job.targets=['blocks.0.*']")
        JOBS.build(other).warm_start(outcome.export)  # type: ignore[misc]


class Sees(Bright):
    """Notes in what it is shown, and what it would compute in."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[torch.dtype, torch.dtype]] = []

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        product = frames_BT3HW.flatten(1) @ frames_BT3HW.flatten(1).T
        self.seen.append((frames_BT3HW.dtype, product.dtype))
        return super().score(frames_BT3HW, prompts)


@pytest.mark.parametrize("kind", ["base", "wan"])
def test_a_run_in_bfloat16(tmp_path: Path, kind: str, prompts: Path, request: pytest.FixtureRequest) -> None:
    """What a GPU computes in by default."""
    model = request.getfixturevalue(kind)
    more = ["trainer.precision=bf16", "trainer.steps=1", "job.check_every=1"]
    if kind == "wan":
        more += ["job.rewards=[lively]", "data.frames=5"]
    else:
        more += ["vars.reward=bright"]
    wanted = recipe(tmp_path / "run", model, prompts, *more, name=f"starter/{'video-' * (kind == 'wan')}reward")
    outcome = Trainer(wanted, JOBS.build(wanted)).run()
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert outcome.step == 1 and line["skipped"] == 0 and line["grad_norm"] > 0


def test_rewards_compute_in_their_own_precision() -> None:
    reward = Sees()
    with torch.autocast("cpu", torch.bfloat16):
        scored(reward, torch.rand(2, 1, 3, 8, 8, dtype=torch.bfloat16), ["a", "b"])
    assert reward.seen == [(torch.float32, torch.float32)]


def test_prompts_are_read_and_split(tmp_path: Path) -> None:
    assert {"starter", "starter-video"} <= set(shipped())
    for name in shipped():
        found = read_prompts(name)
        assert len(found) > 100 and not any(
            prompt.startswith(("a  ", "a on ")) or prompt in ("a", "an") for prompt in found
        )
    lines = tmp_path / "p.jsonl"
    lines.write_text('{"prompt": "a  cat"}\nnonsense\n\n{"text": "a dog"}\n')
    with pytest.raises(FileError, match=r"(?s)line 2.*line 4"):
        read_prompts(str(lines))
    lines.write_text('{"prompt": "a  cat"}\n{"prompt": "a cat"}\n')
    assert read_prompts(str(lines)) == ["a cat"]
    lines.write_text('\ufeff{"prompt": "a\u2028cat"}\n', "utf-8")
    assert read_prompts(str(lines)) == ["a cat"], "JSON may hold what else ends a line"
    marked = tmp_path / "marked.txt"
    marked.write_text("\ufeff# heads\na dog\n", "utf-8")
    assert read_prompts(str(marked)) == ["a dog"]
    empty = tmp_path / "none.txt"
    empty.write_text("# nothing\n\n")
    with pytest.raises(ConfigError, match="no prompt"):
        read_prompts(str(empty))
    with pytest.raises(FileError, match="starter"):
        read_prompts("startr")
    many = [f"prompt {number}" for number in range(20)]
    train_on, held = split_prompts(many, 5)
    assert len(held) == 5 and not set(train_on) & set(held)
    assert set(held) <= {*split_prompts([*many, "another"], 5)[1], *held}
    assert len(set(held) & set(split_prompts([*many, "another"], 5)[1])) >= 4, "one more does not move the others"


def test_prompts_that_a_reward_cannot_score_are_told_before_anything_is_drawn(
    tmp_path: Path, base: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def picky(self: Bright, found: Sequence[str]) -> None:
        assert len(found) == 5, "those that are trained with and those that are held out"
        raise RequestError("Nothing is quoted")

    monkeypatch.setattr(Bright, "check_prompts", picky)
    with pytest.raises(RequestError, match="quoted"):
        JOBS.build(recipe(tmp_path / "run", base, prompts, "vars.reward=bright"))
