from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from torch import Tensor
from typer.testing import CliRunner

from frolic.cli import evaluate as command
from frolic.data.starter.concepts import Concept
from frolic.errors import CheckpointError, FileError, RequestError
from frolic.eval.classifier import ClassifierNet, shrink
from frolic.eval.judge import FILES, Judge, crop
from frolic.eval.layouts import Cuts
from frolic.eval.scoring import score
from frolic.eval.stored import packed, unpacked
from frolic.eval.suites import Case
from frolic.eval.train_judge import PARTS, rows_of, train_classifier, train_detector, train_judge
from frolic.eval.training import Recipe
from frolic.eval.truth import ceilings, picture


def test_learns_shapes_and_colours_and_says_so(shape_judge: Judge) -> None:
    facts = shape_judge.facts
    assert facts["ceilings"]["single"]["accuracy"] >= 0.8
    assert facts["ceilings"]["single"]["n"] == 6
    assert shape_judge.codes == tuple(f"c{i}" for i in range(6))
    assert facts["training"]["classifier"]["steps"] == 90


def on_white(shapes: Tensor) -> Tensor:
    alpha = shapes[:, 3:].float() / 255
    flat = (shapes[:, :3].float() / 255 * alpha + 1 - alpha) * 2 - 1
    return torch.nn.functional.interpolate(torch.nn.functional.pad(flat, [20] * 4, value=1.0), 128)


def test_sights_of_plain_pictures(shape_judge: Judge, shapes: Tensor) -> None:
    sights = shape_judge.look(on_white(shapes))
    assert [shape_judge.best(sight.whole.chances, 1)[0] for sight in sights] == [f"c{i}" for i in range(6)]
    assert {sight.ground for sight in sights} == {"white"}
    assert all(len(shape_judge.best(sight.whole.chances)) == 5 for sight in sights)


def test_true_pictures_are_accepted_and_wrong_ones_are_not(
    shape_judge: Judge, shapes: Tensor, shape_concepts: list[Concept]
) -> None:
    cuts, by_code = Cuts(shapes), {concept.code: concept for concept in shape_concepts}
    cases = [Case("single", f"a {concept.noun}", (concept.code,)) for concept in shape_concepts]
    x = torch.stack([picture(case, cuts, by_code, 100 + k) for k, case in enumerate(cases)])
    sights = shape_judge.look(x)
    true = sum(score(case, sight, shape_judge)["correct"] for case, sight in zip(cases, sights, strict=True))
    wrong = sum(
        score(case, sight, shape_judge)["correct"]
        for case, sight in zip(cases, [*sights[3:], *sights[:3]], strict=True)
    )
    assert true >= 5 and wrong <= 1
    noise = torch.rand(6, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    accepted = [
        score(case, sight, shape_judge)["correct"] for case, sight in zip(cases, shape_judge.look(noise), strict=True)
    ]
    assert sum(accepted) <= 2


def test_ceilings_are_repeatable(shape_judge: Judge, shapes: Tensor, shape_concepts: list[Concept]) -> None:
    first, again = (ceilings(shape_judge, Cuts(shapes), shape_concepts, 3, ("single",)) for _ in range(2))
    assert first == again and first["single"]["n"] == 3


def test_a_sight_does_not_depend_on_batch_mates(shape_judge: Judge) -> None:
    x = torch.rand(4, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    together, alone = shape_judge.look(x), [shape_judge.look(row)[0] for row in x.split(1)]
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one.whole.chances, other.whole.chances, atol=1e-3)
        assert len(one.things) == len(other.things)


def test_a_crop_is_a_square_around_the_box() -> None:
    x = torch.zeros(3, 100, 200)
    x[:, 40:60, 100:140] = 1
    square = crop(x, (0.5, 0.4, 0.7, 0.6), margin=1.0)
    assert square.shape == (1, 3, 64, 64)
    assert square[0, 0, 32].min() > 0.9 and square[0, 0, :8].max() < 0.1
    outside = crop(x + 1, (-0.5, -0.5, 0.1, 0.1))
    assert torch.allclose(outside, torch.ones(1, 3, 64, 64), atol=1e-5), "the rim goes on"


def test_a_stopped_training_goes_on_as_if_it_had_not_been(
    shapes: Tensor, shape_concepts: list[Concept], tmp_path: Path
) -> None:
    cuts, rows = Cuts(shapes), rows_of(shape_concepts, 6)
    before = torch.get_rng_state()
    for train, recipe in (
        (train_classifier, Recipe(steps=4, batch=6, rate=1e-3)),
        (train_detector, Recipe(steps=3, batch=4, rate=1e-3)),
    ):
        whole = train(cuts, rows, recipe)
        state = tmp_path / "state"
        stops = 0
        while (parts := train(cuts, rows, recipe, state, 0.0)) is None:
            stops += 1
        assert stops == recipe.steps - 1
        assert whole is not None
        pairs = zip(whole.state_dict().values(), parts.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        state.unlink()
    assert torch.equal(before, torch.get_rng_state())


def test_the_whole_training_goes_on_where_it_stopped(shape_pack: Path, tmp_path: Path) -> None:
    recipes = {name: Recipe(steps=2, batch=6, rate=1e-3) for name in PARTS}
    whole = train_judge(shape_pack, tmp_path / "whole", recipes=recipes, limit=2)
    calls = [train_judge(shape_pack, tmp_path / "parts", recipes=recipes, seconds=0.0, limit=2) for _ in range(5)]
    assert calls[:4] == [None] * 4 and calls[4] == whole
    for name in FILES:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    assert len(list((tmp_path / "parts").iterdir())) == 3


def test_what_is_finished_must_have_been_begun(shape_pack: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="Train the judge again"):
        train_judge(shape_pack, tmp_path, ("finish",))


def test_a_state_of_other_settings_is_refused(shapes: Tensor, shape_concepts: list[Concept], tmp_path: Path) -> None:
    cuts, rows = Cuts(shapes), rows_of(shape_concepts, 6)
    assert train_detector(cuts, rows, Recipe(steps=3, batch=4, rate=1e-3), tmp_path / "state", 0.0) is None
    with pytest.raises(FileError, match="other settings"):
        train_detector(cuts, rows, Recipe(steps=4, batch=4, rate=1e-3), tmp_path / "state", 0.0)


def test_every_picture_of_a_concept_is_of_its_class() -> None:
    concept = Concept("c0", "cat", "g", ("a cat",), noun="cat", colour="red", row=0, styles={"flat": 2, "noto": 3})
    other = Concept("clip-1", "red hat", "g", ("a red hat",), noun="red hat", colour="red", row=1)
    rows = rows_of([concept, other], 5)
    assert rows.concept.tolist() == [0, 1, 0, 0, -100]
    assert rows.style.tolist() == [0, 3, 1, 2, -100]
    assert rows.dyeable.tolist() == [True, False, False, False, False], "a thing named by its colour keeps it"


def test_any_size_is_brought_to_the_judges_own() -> None:
    for height, width in ((64, 64), (128, 128), (100, 160)):
        assert shrink(torch.zeros(1, 3, height, width)).shape == (1, 3, 64, 64)


def test_bad_folders_and_recipes(judge_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="train-judge"):
        Judge.load(tmp_path)
    for name in ("classifier.safetensors", "detector.safetensors"):
        (tmp_path / name).write_bytes((judge_folder / name).read_bytes())
    facts = json.loads((judge_folder / "judge.json").read_text())
    for wrong in (
        {**facts, "concepts": facts["concepts"][1:]},
        {**facts, "format": 1},
        {"format": 3},
        {**facts, "concepts": [{"codes": "c"}] * 6},
    ):
        (tmp_path / "judge.json").write_text(json.dumps(wrong))
        with pytest.raises(CheckpointError, match="train-judge"):
            Judge.load(tmp_path)
    (tmp_path / "judge.json").write_text(json.dumps(facts))
    (tmp_path / "detector.safetensors").write_bytes((judge_folder / "detector.safetensors").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="train-judge"):
        Judge.load(tmp_path)
    with pytest.raises(RequestError, match="at least one step"):
        Recipe(steps=0, batch=2, rate=1e-3)


def test_a_judge_is_replaced_only_when_told_to(judge_folder: Path, shape_pack: Path) -> None:
    before = (judge_folder / "judge.json").read_bytes()
    with pytest.raises(FileError, match="--force"):
        train_judge(shape_pack, judge_folder)
    assert (judge_folder / "judge.json").read_bytes() == before


def test_the_command_trains_in_parts_and_reports(shape_pack: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    command.register(app)

    def invoke(*arguments: object) -> dict[str, object]:
        common = ["--data", shape_pack, "--out", tmp_path / "new", "--steps", 2, "--limit", 2, "--json"]
        result = CliRunner().invoke(app, ["eval", "train-judge", *map(str, [*common, *arguments])])
        assert result.exit_code == 0, result.output
        return dict(json.loads(result.stdout.splitlines()[-1]))

    assert invoke("--part", "classifier") == {"finished": False}
    assert invoke("--part", "finish") == {"finished": False}
    assert invoke("--part", "style") == {"finished": False}
    last = invoke("--part", "detector")
    assert last["ceilings"] == Judge.load(tmp_path / "new").facts["ceilings"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "classifier.safetensors",
        "detector.safetensors",
        "judge.json",
    ]


def test_weights_are_kept_in_eight_bits_with_a_scale_for_each_output() -> None:
    torch.manual_seed(0)
    net = ClassifierNet(6)
    with torch.no_grad():
        net.concept.weight[0] *= 100  # one loud output must not cost the others their precision
    state = net.state_dict()
    kept = packed(state)
    back = unpacked(kept)
    assert back.keys() == state.keys() and {value.dtype for value in back.values() if value.ndim > 1} == {torch.float32}
    for name, value in state.items():
        if kept[name].dtype == torch.int8:
            rows, off = value.flatten(1), (back[name] - value).flatten(1)
            assert bool((off.abs().amax(dim=1) <= rows.abs().amax(dim=1) / 253).all()), name
    again = packed(back)
    assert all(torch.equal(kept[name], again[name]) for name in kept), "what was rounded stays as it is"
    size = sum(value.numel() * value.element_size() for value in kept.values())
    assert size < 0.3 * sum(value.numel() * 4 for value in state.values())
    scaled = next(name for name in kept if name.endswith(".scale"))
    for wrong in ({scaled: kept[scaled]}, {**kept, scaled: kept[scaled][:-1]}):
        with pytest.raises(ValueError):
            unpacked(wrong)


def test_size_of_the_net() -> None:
    assert sum(parameter.numel() for parameter in ClassifierNet(1650).parameters()) <= 1_450_000
