"""How rewards are spelled."""

from __future__ import annotations

import pytest

from frolic.cli.lora_search import floor_shown
from frolic.cli.reward_score import labels
from frolic.errors import ConfigError, FileError
from frolic.rewards import RewardSpec, make_reward, make_rewards, names, parse_rewards
from frolic.rewards.spec import shown


@pytest.mark.parametrize(
    ("text", "name", "options", "weight"),
    [
        ("vivid", "vivid", {}, 1),
        ("vivid:0.5", "vivid", {}, 0.5),
        ("bright:-2e-1", "bright", {}, -0.2),
        ("sharp=C:\\x\\w.safetensors:.5", "sharp", {"weights": "C:\\x\\w.safetensors"}, 0.5),
        ("sharp=a=b.safetensors", "sharp", {"weights": "a=b.safetensors"}, 1),
        ("python:mod.sub:func", "python:mod.sub:func", {}, 1),
        ("python:mod:func:2", "python:mod:func", {}, 2),
        ("python:C:\\x\\scorer.py:score:0.5", "python:C:\\x\\scorer.py:score", {}, 0.5),
        ("http://host/x", "http://host/x", {}, 1),
        ("http://host/x:0.5", "http://host/x", {}, 0.5),
        ("http://host:8000", "http://host:8000", {}, 1),
        ("http://host:8000/:3", "http://host:8000/", {}, 3),
        ("https://[::1]:80/x?a=b:2", "https://[::1]:80/x?a=b", {}, 2),
    ],
)
def test_spellings(text: str, name: str, options: dict[str, str], weight: float) -> None:
    (found,) = parse_rewards([text])
    assert (found.spec, found.weight, found.text) == (RewardSpec(name, options), weight, shown(text))


def test_everything_that_is_wrong_is_told_at_once() -> None:
    texts = ["vived", "bright:0", "sharp:nan", "=x", "loop=", "python:x", "http://", "steady", "steady:2", "nonsense"]
    with pytest.raises(ConfigError) as caught:
        parse_rewards(texts)
    said = str(caught.value)
    for part in (
        "no reward 'vived', did you mean 'vivid'?",
        "'bright:0' counts with 0",
        "'sharp:nan' counts with nan",
        "'=x' names no reward",
        "'loop=' names no file after =",
        "'python:x' is not python:MODULE:FUNCTION",
        "'http://' is no address: it names no host",
        "steady is given twice",
        "no reward 'nonsense'",
    ):
        assert part in said
    with pytest.raises(ConfigError, match="there is none; there are vivid"):
        parse_rewards([])


def test_one_reward_with_two_files_is_two_rewards() -> None:
    assert len(parse_rewards(["sharp=a.safetensors", "sharp=b.safetensors"])) == 2


def test_all_that_cannot_be_made_is_told_at_once() -> None:
    wanted = parse_rewards(["vivid", "python:frolic_is_no_module:f", "python:none.py:f"])
    with pytest.raises(ConfigError, match=r"no module frolic_is_no_module(.|\n)*no file none.py"):
        make_rewards(wanted)
    with pytest.raises(FileError, match=r"none.py"):
        make_rewards(wanted[2:])
    assert [each.name for each in make_rewards(parse_rewards(["vivid", "loop:2"]))] == ["vivid", "loop"]


def test_a_reward_s_own_options_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"'vivid' cannot be made so"):
        make_rewards(parse_rewards(["vivid=w.safetensors"]))
    # A mistake of ours inside one is not the user's.
    monkeypatch.setattr("frolic.rewards.looks.Vivid.__init__", lambda self: len(3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="len"):
        make_reward("vivid")
    with pytest.raises(ConfigError, match=r"no reward 'none'.*python:MODULE:FUNCTION"):
        make_reward("none")


def test_every_formula_has_its_name() -> None:
    for name in set(names()) & {"vivid", "contrast", "sharp", "bright", "lively", "smooth", "loop", "steady"}:
        assert make_reward(name).name == name


def test_what_follows_a_question_mark_is_never_shown() -> None:
    address = "https://host:8000/score?key=SECRET&x=1"
    one, other = parse_rewards([f"{address}:0.5", "https://host:8000/score?key=OTHER"])
    assert one.spec.name == address and one.text == "https://host:8000/score:0.5" and one.weight == 0.5
    assert shown("python:a.py:f") == "python:a.py:f" and shown("vivid:0.5") == "vivid:0.5"
    with pytest.raises(ConfigError) as error:
        parse_rewards([f"{address}:0"])
    assert "SECRET" not in str(error.value) and "https://host:8000/score" in str(error.value)
    # Columns of two that differ in nothing that is shown.
    made = make_rewards([one, other])
    assert labels(made, [one, other]) == ["https://host:8000/score:0.5", "https://host:8000/score"]
    assert labels(made, [other, other]) == ["https://host:8000/score #1", "https://host:8000/score #2"]
    assert floor_shown(f"{address}:plain-5%") == "https://host:8000/score:plain-5%"
