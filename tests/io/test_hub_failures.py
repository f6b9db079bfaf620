"""What the Hub, the disk or another process can do to a download, and what must not come of it."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fake_hub import FakeHub, prepare
from frolic.errors import CheckpointError, FileError, ModelNotFoundError, NetworkError, UnsafeFileError
from frolic.io import hub, transfer
from frolic.io.cache import cached
from frolic.io.hub_names import HubName, cache_folder
from frolic.io.verify import verify

REPO = "acme/sketch"
INDEX = b'{"_class_name": "SanaPipeline", "transformer": ["diffusers", "T"], "vae": ["diffusers", "V"]}'
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
HALF = "transformer/diffusion_pytorch_model.fp16.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
FILES = {
    "model_index.json": INDEX,
    "README.md": b"",
    "transformer/config.json": b'{"a": 1}',
    "vae/config.json": b'{"b": 1}',
    WEIGHTS: bytes(range(256)) * 4000,
    HALF: bytes(range(255, -1, -1)) * 200,
    VAE: b"v" * 5000,
}
NAME = HubName(REPO)


@pytest.fixture
def web(server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    prepare(server, tmp_path / "hub", monkeypatch)
    server.publish(REPO, FILES)
    return server


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks that anyone gets at any time."""
    library = transfer._library()

    class Library:
        def __getattr__(self, name: str) -> Any:
            return (lambda path: contextlib.nullcontext()) if name == "WeakFileLock" else getattr(library, name)

    monkeypatch.setattr(transfer, "_library", Library)
    monkeypatch.setattr(transfer, "_QUIET", 0.1)


def spoil(file: Path) -> None:
    file.resolve().write_bytes(b"x" * file.stat().st_size)


def test_two_at_once_without_locks(web: FakeHub, no_locks: None) -> None:
    both = threading.Barrier(2)

    def wait(done: int, total: int, path: str) -> None:
        if path == WEIGHTS and done < total:
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(0.05)

    with ThreadPoolExecutor(2) as pool:
        got = [one.result() for one in [pool.submit(hub.pull, NAME, progress=wait) for _ in range(2)]]
    assert got[0].path == got[1].path and verify(got[0].path).problems == ()
    assert (got[0].path / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert not list(cache_folder().rglob("*.incomplete"))


def test_what_another_process_writes_is_seen(web: FakeHub) -> None:
    """It is the file that is checked, and not what came over the network."""

    def meddle(done: int, total: int, path: str) -> None:
        for claim in NAME.folder().rglob("*.incomplete"):
            if path == WEIGHTS and web.downloads().count(WEIGHTS) == 1:
                with claim.open("ab") as file:
                    file.write(b"more" * 500_000)

    assert (hub.pull(NAME, progress=meddle).path / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert web.downloads().count(WEIGHTS) == 2


def test_what_a_killed_process_had_is_used(web: FakeHub) -> None:
    got = hub.pull(NAME)
    blob = (got.path / WEIGHTS).resolve()
    claim = blob.rename(blob.with_name(f"{blob.name}.0123.incomplete"))
    os.truncate(claim, 1_000_000)
    os.utime(claim, (0, 0))
    left = len(FILES[WEIGHTS]) - 1_000_000
    assert hub.offer(NAME).to_fetch == left and hub.pull(NAME).fetched == left
    assert not list(cache_folder().rglob("*.incomplete"))


def test_what_another_process_still_writes_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = tmp_path / f"blob.{'0' * 16}.incomplete"
    claim.write_bytes(b"1")

    def write(seconds: float) -> None:
        os.utime(claim)

    monkeypatch.setattr(transfer.time, "sleep", write)
    with transfer._claimed(tmp_path / "blob") as ours:
        assert not ours.exists()
    assert claim.exists()


def test_many_link_one_file_at_once(tmp_path: Path) -> None:
    blob, target = tmp_path / "blobs" / "x", tmp_path / "snapshot" / "file"
    blob.parent.mkdir()
    target.parent.mkdir()
    blob.write_bytes(b"1")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: transfer._link(blob, target, True), range(200)))
    assert blob.is_file() and target.samefile(blob) and list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("code", [errno.EEXIST, errno.EIO, errno.EPERM])
def test_a_file_that_another_snapshot_uses_stays(web: FakeHub, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    first = hub.pull(NAME)
    web.publish(REPO, {**FILES, "vae/config.json": b"{}"})

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(code, "no links")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    if code == errno.EPERM:  # The system has no links: the file is there twice.
        second = hub.pull(NAME)
        assert (second.path / WEIGHTS).read_bytes() == FILES[WEIGHTS] and not (second.path / WEIGHTS).is_symlink()
    else:
        with pytest.raises(FileError):
            hub.pull(NAME)
    assert verify(first.path).problems == ()


@pytest.mark.parametrize(
    "path",
    ["../config.json", "../model.safetensors", "vae/../../config.json", "/config.json", "..\\a.json", "C:/x"],
)
def test_paths_that_would_leave_the_cache_are_refused(web: FakeHub, tmp_path: Path, path: str) -> None:
    web.publish("acme/evil", {**FILES, path: b"x"})
    with pytest.raises(UnsafeFileError, match="outside its folder"):
        hub.pull(HubName("acme/evil"))
    assert web.downloads() == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sha", ["../../../../escaped", None, "main", "a" * 39, "A" * 40, "a" * 40 + "\n"])
def test_a_commit_that_is_none_is_refused(web: FakeHub, tmp_path: Path, sha: object) -> None:
    web.sha = sha
    with pytest.raises(NetworkError, match="gives no commit"):
        hub.pull(NAME)
    assert web.downloads() == [] and list(tmp_path.iterdir()) == []


def test_a_pipeline_that_frolic_cannot_draw_with_is_refused_by_its_index(web: FakeHub) -> None:
    told: list[str] = []
    web.publish("acme/flux", {**FILES, "model_index.json": INDEX.replace(b"Sana", b"Flux")})
    with pytest.raises(CheckpointError, match="is the pipeline 'FluxPipeline', which frolic does not know"):
        hub.resolve("acme/flux", classes=["SanaPipeline"], notify=told.append)
    assert web.downloads() == ["model_index.json"] and told == []
    assert hub.resolve("acme/flux", components=["vae"], classes=["SanaPipeline"]) is not None
    web.publish("acme/half", {**FILES, "model_index.json": INDEX[:-1] + b', "text_encoder": ["t", "G"]}'})
    web.requests.clear()
    with pytest.raises(ModelNotFoundError, match=r"lacks on the Hub .*text_encoder/config\.json"):
        hub.pull(HubName("acme/half"))
    assert web.downloads() == ["model_index.json"]


def test_a_variant_that_was_asked_for_is_fetched_beside_the_other(web: FakeHub, tmp_path: Path) -> None:
    web.publish(REPO, {**FILES, "vae/diffusion_pytorch_model.fp16.safetensors": b"h" * 5000})
    path = hub.resolve(REPO)
    assert path is not None and not (path / HALF).exists()
    assert cached(NAME, variant="fp16") is None and cached(NAME, variant="") is not None
    assert hub.resolve(REPO, variant="fp16") == path and (path / HALF).is_file() and (path / WEIGHTS).is_file()
    web.requests.clear()
    assert hub.resolve(REPO, variant="fp16") == hub.resolve(REPO, variant="") == path and web.requests == []


def test_a_repair_keeps_the_variants_that_are_here(web: FakeHub) -> None:
    got = hub.pull(NAME, variant="fp16")
    before = sorted(path.relative_to(got.path) for path in got.path.rglob("*"))
    spoil(got.path / HALF)
    (got.path / VAE).resolve().unlink()
    (got.path / "transformer/config.json").unlink()
    web.requests.clear()
    hub.repair(HubName(REPO, got.name.commit), verify(got.path))
    # What is gone from the snapshot but still among the blobs is only linked again.
    assert sorted(web.downloads()) == [HALF, VAE]
    assert sorted(path.relative_to(got.path) for path in got.path.rglob("*")) == before
    assert verify(got.path).problems == ()


def test_a_repair_without_a_network_deletes_nothing(web: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    got = hub.pull(NAME)
    spoil(got.path / VAE)
    name, found = HubName(REPO, got.name.commit), verify(got.path)
    with monkeypatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(NetworkError, match=r"is on this machine, .* \(HF_HUB_OFFLINE is set\)"):
            hub.repair(name, found)
    web.spoil[VAE] = 2
    with pytest.raises(NetworkError, match="damaged twice"):
        hub.repair(name, found)
    assert (got.path / VAE).read_bytes() == b"x" * 5000


def test_a_variable_that_says_no_is_not_blamed(web: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROLIC_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(NetworkError, match=r"not wholly on this machine and .* \(FROLIC_OFFLINE is set\)"):
        hub.pull(NAME)


def test_a_part_does_not_take_the_name_from_a_whole_model(web: FakeHub) -> None:
    whole = hub.pull(NAME)
    web.publish(REPO, {**FILES, "vae/config.json": b"{}"})
    part = hub.pull(NAME, components=["vae"])
    here = cached(NAME)
    assert here is not None and here.path == whole.path != part.path


def test_a_revision_below_another(web: FakeHub) -> None:
    commit = web.repos[REPO]["main"]
    web.repos[REPO].update({"a": commit, "a/b": commit, "c": commit, "c/d": commit})
    hub.pull(HubName(REPO, "a"))
    hub.pull(HubName(REPO, "c/d"))
    for revision in ("a/b", "c"):
        with pytest.raises(FileError, match=f"begins like '{revision}'"):
            hub.pull(HubName(REPO, revision))
    assert hub.resolve(f"{REPO}@{commit}") is not None


def test_our_own_mistakes_are_not_the_networks(web: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*arguments: object, **options: object) -> None:
        raise TypeError("wrong arguments")

    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.HfApi.model_info", mistaken)
        with pytest.raises(TypeError, match="wrong arguments"):
            hub.offer(NAME)
    with pytest.raises(TypeError, match="wrong arguments"):
        hub.pull(NAME, progress=mistaken)


def test_names_that_no_file_can_have(web: FakeHub) -> None:
    with pytest.raises(ModelNotFoundError, match="longer than 255"):
        hub.resolve(f"{REPO}@" + "a" * 5000)
    assert hub.resolve("a" * 5000) is None
