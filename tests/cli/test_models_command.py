from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from fake_hub import FakeHub, prepare
from frolic.cli import models
from frolic.io import hub
from frolic.io.cache import cached
from frolic.io.hub_names import HubName, cache_folder
from frolic.spec import Published

Command = Callable[..., Any]
REPO = "acme/tiny"


@pytest.fixture
def web(server: FakeHub, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """The Hub with the tiny model, known by the short name ``tiny-64``."""
    prepare(server, tmp_path / "hub", monkeypatch)
    server.publish_folder(REPO, tiny_folder)
    dtypes = MappingProxyType({"transformer": ("bfloat16", "float32")})
    entry = Published("tiny-64", REPO, "", None, 64, dtypes, variant="fp16", license="Apache-2.0")
    monkeypatch.setattr(models, "_published", lambda: (entry,))
    return server


def rows(command: Command, *options: str) -> dict[str, dict[str, Any]]:
    listed = json.loads(command("models", "list", "--json", *options).out)["models"]
    return {row["name"] or row["repo"]: row for row in listed}


def test_pull_list_verify_and_rm(command: Command, web: FakeHub) -> None:
    assert rows(command)["tiny-64"]["state"] == "absent"
    got = command("models", "pull", "tiny-64")
    assert got.code == 0 and "to download" in got.err and f"{REPO} is in " in got.out
    row = rows(command)["tiny-64"]
    assert row["state"] == "whole" and row["commit"] == web.repos[REPO]["main"] and row["size"] > 10_000
    shown = command("models", "list").out
    assert "tiny-64" in shown and "here" in shown and "starter" in shown
    assert "as they were published" in command("models", "verify", "tiny-64").out
    deleted = command("models", "rm", "tiny-64", "--yes", "--json")
    assert json.loads(deleted.out) == {"name": REPO, "freed": row["size"]}
    assert rows(command)["tiny-64"]["state"] == "absent"
    assert command("models", "rm", "tiny-64", "--yes").code == 3


def test_pull_as_json_lines(command: Command, web: FakeHub) -> None:
    lines = [json.loads(line) for line in command("models", "pull", REPO, "--json").out.splitlines()]
    assert {line["event"] for line in lines} == {"download", "downloading", "done"}
    assert lines[-1]["commit"] == web.repos[REPO]["main"] and Path(lines[-1]["path"]).is_dir()
    assert lines[-2]["done"] == lines[-2]["total"] == lines[-1]["fetched"]


def test_a_dry_run_fetches_nothing(command: Command, web: FakeHub) -> None:
    facts = json.loads(command("models", "pull", REPO, "--dry-run", "--json").out)
    assert facts["to_fetch"] == facts["size"] == sum(file["size"] for file in facts["files"])
    assert facts["license"] == "apache-2.0" and web.downloads() == [] and not cache_folder().exists()
    shown = command("models", "pull", REPO, "--dry-run").out
    assert "transformer/diffusion_pytorch_model.safetensors" in shown and "to download" in shown


def test_a_variant_that_is_not_there_is_refused(command: Command, web: FakeHub) -> None:
    ran = command("models", "pull", REPO, "--variant", "fp8")
    assert ran.code == 2 and "has no 'fp8' files; give plain" in ran.err and web.downloads() == []
    assert command("models", "pull", REPO, "--variant", "plain", "--dry-run").code == 0


def test_info(command: Command, web: FakeHub) -> None:
    before = json.loads(command("models", "info", "tiny-64", "--json").out)
    assert before["here"].startswith("no; `frolic models pull") and before["license"] == "Apache-2.0"
    command("models", "pull", REPO)
    facts = json.loads(command("models", "info", "tiny-64", "--json").out)
    assert facts["commit"] == web.repos[REPO]["main"] and facts["safe_dtypes"]["transformer"] == ["bfloat16", "float32"]
    assert set(facts["components"]) == {"transformer", "vae", "text_encoder"}
    assert all(part["dtype"] == "float32" and part["parameters"] > 100 for part in facts["components"].values())
    shown = command("models", "info", REPO).out
    assert "transformer: bfloat16, float32" in shown and "parameters, float32," in shown
    assert command("models", "info", "starter").code == 0


def test_verify_and_repair(command: Command, web: FakeHub) -> None:
    command("models", "pull", REPO)
    here = cached(HubName(REPO))
    assert here is not None
    file = next((here.path / "vae").glob("*.safetensors"))
    file.resolve().write_bytes(b"x")
    ran = command("models", "verify", REPO)
    assert ran.code == 3 and "is not the file that was published" in ran.err and "verify --repair" in ran.err
    ran = command("models", "verify", REPO, "--json")
    assert ran.code == 3 and len(json.loads(ran.out)["problems"]) == 1
    web.publish(REPO, {"model_index.json": b"{}"})  # another commit by now: the old one is what is repaired
    web.requests.clear()
    assert command("models", "verify", REPO, "--repair").code == 0
    assert web.downloads() == [file.relative_to(here.path).as_posix()]


def test_a_folder_cannot_be_repaired(command: Command, own_folder: Path) -> None:
    for name in (own_folder, "starter"):
        ran = command("models", "verify", name, "--repair")
        assert ran.code == 2 and "leave out --repair" in ran.err


def test_verify_of_a_part(command: Command, web: FakeHub) -> None:
    hub.pull(HubName(REPO), components=["vae"])
    assert rows(command)["tiny-64"]["state"] == "partial"
    ran = command("models", "verify", REPO)
    assert ran.code == 3 and "is here only in part" in ran.err and "as it was published" not in ran.err
    assert command("models", "verify", REPO, "--repair").code == 0


def test_names_that_no_file_can_have(command: Command, web: FakeHub) -> None:
    for verb in ("pull", "info", "verify", "rm"):
        ran = command("models", verb, "tiny-64@" + "a" * 5000)
        assert ran.code == 3 and "longer than 255" in ran.err


def test_help_shows_how_a_revision_is_given(command: Command) -> None:
    for verb in ("pull", "info", "verify", "rm"):
        assert "@revision" in command("models", verb, "--help").out


def test_rm_asks_and_never_deletes_a_folder(command: Command, web: FakeHub, own_folder: Path) -> None:
    command("models", "pull", REPO)
    assert command("models", "rm", REPO, "--json").code == 2
    ran = command("models", "rm", own_folder, "--yes")
    assert ran.code == 2 and "is not from the Hub" in ran.err and own_folder.is_dir()
    assert command("models", "rm", "starter", "--yes").code == 2
    assert cached(HubName(REPO)) is not None


def test_unknown_names(command: Command, web: FakeHub) -> None:
    assert "did you mean 'tiny-64'?" in command("models", "pull", "tiny-65").err
    assert command("models", "info", "acme/gone").code == 3
    assert command("models", "pull", "acme/go ne").code == 3


def test_offline(command: Command, web: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROLIC_OFFLINE", "1")
    ran = command("models", "pull", REPO)
    assert ran.code == 5 and f"frolic models pull {REPO}" in ran.err and web.requests == []
    monkeypatch.delenv("FROLIC_OFFLINE")
    command("models", "pull", REPO)
    monkeypatch.setenv("FROLIC_OFFLINE", "1")
    web.requests.clear()
    ran = command("models", "pull", REPO)
    assert ran.code == 0 and f"{REPO} is in " in ran.out and web.requests == []
    ran = command("models", "pull", REPO, "--variant", "fp16")
    assert ran.code == 5 and "is on this machine, and the Hub cannot be asked for more" in ran.err


def test_what_other_programs_keep_in_the_cache(command: Command, web: FakeHub) -> None:
    web.publish("acme/other", {"config.json": b"{}", "model.safetensors": b"x" * 9})
    command("models", "pull", "acme/other")
    assert "acme/other" not in rows(command) and rows(command, "--all")["acme/other"]["state"] == "whole"
