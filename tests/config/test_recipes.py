from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from frolic.config import Interval, Section, list_recipes, load_recipe
from frolic.config.recipe import parse_interval
from frolic.errors import ConfigError

BASE = """\
vars:
  width: 64
  side: ${width}
job: {kind: toy}
optimizer: {lr: 1e-3}
trainer:
  steps: 10
  batch_size: 4
output: {folder: "runs/${name}"}
environments:
  gpu:
    trainer: {batch_size: 32}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path


def child(base: Path, text: str) -> Path:
    path = base.with_name("child.yaml")
    path.write_text(f"extends: ./base.yaml\n{text}")
    return path


def refused(path: Path, *overrides: str, environment: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, overrides, environment)
    return str(caught.value)


def test_inheritance_overlay_overrides_and_variables_in_that_order(base: Path) -> None:
    path = child(base, "vars: {width: 96}\nmodel: {width: '${width}', name: 'w${side}', list: ['${width}']}\n")
    recipe = load_recipe(path, ["trainer.steps=2e1", "model.depth=[1, 2]"], "gpu")
    assert recipe.model == {"width": 96, "name": "w96", "list": [96], "depth": [1, 2]}
    assert (recipe.trainer.steps, recipe.trainer.batch_size) == (20, 32)
    assert recipe.output.folder == "runs/child"
    assert load_recipe(path, ["trainer.batch_size=8", "vars.width=5"], "gpu").model["name"] == "w5"
    assert load_recipe(path, ["trainer.batch_size=8"], "gpu").trainer.batch_size == 8
    assert load_recipe(path, [], None).trainer.batch_size == 4


def test_every_problem_is_named_with_its_place_and_the_nearest_key(base: Path) -> None:
    path = child(
        base,
        "optimiser: {lr: 1}\ntrainer:\n  batchsize: 4\n  precision: fp8\n  compile: no\n  clip: .nan\n"
        "optimizer: {groups: [{lrscale: 1}]}\nmodel: {a: '${widht}'}\n",
    )
    text = refused(path, "trainer.keap=1")
    for expected in (
        "child.yaml:2: unknown key 'optimiser', did you mean 'optimizer'?",
        "child.yaml:4: unknown key 'trainer.batchsize', did you mean 'batch_size'?",
        "child.yaml:5: 'trainer.precision'",
        "child.yaml:6: 'trainer.compile'",
        "child.yaml:7: 'trainer.clip'",
        "child.yaml:8: unknown key 'optimizer.groups.0.lrscale', did you mean 'lr_scale'?",
        "child.yaml:9: ${widht} is not declared in vars, did you mean 'width'?",
        "command line 'trainer.keap=1': unknown key 'trainer.keap', did you mean 'keep'?",
    ):
        assert expected in text


def test_overlays_that_are_not_used_are_checked_too(base: Path) -> None:
    path = child(base, "environments:\n  gpu:\n    trainer: {batchsize: 2}\n  tpu: {}\n")
    text = refused(path)
    assert "child.yaml:4: unknown key 'trainer.batchsize'" in text and "unknown environment 'tpu'" in text


def test_missing_keys_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("description: nothing\n")
    text = refused(path)
    assert all(f"{key!r} is required" in text for key in ("job", "optimizer", "trainer", "output"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vars: {a: '${b}', b: '${a}'}\nmodel: {x: '${a}'}", "circle: a -> b -> a"),
        ("model: {x: 'a ${width'}", "never closed"),
        ("vars: {a: [1]}\nmodel: {x: 'a ${a}'}", "not a single value"),
        ("trainer: {batch_size: 5, accumulation: 2}", "does not divide"),
        ("trainer: {checkpoint_every: 3 weeks}", "10m"),
        ("trainer: {init_step: 3}", "needs init_from"),
        ("trainer: 3", "'trainer'"),
    ],
)
def test_what_cannot_be_meant(base: Path, text: str, expected: str) -> None:
    assert expected in refused(child(base, text))


def test_no_value_comes_from_the_process_environment(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    assert "is not declared" in refused(child(base, "model: {x: '${SECRET}', y: '${oc.env:SECRET}'}"))
    assert load_recipe(child(base, "model: {x: '$${SECRET}'}"), [], None).model == {"x": "${SECRET}"}


def test_variables_cannot_explode(base: Path) -> None:
    lines = "".join(f"  v{n}: '${{v{n - 1}}}${{v{n - 1}}}'\n" for n in range(1, 40))
    assert "grows beyond" in refused(child(base, f"vars:\n  v0: xx\n{lines}model: {{x: '${{v39}}'}}\n"))
    lines = "".join(f"  v{n}: ['${{v{n - 1}}}', '${{v{n - 1}}}']\n" for n in range(1, 40))
    assert "expand to more" in refused(child(base, f"vars:\n  v0: xx\n{lines}model: {{x: '${{v39}}'}}\n"))


def test_circles_missing_files_and_bad_overrides(base: Path) -> None:
    loop = base.with_name("loop.yaml")
    loop.write_text("extends: loop.yaml\n")
    assert "extends itself" in refused(loop)
    assert "cannot be read" in refused(base.with_name("absent.yaml"))
    assert "not of the form" in refused(base, "trainer.steps")
    assert "unknown variable 'vars.widht', did you mean 'width'?" in refused(base, "vars.widht=3")
    assert "not the number of an item" in refused(
        child(base, "optimizer: {groups: [{}]}"), "optimizer.groups.4.lr_scale=1"
    )
    assert "no environment 'cpu'" in refused(base, environment="cpu")
    with pytest.raises(ConfigError, match="did you mean 'starter/image'"):
        load_recipe("starter/imag")
    with pytest.raises(ConfigError, match="No shipped recipe"):
        load_recipe("../../errors")


class ToySection(Section):
    gain: float = 1.0


class Jobs:
    def kinds(self) -> tuple[str, ...]:
        return ("toy",)

    def sections(self, kind: str) -> Mapping[str, type[Section]]:
        return {"job": ToySection, "data": ToySection}


def test_a_jobs_own_sections_are_checked_with_the_rest(base: Path) -> None:
    path = child(base, "job:\n  gian: 2\ndata: {gain: x}\ntrainer: {batch_size: 2, accumulation: 2}\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, [], None, Jobs())
    assert "child.yaml:3: unknown key 'job.gian', did you mean 'gain'?" in str(caught.value)
    assert "child.yaml:4: 'data.gain'" in str(caught.value)
    with pytest.raises(ConfigError, match=r"unknown job\.kind 'toi', did you mean 'toy'"):
        load_recipe(base, ["job.kind=toi"], None, Jobs())
    recipe = load_recipe(base, ["job.gain=2"], None, Jobs())
    assert recipe.section("job", ToySection).gain == 2


@pytest.mark.parametrize(
    ("text", "interval"),
    [(5, Interval(steps=5)), ("90s", Interval(seconds=90)), ("1.5m", Interval(seconds=90)), ("never", Interval())],
)
def test_intervals(text: object, interval: Interval) -> None:
    assert parse_interval(text) == interval == parse_interval(interval)
    assert parse_interval(int(str(interval)) if interval.steps else str(interval)) == interval


@pytest.mark.parametrize("environment", ["cpu", "gpu", "ci"])
def test_shipped_recipes_are_valid_everywhere(environment: str) -> None:
    recipes = list_recipes()
    assert {"starter/text", "starter/autoencoder", "starter/decoder", "starter/image"} <= set(recipes)
    for name, description in recipes.items():
        assert description.endswith(".")
        recipe = load_recipe(name, (), environment)
        assert recipe.output.folder == f"runs/{name}"
