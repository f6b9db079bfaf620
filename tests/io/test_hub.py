"""Models from the Hub: fetched from a small one on the loopback interface, whole and checked, or refused clearly."""

from __future__ import annotations

import errno
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import pytest

from fake_hub import FakeHub, prepare
from frolic.errors import AccessError, FileError, ModelNotFoundError, NetworkError, ResourceError
from frolic.io import hub, transfer
from frolic.io.cache import cached, listing, origin, remove
from frolic.io.hub_names import HubName, cache_folder
from frolic.io.verify import verify
from frolic.spec import Published

REPO = "acme/sketch"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
INDEX = b'{"_class_name": "SanaPipeline", "transformer": ["diffusers", "T"], "scheduler": ["diffusers", "S"]}'
FILES = {
    "model_index.json": INDEX,
    "README.md": b"---\nlicense: apache-2.0\n---\n",
    "scheduler/scheduler_config.json": b"{}",
    "transformer/config.json": b'{"a": 1}',
    WEIGHTS: bytes(range(256)) * 400,
    "transformer/diffusion_pytorch_model.fp16.safetensors": bytes(range(255, -1, -1)) * 200,
    "transformer/diffusion_pytorch_model.bin": b"\x80\x04 a pickle",
    "sample.png": b"not needed",
}
NAME = HubName(REPO)


@pytest.fixture
def web(server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """The Hub with one repository, and an empty cache on this side."""
    prepare(server, tmp_path / "hub", monkeypatch)
    server.publish(REPO, FILES)
    return server


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a socket was opened")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_a_pull_brings_what_is_needed_and_no_pickle(web: FakeHub) -> None:
    told: list[str] = []
    seen: list[tuple[int, int, str]] = []
    got = hub.pull(NAME, notify=told.append, progress=lambda *step: seen.append(step))
    here = {path.relative_to(got.path).as_posix() for path in got.path.rglob("*") if path.is_file()}
    unwanted = {"sample.png", "transformer/diffusion_pytorch_model.bin"}
    assert here == {*FILES} - unwanted - {"transformer/diffusion_pytorch_model.fp16.safetensors"}
    assert all((got.path / path).read_bytes() == FILES[path] for path in here)
    size = sum(len(FILES[path]) for path in here)
    assert got.fetched == size and seen[-1][:2] == (size, size) and [s[0] for s in seen] == sorted(s[0] for s in seen)
    assert len(told) == 1 and "5 files, 103 kB to download" in told[0]
    assert got.name.commit == web.repos[REPO]["main"] == (cache_folder() / "models--acme--sketch/refs/main").read_text()


def test_the_library_reads_what_was_pulled(web: FakeHub) -> None:
    from huggingface_hub import scan_cache_dir, try_to_load_from_cache

    got = hub.pull(NAME)
    assert try_to_load_from_cache(REPO, WEIGHTS, cache_dir=cache_folder()) == str(got.path / WEIGHTS)
    scanned = scan_cache_dir(cache_folder())
    assert not scanned.warnings and {repo.repo_id for repo in scanned.repos} == {REPO}


def test_a_second_pull_moves_nothing_and_an_update_only_what_changed(web: FakeHub) -> None:
    hub.pull(NAME)
    told: list[str] = []
    assert hub.pull(NAME, notify=told.append).fetched == 0 and "all here already" in told[0]
    commit = web.publish(REPO, {**FILES, "transformer/config.json": b'{"a": 22}'})
    got = hub.pull(NAME)
    assert got.fetched == 9 and got.name.commit == commit and (got.path / WEIGHTS).read_bytes() == FILES[WEIGHTS]


def test_the_preferred_variant_comes_instead_of_the_plain_one(web: FakeHub) -> None:
    got = hub.pull(NAME, variant="fp16")
    assert [p.name for p in (got.path / "transformer").glob("*.safetensors")] == [
        "diffusion_pytorch_model.fp16.safetensors"
    ]
    told: list[str] = []
    got = hub.pull(NAME, variant="bf16", notify=told.append)
    assert (got.path / WEIGHTS).is_file() and "no bf16" in told[0]


def test_components(web: FakeHub) -> None:
    got = hub.pull(NAME, components=["scheduler"])
    assert not (got.path / "transformer").exists()
    assert cached(NAME) is None and cached(NAME, ["scheduler"]) is not None
    with pytest.raises(ModelNotFoundError, match="no component vea; it has scheduler, transformer"):
        hub.pull(NAME, components=["vea"])


def test_revisions_are_pinned(web: FakeHub) -> None:
    first = web.repos[REPO]["main"]
    web.publish(REPO, {**FILES, "transformer/config.json": b"{}"})
    web.repos[REPO]["refs/pr/1"] = first
    assert hub.pull(HubName(REPO, first)).name.commit == first
    assert cached(NAME) is None and cached(HubName(REPO, first[:10])) is not None
    assert hub.pull(HubName(REPO, "refs/pr/1")).fetched == 0
    web.requests.clear()
    assert cached(HubName(REPO, "refs/pr/1")) is not None and web.requests == []


def test_a_cut_connection_is_resumed(web: FakeHub) -> None:
    web.cut[WEIGHTS] = 70_000
    got = hub.pull(NAME)
    assert (got.path / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    ranges = [asked for path, asked in web.requests if path.endswith(WEIGHTS)]
    assert ranges[0] == "" and 0 < int(ranges[1].removeprefix("bytes=").rstrip("-")) <= 70_000


def test_a_stall_is_resumed(web: FakeHub) -> None:
    web.stall[WEIGHTS] = 50_000
    assert (hub.pull(NAME).path / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert web.downloads().count(WEIGHTS) == 2


def test_a_connection_that_breaks_for_good(web: FakeHub) -> None:
    class NoMore(dict[str, int]):
        def pop(self, path: str) -> int:  # type: ignore[override]
            length, self[path] = self[path], 0
            return length

    web.cut = NoMore({WEIGHTS: 40_000})
    with pytest.raises(NetworkError, match=r"stalled in transformer/\S+ at 40\.0 kB of 102 kB; run the same command"):
        hub.pull(NAME)
    assert hub.offer(NAME).to_fetch == len(FILES[WEIGHTS]) - 40_000


def test_another_process_goes_on_where_one_stopped(web: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(BaseException):
        pass

    def stop(done: int, total: int, path: str) -> None:
        if path == WEIGHTS:
            raise Stopped

    web.cut[WEIGHTS] = 60_000
    with pytest.raises(Stopped):
        hub.pull(NAME, progress=stop)
    assert cached(NAME) is None
    left = hub.offer(NAME).to_fetch
    assert 0 < left < len(FILES[WEIGHTS])
    (repo,) = listing()
    assert repo.partial == len(FILES[WEIGHTS]) - left and repo.snapshots[0].missing == ("transformer/*.safetensors",)
    assert hub.pull(NAME).fetched == left


def test_a_server_that_ignores_ranges(web: FakeHub) -> None:
    web.cut[WEIGHTS], web.ignore_ranges = 50_000, True
    assert (hub.pull(NAME).path / WEIGHTS).read_bytes() == FILES[WEIGHTS]


def test_two_at_once_share_the_work(web: FakeHub) -> None:
    web.stall[WEIGHTS] = 10
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(hub.pull, [NAME, NAME]))
    assert both[0].path == both[1].path and verify(both[0].path).problems == ()
    assert len(web.downloads()) == len(set(web.downloads())) + 1


def test_a_token_is_for_the_hub_alone(web: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    web.elsewhere = True
    hub.pull(NAME)
    assert {"127.0.0.1", "localhost"} == {host for host, _ in web.tokens}
    assert all(token == ("Bearer hf_canary" if host == "127.0.0.1" else "") for host, token in web.tokens)


def test_damage_on_the_way_is_fetched_again_once(web: FakeHub) -> None:
    web.spoil.update({WEIGHTS: 1, "transformer/config.json": 1})
    got = hub.pull(NAME)
    assert all((got.path / path).read_bytes() == FILES[path] for path in (WEIGHTS, "transformer/config.json"))
    remove(NAME)
    web.spoil[WEIGHTS] = 2
    with pytest.raises(NetworkError, match="arrived damaged twice"):
        hub.pull(NAME)
    assert cached(NAME) is None and not list(cache_folder().rglob("*.incomplete"))


def test_a_busy_hub_is_asked_again(web: FakeHub) -> None:
    web.status = [503, 429]
    assert cached(hub.pull(NAME).name) is not None
    web.status = [503] * 9
    remove(NAME)
    with pytest.raises(NetworkError, match=r"error 503; run the same command again later\."):
        hub.pull(NAME)


def test_the_ways_to_be_refused_differ(web: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    web.gated.add(REPO)
    with pytest.raises(AccessError, match=f"accept terms.*{web.url}/{REPO}.*hf auth login"):
        hub.pull(NAME)
    with pytest.raises(ModelNotFoundError, match="no model of that name on the Hub that you may see"):
        hub.pull(HubName("acme/gone"))
    with pytest.raises(ModelNotFoundError, match=r"acme/sketch has no revision 'v9'"):
        hub.pull(HubName(REPO, "v9"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(NetworkError, match="the Hub cannot be reached") as down:
        hub.pull(NAME)
    assert "frolic models pull acme/sketch" in str(down.value) and down.value.exit_code == 5


def test_an_unanswering_hub(web: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(hub, "_ASK_SECONDS", 0.1)
        with pytest.raises(NetworkError, match="does not answer in time"):
            hub.pull(NAME)


def test_a_full_disk_is_noticed_before_downloading(web: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5_000_000))
    with pytest.raises(ResourceError, match=r"needs 64\.1 MB on the disk and .* has 5\.0 MB"):
        hub.pull(NAME)
    assert web.downloads() == []


def test_a_disk_that_fills_up(web: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(transfer.os, "fsync", full)
        with pytest.raises(ResourceError, match="no room on the disk"):
            hub.pull(NAME)
    assert cached(NAME) is None and cached(hub.pull(NAME).name) is not None


def test_a_repository_without_safetensors(web: FakeHub) -> None:
    only_pickles = {path: data for path, data in FILES.items() if not path.endswith(".safetensors")}
    web.publish("acme/old", only_pickles)
    with pytest.raises(ModelNotFoundError, match="pickles are never fetched"):
        hub.pull(HubName("acme/old"))
    web.publish("acme/half", {**FILES, "model_index.json": INDEX[:-1] + b', "vae": ["diffusers", "V"]}'})
    with pytest.raises(ModelNotFoundError, match=r"lacks on the Hub .*vae/config\.json"):
        hub.pull(HubName("acme/half"))


def test_a_repository_that_is_one_component(web: FakeHub) -> None:
    web.publish("acme/dc-ae", {"config.json": b"{}", "diffusion_pytorch_model.safetensors": b"x" * 5000})
    assert hub.resolve("acme/dc-ae", components=["vae"]) is not None
    assert cached(HubName("acme/dc-ae")) is not None and cached(HubName("acme/dc-ae"), ["vae"]) is not None


def test_links_are_replaced_where_the_system_has_none(web: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    got = hub.pull(NAME)
    checked = verify(got.path)
    assert checked.problems == () == checked.unchecked
    assert not (got.path / WEIGHTS).is_symlink()
    remove(NAME)
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert (hub.pull(NAME).path / WEIGHTS).read_bytes() == FILES[WEIGHTS] and hub.pull(NAME).fetched == 0


def test_offline(web: FakeHub, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    path = hub.pull(NAME).path
    request.getfixturevalue("no_sockets")
    assert hub.resolve(REPO) == path == hub.resolve(f"hf://{REPO}")
    monkeypatch.setenv("FROLIC_OFFLINE", "1")
    assert hub.resolve(REPO) == path
    with pytest.raises(NetworkError, match=r"FROLIC_OFFLINE is set\).* run `frolic models pull acme/other@v1`"):
        hub.resolve("acme/other@v1")


def test_using_what_is_cached_imports_no_library(web: FakeHub) -> None:
    path = hub.pull(NAME).path
    program = (
        f"import sys\nfrom frolic.io.hub import resolve\nprint(resolve({REPO!r}))\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('huggingface_hub', 'httpx', 'httpx2', 'filelock')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == [str(path), "[]"]


def test_short_names(web: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    entry = Published(
        name="sketch", repo=REPO, original="", config=None, size=64, dtypes=MappingProxyType({}), variant="fp16"
    )
    path = hub.resolve("sketch", [entry])
    assert path is not None and not (path / WEIGHTS).exists()
    assert "to download" in capsys.readouterr().err
    assert hub.resolve(REPO, [entry]) == path == hub.resolve(f"sketch@{origin(path).commit}", [entry])  # type: ignore[union-attr]
    assert hub.resolve("scetch", [entry]) is None and hub.resolve("./acme/sketch", [entry]) is None


def test_verify_finds_one_changed_bit_and_a_repair_fetches_that_file_only(web: FakeHub) -> None:
    got = hub.pull(NAME)
    assert verify(got.path).problems == ()
    for path in (WEIGHTS, "transformer/config.json"):
        blob = (got.path / path).resolve()
        data = bytearray(blob.read_bytes())
        data[0] ^= 1
        blob.write_bytes(data)
    checked = verify(got.path)
    assert checked.problems == tuple(
        f"{path} is not the file that was published" for path in sorted([WEIGHTS, "transformer/config.json"])
    )
    size = len(FILES[WEIGHTS]) + len(FILES["transformer/config.json"])
    assert hub.repair(HubName(REPO, got.name.commit), checked).fetched == size
    assert verify(got.path).problems == ()


def test_verify_finds_what_is_missing(web: FakeHub) -> None:
    got = hub.pull(NAME)
    (got.path / WEIGHTS).resolve().unlink()
    (got.path / "scheduler/scheduler_config.json").unlink()
    assert cached(NAME) is None
    problems = " ".join(verify(got.path).problems)
    assert WEIGHTS in problems and "scheduler/scheduler_config.json is missing" in problems


def test_verify_of_a_folder_without_hashes(tiny_folder: Path, own_folder: Path) -> None:
    checked = verify(tiny_folder)
    assert checked.problems == () and len(checked.unchecked) == checked.files > 0
    weights = next(own_folder.rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    checked = verify(own_folder)
    assert "cut short" in " ".join(checked.problems) and checked.damaged == (weights,)


def test_a_repair_fetches_what_is_cut_short_in_a_cache_that_was_copied_without_links(web: FakeHub) -> None:
    got = hub.pull(NAME)
    for file in [path for path in got.path.rglob("*") if path.is_symlink()]:
        data = file.read_bytes()
        file.unlink()
        file.write_bytes(data[:-1] if file.suffix == ".safetensors" else data)
    found = verify(got.path)
    assert found.damaged and not found.missing
    hub.repair(HubName(REPO, got.name.commit), found)
    assert verify(got.path).problems == ()


def test_remove_one_revision_keeps_what_the_other_uses(web: FakeHub) -> None:
    first = hub.pull(NAME).name.commit
    web.publish(REPO, {**FILES, "transformer/config.json": b'{"a": 22}'})
    second = hub.pull(NAME)
    assert remove(HubName(REPO, first)) == len(b'{"a": 1}')
    assert cached(HubName(REPO, first)) is None and verify(second.path).problems == ()
    size = listing()[0].size
    assert remove(NAME) == size and listing() == () and not NAME.folder().exists()
    with pytest.raises(ModelNotFoundError, match="not in the cache"):
        remove(NAME)


def test_a_linked_folder_is_not_followed_when_removing(web: FakeHub, tmp_path: Path) -> None:
    hub.pull(NAME)
    elsewhere = tmp_path / "elsewhere"
    NAME.folder().rename(elsewhere)
    NAME.folder().symlink_to(elsewhere)
    assert cached(NAME) is not None
    with pytest.raises(FileError, match="is a link"):
        remove(NAME)
    assert cached(NAME) is not None
