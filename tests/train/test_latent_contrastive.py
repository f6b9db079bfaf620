"""A dual encoder of latents, and models that are told by it: a student of few steps, and a whole one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from frolic.config import load_recipe
from frolic.errors import CheckpointError, ConfigError
from frolic.io.safetensors import load
from frolic.models.dual.latent import LatentDualConfig, LatentDualEncoder
from frolic.rewards.looks import Bright
from frolic.sampling.solvers import SAMPLERS
from frolic.train.jobs import built_in
from frolic.train.objectives.agreement import Agreement, AgreementSettings, OpinionSettings
from frolic.train.objectives.contrastive import contrast
from frolic.train.objectives.flow import Flow, FlowAgreementSettings, FlowSettings
from frolic.train.objectives.reward import Goal, RewardGradient
from frolic.train.objectives.steps import StepChoice, StepSettings
from frolic.train.state import load_checkpoint
from frolic.train.tasks.agreement import read_latent_dual
from frolic.train.tasks.component import weights_mark
from frolic.train.trainer import Trainer

JOBS = built_in()
SHAPES = "shapes={256x256: 0, 320x192: 0, 192x320: 0, 32x32: 2, 48x32: 1}"
SMALL = LatentDualConfig(channels=4, widths=(8, 16), text_width=16, text_heads=2, heads=2, embedding=8, tokens=12)

WHOLE = [
    f"model.config.{name}={value}"
    for name, value in {
        "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 8,
        "num_cross_attention_heads": 2, "cross_attention_head_dim": 8, "cross_attention_dim": 16, "num_layers": 2,
        "caption_channels": 16,
    }.items()
]  # fmt: skip


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, base: Path, pack: Path) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    export = train(folder / "run", base, pack, folder / "cache").export
    assert export is not None
    return export


def train(folder: Path, base: Path, pack: Path, cache: Path, *changes: str, until: int | None = None) -> Any:
    tiny = [
        f"vars.autoencoder={base}", f"vars.text={base}", f"data.pack={pack}", f"data.cache={cache}", "data.pictures=12",
        f"data.{SHAPES}", "model.config.widths=[8, 16]", "model.config.text_heads=2", "model.config.embedding=8",
        "model.config.heads=2",
        "job.tokens=12", "job.held_out=1", "trainer.steps=4", "trainer.batch_size=6", "schedule.warmup=1",
        f"output.folder={folder}", "trainer.device=cpu", "trainer.log_every=1",
    ]  # fmt: skip
    recipe = load_recipe("starter/latent-dual-encoder", [*tiny, *changes], "ci", jobs=JOBS)
    return Trainer(recipe, JOBS.build(recipe)).run(until=until)


def student(
    folder: Path,
    base: Path,
    pack: Path,
    cache: Path,
    *changes: str,
    until: int | None = None,
    recipe: str = "starter/sprint",
) -> Any:
    tiny = [
        f"vars.model={base}", f"data.scenes.pack={pack}", f"data.scenes.cache={cache}", "data.scenes.pictures=12",
        f"data.scenes.{SHAPES}", "job.adversarial.blocks=[0, 1]", "job.adversarial.width=8", "trainer.steps=4",
        "trainer.init_from=null", "trainer.batch_size=6", "schedule.warmup=0", f"output.folder={folder}",
        "trainer.device=cpu", "trainer.log_every=1", "job.trajectory.steps=2",
    ]  # fmt: skip
    read = load_recipe(recipe, [*tiny, *changes], "ci", jobs=JOBS)
    return Trainer(read, JOBS.build(read)).run(until=until)


def alike(one: Any, other: Any) -> bool:
    """Whether two runs learned the same bits."""
    a, b = (load_checkpoint(run.checkpoint).tensors["transformer"] for run in (one, other))
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def written_out(logits: list[list[float]], forms: list[list[float]], meaning: list[int], has: list[bool]) -> float:
    """Each picture looks for its text among all texts and mistaken forms; each text for its picture among all."""
    count, total = len(logits), 0.0
    for k in range(count):
        others = [n for n in range(count) if n == k or meaning[n] != meaning[k]]
        wrong = [math.exp(forms[k][n]) for n in range(count) if has[n]]
        total -= logits[k][k] - math.log(sum(math.exp(logits[k][n]) for n in others) + sum(wrong))
        total -= logits[k][k] - math.log(sum(math.exp(logits[n][k]) for n in others))
    return total / (2 * count)


@pytest.mark.parametrize("meaning", [[1, 2, 3, 4], [1, 2, 1, 3]])
@pytest.mark.parametrize("has", [[True, False, True, True], [False] * 4])
def test_the_loss_is_the_plain_formula(meaning: list[int], has: list[bool]) -> None:
    logits, forms = 3 * torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = contrast(logits, torch.tensor(meaning), forms.masked_fill(~torch.tensor(has), -math.inf))
    assert float(found) == pytest.approx(written_out(logits.tolist(), forms.tolist(), meaning, has), abs=1e-9)


def test_what_a_text_says_does_not_depend_on_padding_and_a_picture_has_any_even_sides() -> None:
    torch.manual_seed(0)
    net = LatentDualEncoder(SMALL)
    states = torch.randn(2, 5, 16)
    padded = torch.cat([states, torch.randn(2, 3, 16)], dim=1)
    mask = torch.tensor([[True] * 5 + [False] * 3] * 2)
    assert torch.allclose(net.text(states, mask[:, :5]), net.text(padded, mask), atol=1e-6)
    for sides in ((8, 8), (6, 10)):
        seen = net.image(torch.randn(3, 4, *sides))
        assert torch.allclose(seen.norm(dim=1), torch.ones(3), atol=1e-5)
        x = torch.randn(2, 4, *sides)
        assert torch.allclose(net.image(x)[:1], net.image(x[:1]), atol=1e-6), "batch mates do not matter"


def test_it_can_see_where_things_are() -> None:
    """Means over a picture would not: with the heads' preference for a side, a picture and its mirror image differ."""
    torch.manual_seed(0)
    net = LatentDualEncoder(SMALL)
    x = torch.zeros(1, 4, 8, 8)
    x[..., 2:4, 1:3] = 3.0
    with torch.no_grad():
        net.image.place.copy_(torch.tensor([[0.0, 0.0], [4.0, -4.0]]))
        assert float((net.image(x) - net.image(x.flip(3))).norm()) > 0.05


def test_bad_configs_are_refused_all_at_once() -> None:
    with pytest.raises(CheckpointError, match=r"(?s)widths.*text_width.*embedding"):
        LatentDualConfig.from_json({"widths": [8, 12], "text_width": 10, "text_heads": 4, "embedding": 9, "heads": 2})
    assert LatentDualConfig.from_json(SMALL.to_json()) == SMALL


def test_a_run_goes_on_where_it_stopped_and_says_what_it_is_worth(
    tmp_path: Path, base: Path, pack: Path, encoder: Path
) -> None:
    assert train(tmp_path / "parts", base, pack, tmp_path / "cache", until=2).step == 2
    parts = train(tmp_path / "parts", base, pack, tmp_path / "cache").export
    one, other = (load(folder / "model.safetensors") for folder in (encoder, parts))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    facts = json.loads((encoder / "config.json").read_text())
    assert 0 <= facts["_picture_to_caption_top1"] <= 1 and 0 <= facts["_mistakes_told"] <= 1
    marks = weights_mark(base / "vae"), weights_mark(base / "text_encoder")
    assert read_latent_dual(encoder, *marks).config == SMALL
    with pytest.raises(CheckpointError, match=r"another autoencoder and another text encoder"):
        read_latent_dual(encoder, "other", "other")
    lines = [json.loads(line) for line in (encoder.parent / "metrics.jsonl").read_text().splitlines()]
    assert {"top1", "mistakes_told"} <= lines[0].keys()


def test_what_cannot_be_meant(tmp_path: Path, base: Path, pack: Path, encoder: Path) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.accumulation"):
        train(tmp_path / "run", base, pack, tmp_path / "cache", "trainer.accumulation=2")
    with pytest.raises(ConfigError, match="channels, frames, text_width"):
        train(tmp_path / "run", base, pack, tmp_path / "cache", "model.config.channels=3")
    agreement = f"job.agreement.weights={encoder}"
    with pytest.raises(ConfigError, match="give adversarial with it"):
        student(tmp_path / "run", base, pack, tmp_path / "cache", agreement, "job.adversarial=null")
    folder = tmp_path / "pictures"
    with pytest.raises(ConfigError, match=r"job\.agreement.*give data\.scenes"):
        student(
            tmp_path / "run", base, pack, tmp_path / "cache", agreement, "data.scenes=null", f"data.folder={folder}",
            "data.side=32",
        )  # fmt: skip


def test_the_opinion_is_the_plain_formula_and_reaches_the_picture() -> None:
    torch.manual_seed(0)
    net = LatentDualEncoder(SMALL).double()
    captions, forms = (torch.nn.functional.normalize(torch.randn(n, 8).double(), dim=1) for n in (20, 5))
    meaning = torch.arange(20) // 2
    settings = AgreementSettings(weights="x", others=6, noise=0.0)
    agreement = Agreement(net, settings, captions, forms, meaning)
    batch = {"sentence": torch.tensor([3, 10, 11]), "wrong": torch.tensor([4, -1, 0])}
    x = torch.randn(3, 4, 8, 8).double().requires_grad_()
    loss, right = agreement.loss(x, batch, torch.Generator().manual_seed(1))
    others = torch.randint(20, (6,), generator=torch.Generator().manual_seed(1)).tolist()
    seen, factor, total, hits = net.image(x).detach(), float(net.factor().detach()), 0.0, 0
    for row, (sentence, wrong) in enumerate(zip([3, 10, 11], [4, -1, 0], strict=True)):
        rivals = [captions[k] for k in others if meaning[k] != meaning[sentence]]
        rivals += [forms[wrong]] if wrong >= 0 else []
        own = factor * float(seen[row] @ captions[sentence])
        against = [factor * float(seen[row] @ each) for each in rivals]
        total -= own - math.log(sum(map(math.exp, [own, *against])))
        hits += all(own > each for each in against)
    assert float(loss.detach()) == pytest.approx(total / 3, abs=1e-9) and float(right) == pytest.approx(hits / 3)
    loss.backward()
    assert x.grad is not None and all(float(each.abs().max()) > 0 for each in x.grad)
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("second", [0.0, 1.0])
def test_a_student_that_is_told_and_one_that_was_stopped_go_the_same_way(
    tmp_path: Path, base: Path, pack: Path, encoder: Path, second: float
) -> None:
    given = (base, pack, tmp_path / "cache", f"job.agreement={{weights: {encoder}, others: 8, second: {second}}}")
    straight = student(tmp_path / "straight", *given)
    student(tmp_path / "parts", *given, until=1)
    parts = student(tmp_path / "parts", *given)
    assert alike(straight, parts)
    lines = [json.loads(line) for line in (tmp_path / "straight" / "metrics.jsonl").read_text().splitlines()]
    assert [("agreed" in line, "judged" in line) for line in lines] == [(True, False), (False, True)] * 2
    alone = student(tmp_path / "alone", *given[:3])
    assert not alike(straight, alone)


def test_the_recipe_that_comes_after_the_other_two(tmp_path: Path, base: Path, pack: Path, encoder: Path) -> None:
    """``starter/sprint-agreement`` goes on from ``starter/sprint``, told by ``starter/latent-dual-encoder``."""
    first = student(tmp_path / "first", base, pack, tmp_path / "cache", "trainer.steps=2")
    given = [f"vars.begin={first.export}", f"vars.encoder={encoder}", "trainer.init_from=${begin}"]
    second = student(tmp_path / "second", base, pack, tmp_path / "cache", *given, recipe="starter/sprint-agreement")
    assert second.step == 4 and (second.export / "transformer" / "config.json").is_file()
    assert "agreed" in (tmp_path / "second" / "metrics.jsonl").read_text().splitlines()[0]


class Foresees(torch.nn.Module):
    """A network whose foreseen clean picture is ``own`` whatever it is given."""

    def __init__(self, own: torch.Tensor) -> None:
        super().__init__()
        self.own = torch.nn.Parameter(own)

    def forward(self, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (x - self.own) / (t / 1000)[:, None, None, None]


def test_a_flow_model_is_told_of_noisy_captioned_samples_what_it_foresees() -> None:
    torch.manual_seed(0)
    count = 64
    captions, forms = (torch.nn.functional.normalize(torch.randn(n, 8), dim=1) for n in (20, 5))
    settings = FlowAgreementSettings(weights="x", others=6, noise=0.0, weight=0.25, least=0.6)
    agreement = Agreement(LatentDualEncoder(SMALL), settings, captions, forms, torch.arange(20))
    batch = {
        "latents": torch.randn(count, 4, 8, 8), "text": torch.ones(count, 3, 2),
        "mask": torch.ones(count, 3, dtype=torch.bool),
        "sentence": torch.randint(20, (count,)), "wrong": torch.randint(-1, 5, (count,)),
    }  # fmt: skip
    null = torch.zeros(1, 3, 2), torch.ones(1, 3, dtype=torch.bool)
    own = torch.randn(count, 4, 8, 8)

    def told(agreement: Agreement | None) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Generator]:
        generator = torch.Generator().manual_seed(1)
        flow = Flow(Foresees(own), FlowSettings(dropout=0.5), *null, agreement=agreement)
        return *flow.loss(batch, generator), generator

    plain, silent, generator = told(None)
    heard, scalars, _ = told(agreement)
    assert scalars.keys() - silent.keys() == {"disagreement", "agreed"}
    # The same draws again, to know which samples count: noise, times, dropped captions.
    again = torch.Generator().manual_seed(1)
    torch.randn(batch["latents"].shape, generator=again)
    sigma = Flow(torch.nn.Identity(), FlowSettings(), *null).times(count, again)
    asked = (torch.rand(count, generator=again) >= 0.5) & (sigma > 0.6)
    assert 5 < int(asked.sum()) < count - 5
    some = {name: batch[name][asked] for name in ("sentence", "wrong")}
    expected, right = agreement.loss(own[asked], some, generator)
    assert float((heard - plain).detach()) == pytest.approx(0.25 * float(expected) * int(asked.sum()) / count, rel=1e-3)
    assert float(scalars["agreed"]) == pytest.approx(float(right))


def test_nobody_asks_where_no_sample_is_noisy_enough() -> None:
    settings = FlowAgreementSettings(weights="x", least=1.0)
    agreement = Agreement(LatentDualEncoder(SMALL), settings, *(torch.zeros(2, 8),) * 2, torch.arange(2))
    batch = {"latents": torch.zeros(2, 4, 8, 8), "text": torch.ones(2, 3, 2), "mask": torch.ones(2, 3)}
    flow = Flow(
        Foresees(torch.zeros(2, 4, 8, 8)), FlowSettings(), torch.zeros(1, 3, 2), torch.ones(1, 3), None, agreement
    )
    loss, scalars = flow.loss(batch, torch.Generator().manual_seed(0))
    assert float(loss.detach()) < 1e-8 and "agreed" not in scalars


def whole(folder: Path, base: Path, pack: Path, cache: Path, *changes: str, until: int | None = None) -> Any:
    """A run of ``starter/image-agreement``, tiny."""
    tiny = [
        f"vars.autoencoder={base}", f"vars.text={base}", f"data.pack={pack}", f"data.cache={cache}", "data.pictures=12",
        f"data.{SHAPES}", *WHOLE, "job.tokens=12", "job.card.height=32", "job.card.width=32", "job.agreement.others=8",
        "trainer.steps=4", "trainer.batch_size=6", "schedule.warmup=1", f"output.folder={folder}", "trainer.device=cpu",
        "trainer.log_every=1", "trainer.init_from=null", "job.kept=0",
    ]  # fmt: skip
    read = load_recipe("starter/image-agreement", [*tiny, *changes], "ci", jobs=JOBS)
    return Trainer(read, JOBS.build(read)).run(until=until)


def test_a_whole_model_that_is_told_and_one_that_was_stopped_go_the_same_way(
    tmp_path: Path, base: Path, pack: Path, encoder: Path
) -> None:
    given = (base, pack, tmp_path / "cache", f"vars.encoder={encoder}")
    straight = whole(tmp_path / "straight", *given)
    whole(tmp_path / "parts", *given, until=2)
    parts = whole(tmp_path / "parts", *given)
    assert alike(straight, parts)
    lines = [json.loads(line) for line in (tmp_path / "straight" / "metrics.jsonl").read_text().splitlines()]
    assert any("agreed" in line for line in lines)
    alone = whole(tmp_path / "alone", base, pack, tmp_path / "cache", "job.agreement=null")
    assert not alike(straight, alone)
    # What told it is part of the run, and what follows from it begins with its weights.
    other = train(tmp_path / "other", base, pack, tmp_path / "cache", "trainer.seed=1").export
    with pytest.raises(ConfigError, match="another agreement"):
        whole(tmp_path / "straight", *given[:3], f"vars.encoder={other}", "trainer.steps=5")
    # The finished weights are the mean of what it began with and what it learned.
    begin = [f"vars.begin={straight.export}", "trainer.init_from=${begin}", "optimizer.lr=0.1"]
    ends = [whole(tmp_path / f"kept-{kept}", *given, *begin, f"job.kept={kept}").export for kept in (0.0, 0.25)]
    first, learned, mean = (
        load(folder / "transformer" / "diffusion_pytorch_model.safetensors") for folder in (straight.export, *ends)
    )
    for name, tensor in mean.items():
        expected = 0.25 * first[name].float() + 0.75 * learned[name].float()
        torch.testing.assert_close(tensor.float(), expected, rtol=0.1, atol=0.02)
    assert any(float((learned[name].float() - first[name].float()).abs().max()) > 0.2 for name in mean)
    with pytest.raises(ConfigError, match=r"job\.kept: there is nothing to keep"):
        whole(tmp_path / "none", *given, "job.kept=0.5")


def rewarded(folder: Path, base: Path, *changes: str) -> Any:
    """A run of ``starter/reward``, tiny."""
    prompts = folder.parent / "prompts.txt"
    prompts.write_text("".join(f"a {word} bird\n" for word in ("blue", "red", "green", "old", "big")))
    tiny = [
        f"vars.model={base}", f"data.prompts={prompts}", f"output.folder={folder}", "data.height=32", "data.width=32",
        "data.held_out=2", "trainer.steps=3", "trainer.device=cpu", "trainer.batch_size=2", "job.rank=2", "job.alpha=2",
        "job.steps=3", "job.check_steps=2", "job.check_every=3", "schedule.warmup=0", "job.sweep=[1.0]",
        "job.held_out=[contrast]", "job.floor=1000", "trainer.precision=fp32", "trainer.log_every=1",
    ]  # fmt: skip
    read = load_recipe("starter/reward", [*tiny, *changes], "ci", jobs=JOBS)
    return Trainer(read, JOBS.build(read)).run()


def test_an_adapter_is_told_beside_its_rewards(tmp_path: Path, base: Path, encoder: Path) -> None:
    told = f"job.agreement={{weights: {encoder}, others: 4, weight: 3}}"
    outcome = rewarded(tmp_path / "run", base, told)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(0 <= line["agreed"] <= 1 for line in lines if "agreed" in line) and any(
        "agreed" in line for line in lines
    )
    alone = rewarded(tmp_path / "alone", base)
    assert not alike(outcome, alone)
    with pytest.raises(ConfigError, match="train with method: gradient"):
        rewarded(tmp_path / "nft", base, told, "job.method=nft")


def test_the_gradient_of_an_agreement_is_added_to_that_of_the_rewards() -> None:
    torch.manual_seed(0)
    captions = torch.nn.functional.normalize(torch.randn(3, 8), dim=1)
    settings = OpinionSettings(weights="x", others=6, noise=0.0, weight=0.5)
    agreement = Agreement(LatentDualEncoder(SMALL), settings, captions, captions[:1], torch.arange(3))

    class Decoder:
        sampler, sigmas = SAMPLERS["euler"], torch.tensor([1.0, 0.5, 0.0])

        def decode(self, latents: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
            return latents[:, None, :3].sigmoid()

    choice = StepChoice.of(StepSettings(), [range(2)])
    given: Any = ({}, Decoder(), [Goal(Bright(), 1.0, 1.0)], choice, ["a", "b", "c"], (4, 8, 8))
    batch = {"prompt": torch.tensor([2, 0]), "sentence": torch.tensor([2, 0]), "wrong": torch.tensor([-1, 0])}
    z = torch.randn(2, 4, 8, 8).requires_grad_()
    plain, _ = RewardGradient(*given).gradient(z, batch, torch.Generator().manual_seed(1))
    both, scalars = RewardGradient(*given, agreement=agreement).gradient(z, batch, torch.Generator().manual_seed(1))
    loss, right = agreement.loss(z, batch, torch.Generator().manual_seed(1))
    (expected,) = torch.autograd.grad(0.5 * loss, z)
    assert torch.allclose(both - plain, expected, atol=1e-7) and float(scalars["agreed"]) == float(right)
