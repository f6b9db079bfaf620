"""A dual encoder of the latents of clips, and models of clips that are told by it."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from frolic.config import load_recipe
from frolic.data.mistaken import mistaken
from frolic.data.motion import clip, clips, is_reserved, meaning
from frolic.data.moves import SAID
from frolic.data.scenes import Cast
from frolic.errors import CheckpointError, ConfigError
from frolic.io.safetensors import load
from frolic.models.dual.latent import LatentDualConfig, LatentDualEncoder
from frolic.train.jobs import built_in
from frolic.train.objectives.agreement import Agreement
from frolic.train.objectives.flow import Flow, FlowAgreementSettings, FlowSettings
from frolic.train.state import load_checkpoint
from frolic.train.trainer import Trainer
from small_pack import small_concepts, write_small_pack
from tiny import write_tiny_folder
from tiny_wan import write_tiny_wan

JOBS = built_in()
SMALL = LatentDualConfig(
    channels=4, widths=(8, 16), text_width=16, text_heads=2, heads=2, embedding=8, tokens=12, frames=3
)
COMMON = ["data.animated=none", "data.clips=12", "data.side=32", "trainer.device=cpu", "trainer.log_every=1"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("parts")
    model, text = write_tiny_wan(root / "wan", "ti2v"), write_tiny_folder(root / "text")
    pack = write_small_pack(root / "pack")
    return [f"vars.autoencoder={model}", f"vars.text={text}", f"data.pack={pack}", f"data.cache={root / 'cache'}"]


def run(name: str, folder: Path, parts: list[str], *changes: str, until: int | None = None) -> Any:
    given = [*parts, *COMMON, f"output.folder={folder}", *changes]
    recipe = load_recipe(name, given, "ci", jobs=JOBS)
    return Trainer(recipe, JOBS.build(recipe)).run(until=until)


def train(folder: Path, parts: list[str], *changes: str, until: int | None = None) -> Any:
    tiny = [
        "model.config.widths=[8, 16]", "model.config.text_heads=2", "model.config.embedding=8", "model.config.heads=2",
        "job.tokens=12", "job.held_out=1", "trainer.batch_size=6", "schedule.warmup=1", "data.frames=9",
    ]  # fmt: skip
    return run("starter/clip-dual-encoder", folder, parts, *tiny, *changes, until=until)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> Path:
    export: Path = train(tmp_path_factory.mktemp("encoder") / "run", parts).export
    return export


def learned(outcome: Any) -> dict[str, Any]:
    return load_checkpoint(outcome.checkpoint).tensors


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load(folder / "diffusion_pytorch_model.safetensors")


def alike(one: Any, other: Any, *names: str) -> bool:
    a, b = learned(one), learned(other)
    return all(torch.equal(tensor, b[name][key]) for name in names for key, tensor in a[name].items())


def test_frames_are_looked_at_one_by_one_and_their_order_counts() -> None:
    torch.manual_seed(0)
    net = LatentDualEncoder(SMALL)
    x = torch.randn(2, 4, 3, 8, 6)
    seen = net.image(x)
    assert seen.shape == (2, 8)
    torch.testing.assert_close(net.image(x[1:]), seen[1:])
    assert not torch.allclose(net.image(x.flip(2)), seen, atol=1e-3)
    # Whatever the first stage makes of a frame it makes of the same frame at another time.
    looked: list[torch.Tensor] = []
    net.image.fine.register_forward_hook(lambda _m, _i, out: looked.append(out))
    net.image(x[:1, :, :1].expand(-1, -1, 3, -1, -1))
    torch.testing.assert_close(looked[0][0], looked[0][2])


def test_a_run_goes_on_where_it_stopped_and_says_what_it_is_worth(
    tmp_path: Path, parts: list[str], encoder: Path
) -> None:
    train(tmp_path / "parts", parts, until=2)
    parted = train(tmp_path / "parts", parts)
    straight = train(tmp_path / "straight", parts)
    assert alike(straight, parted, "dual")
    facts = json.loads((encoder / "config.json").read_text())
    assert (facts["frames"], facts["channels"], facts["_captions_each"]) == (3, 6, 100)
    assert 2 <= facts["_held_out_scenes"] <= 100
    assert 0 <= facts["_picture_to_caption_top1"] <= 1 and 0 <= facts["_mistakes_told"] <= 1
    with pytest.raises(ConfigError, match="channels, frames, text_width are those of"):
        train(tmp_path / "other", parts, "model.config.frames=5")
    with pytest.raises(ConfigError, match="cannot be encoded"):
        train(tmp_path / "wrong", parts, "data.frames=8")


def told(folder: Path, parts: list[str], *changes: str, until: int | None = None) -> Any:
    """A run of ``starter/video-agreement``, tiny."""
    tiny = [
        "model.config.in_channels=6", "model.config.out_channels=6", "model.config.num_attention_heads=2",
        "model.config.attention_head_dim=12", "model.config.num_layers=2", "model.config.ffn_dim=16",
        "model.config.text_dim=16", "data.frames=9", "job.card.height=32", "job.card.width=32", "job.card.steps=2",
        "job.agreement.others=8", "job.agreement.least=0.1", "job.tokens=12", "trainer.init_from=null",
        "trainer.batch_size=6", "trainer.steps=4", "schedule.warmup=1",
    ]  # fmt: skip
    return run("starter/video-agreement", folder, parts, *tiny, *changes, until=until)


def test_experts_that_are_told_and_ones_that_were_stopped_go_the_same_way(
    tmp_path: Path, parts: list[str], encoder: Path
) -> None:
    both = ("transformer", "transformer_2")
    given = [*parts, f"vars.encoder={encoder}"]
    straight = told(tmp_path / "straight", given)
    told(tmp_path / "parts", given, until=2)
    assert alike(straight, told(tmp_path / "parts", given), *both)
    lines = [json.loads(line) for line in (tmp_path / "straight" / "metrics.jsonl").read_text().splitlines()]
    assert any("agreed" in line for line in lines)
    alone = told(tmp_path / "alone", given, "job.agreement=null")
    assert not alike(straight, alone, "transformer") and not alike(straight, alone, "transformer_2")
    # The finished weights are the mean of what it began with and what it learned.
    begin = [f"vars.begin={straight.export}", "trainer.init_from=${begin}", "optimizer.lr=0.1"]
    ends = [told(tmp_path / f"kept-{kept}", given, *begin, f"job.kept={kept}").export for kept in (0.0, 0.25)]
    for part in both:
        first, after, mean = (weights(folder / part) for folder in (straight.export, *ends))
        for name, tensor in mean.items():
            torch.testing.assert_close(
                tensor.float(), 0.25 * first[name].float() + 0.75 * after[name].float(), rtol=0.1, atol=0.02
            )
        assert any(float((after[name].float() - first[name].float()).abs().max()) > 0.2 for name in mean)
    for wrong, said in (([], "there is nothing to keep"), ([*begin, "job.ends=new"], "another autoencoder")):
        with pytest.raises(ConfigError, match=rf"job\.kept: .*{said}"):
            told(tmp_path / "none", given, "job.kept=0.5", *wrong)
    # One expert alone is told too, and by an encoder of these latents only.
    high = told(tmp_path / "high", given, "job.train=high", f"job.other={straight.export}")
    plain = told(tmp_path / "plain", given, "job.train=high", f"job.other={straight.export}", "job.agreement=null")
    assert not alike(high, plain, "transformer")
    other = write_tiny_folder(tmp_path / "text", seed=5)
    with pytest.raises(CheckpointError, match="trained with another text encoder"):
        told(tmp_path / "wrong", [*given, f"vars.text={other}"])


def test_an_adapter_of_clips_is_told_beside_its_rewards(
    tmp_path: Path, parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = next(each.removeprefix("vars.autoencoder=") for each in parts if each.startswith("vars.autoencoder="))
    # Its own text encoder, so that the states are the ones that it reads.
    own = [each if not each.startswith("vars.text=") else f"vars.text={model}" for each in parts]
    encoder = train(tmp_path / "encoder", own, "data.frames=5").export
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a blue bird spinning\na red bird falling\nan old bird growing\na bird rising\n")

    def rewarded(name: str, *more: str) -> Any:
        tiny = [
            f"vars.model={model}", f"data.prompts={prompts}", "data.height=32", "data.width=32", "data.frames=5",
            "data.held_out=2", "job.rank=2", "job.alpha=2", "job.steps=2", "job.check_steps=2", "job.check_every=2",
            "job.sweep=[1.0]", "job.held_out=[contrast]", "job.floor=1000", "trainer.steps=2", "trainer.batch_size=2",
            "trainer.precision=fp32", "trainer.device=cpu", "trainer.log_every=1", f"output.folder={tmp_path / name}",
        ]  # fmt: skip
        recipe = load_recipe("starter/video-reward", [*tiny, *more], "ci", jobs=JOBS)
        return Trainer(recipe, JOBS.build(recipe)).run()

    asked = f"job.agreement={{weights: {encoder}, others: 2, weight: 3}}"
    spared: list[str] = []
    with monkeypatch.context() as watched:
        watched.setattr("frolic.pipeline.Pipeline.spare", lambda self, *names: spared.extend(names))
        outcome = rewarded("told", asked)
    assert "text_encoder" in spared, "it reads the mistaken prompts, and goes again"
    lines = [json.loads(line) for line in (tmp_path / "told" / "metrics.jsonl").read_text().splitlines()]
    assert any("agreed" in line for line in lines)
    assert not alike(outcome, rewarded("alone"), "transformer")
    with pytest.raises(ConfigError, match="reads latents of 2 frames, and these have 3"):
        rewarded("longer", asked, "data.frames=9")


class Foresees(torch.nn.Module):
    """A network whose foreseen clean clip is ``own`` whatever it is given."""

    def __init__(self, own: torch.Tensor) -> None:
        super().__init__()
        self.own = torch.nn.Parameter(own)

    def forward(self, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (x - self.own) / (t[:, -1] / 1000)[:, None, None, None, None]


def test_nobody_is_asked_about_clips_whose_first_frame_is_given() -> None:
    torch.manual_seed(0)
    settings = FlowAgreementSettings(weights="x", others=4, noise=0.0, weight=1.0, least=0.0)
    texts = torch.nn.functional.normalize(torch.randn(9, 8), dim=1)
    agreement = Agreement(LatentDualEncoder(SMALL), settings, texts, texts[:1], torch.arange(9))
    x = torch.randn(24, 4, 3, 8, 8)
    batch = {
        "latents": x, "text": torch.ones(24, 3, 2), "mask": torch.ones(24, 3),
        "sentence": torch.randint(9, (24,)), "wrong": torch.full((24,), -1),
    }  # fmt: skip
    net = Foresees(torch.randn_like(x))
    flow = Flow(net, FlowSettings(first=0.5, dropout=0.0), torch.zeros(1, 3, 2), torch.ones(1, 3), None, agreement)
    plain = Flow(net, FlowSettings(first=0.5, dropout=0.0), torch.zeros(1, 3, 2), torch.ones(1, 3))
    grads = []
    for each in (flow, plain):
        loss, _ = each.loss(batch, torch.Generator().manual_seed(0))
        grads.append(torch.autograd.grad(loss, net.own)[0])
    # The same draws again, to know whose first frame is given: noise, times, dropped captions, first frames.
    again = torch.Generator().manual_seed(0)
    torch.randn(x.shape, generator=again)
    plain.times(24, again)
    torch.rand(24, generator=again)
    given = torch.rand(24, generator=again) < 0.5
    moved = (grads[0] - grads[1]).flatten(1).abs().amax(dim=1)
    assert 4 < int(given.sum()) < 20
    assert float(moved[given].max()) == 0 < float(moved[~given].min())


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        ("a dog walking to the left", {"a dog walking to the right"}),
        ("a car driving to the right on grass", {"a car driving to the left on grass"}),
    ],
)
def test_what_heads_somewhere_heads_the_other_way(caption: str, wanted: set[str]) -> None:
    assert {mistaken(caption, Random(seed)) for seed in range(40)} == wanted


def test_what_a_thing_does_is_turned_around_or_exchanged() -> None:
    made = {str(mistaken("a dog moving to the left", Random(seed))) for seed in range(400)}
    assert all(text.startswith("a dog ") for text in made) and "a dog moving to the right" in made
    said = {text.removeprefix("a dog ") for text in made}
    assert said <= {phrase for kind, phrases in SAID.items() for phrase in phrases if kind != "left"}
    turned = {str(mistaken("a cup spinning clockwise", Random(seed))) for seed in range(100)}
    assert "a cup spinning counterclockwise" in turned and not any(" clockwise" in text for text in turned)
    assert not any("falling" in str(mistaken("a cup moving down", Random(seed))) for seed in range(200)), "as true"


@pytest.mark.parametrize("kind", ["one", "two", "around", "still"])
def test_no_mistaken_caption_is_one_of_the_clip_itself(kind: str) -> None:
    cast, told = Cast(small_concepts()), 0
    for seed in range(150):
        rng = Random(seed)
        shown = clip(cast, kind, rng)
        for caption in shown.captions:
            wrong = mistaken(caption, rng)
            told += wrong is not None
            assert wrong not in shown.captions
    assert told > 20 or kind == "around"


def test_clips_mean_the_same_where_captions_are_true_of_both() -> None:
    concepts = small_concepts()
    made = [each for each in clips(concepts, 400, 1) if not is_reserved(each, concepts)]
    of: dict[int, list[Any]] = {}
    for each in made:
        of.setdefault(meaning(each, concepts), []).append(each)
    assert any(len(alike) > 1 for alike in of.values())
    for alike in of.values():
        seen = {(c.ground, tuple(sorted((a.concept, a.move.kind) for a in c.actors))) for c in alike}
        assert len(seen) == 1
    assert all(0 <= number < 2**56 for number in of)
