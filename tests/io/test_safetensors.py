from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from frolic.errors import CheckpointError, FileError, ModelNotFoundError, UnsafeFileError
from frolic.io import safetensors as st
from frolic.io.problems import Problems


def raw(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def one(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


def test_round_trip_and_the_library_agrees(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.torch")
    tensors = {
        "a.weight": torch.randn(3, 5),
        "half": torch.randn(7).bfloat16(),
        "half16": torch.randn(3, 1).half(),
        "scalar": torch.tensor(1.5, dtype=torch.float64),
        "empty": torch.zeros(0, 4),
        "flags": torch.tensor([True, False, True]),
        "counts": torch.arange(5),
        "bytes": torch.arange(3, dtype=torch.uint8),
        "strided": torch.randn(4, 6).t(),
        "eight": torch.randn(4).to(torch.float8_e4m3fn),
    }
    path = tmp_path / "x.safetensors"
    st.save(tensors, path, metadata={"format": "pt"})
    assert st.read_header(path).metadata == {"format": "pt"}
    for loaded in (st.load(path), library.load_file(path)):
        assert loaded.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert loaded[name].dtype == tensor.dtype and loaded[name].shape == tensor.shape
            assert torch.equal(loaded[name].float(), tensor.float())


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.torch")
    library.save_file({"w": torch.arange(6.0).reshape(2, 3)}, tmp_path / "x.safetensors", metadata={"a": "b"})
    assert torch.equal(st.load(tmp_path / "x.safetensors")["w"], torch.arange(6.0).reshape(2, 3))


def test_floats_are_cast_and_others_are_not(tmp_path: Path) -> None:
    st.save({"w": torch.randn(3).bfloat16(), "n": torch.arange(3)}, tmp_path / "x.safetensors")
    loaded = st.load(tmp_path / "x.safetensors", dtype=torch.float32)
    assert loaded["w"].dtype == torch.float32 and loaded["n"].dtype == torch.int64


@pytest.mark.parametrize("keep", [0, 4, 8, 30, -1, -9])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "x.safetensors"
    st.save({"w": torch.randn(4, 4)}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="get the file again"):
        st.load(path)


def test_bytes_after_the_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    st.save({"w": torch.randn(4, 4)}, path)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(CheckpointError, match="follow its end"):
        st.load(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (raw(b'{"w":%b,"w":%b}' % ((json.dumps(one()).encode(),) * 2), bytes(8)), "twice"),
        (raw([1]), "not a JSON object"),
        (raw(b"{nope"), "not JSON"),
        (raw({"w": one(dtype="F31")}, bytes(8)), "not known"),
        (raw({"w": one(shape=[3])}, bytes(8)), "contradicts"),
        (raw({"w": one(shape=[-2])}, bytes(8)), "contradicts"),
        (raw({"w": one(shape=[2.0])}, bytes(8)), "contradicts"),
        (raw({"w": one(data_offsets=[4, 12])}, bytes(12)), "overlap or leave gaps"),
        (raw({"w": one(), "v": one()}, bytes(8)), "overlap or leave gaps"),
        (raw({"w": one(data_offsets=["0", "8"])}, bytes(8)), "contradicts"),
        (raw({"w": 3}, bytes(8)), "not known"),
        (raw({"__metadata__": {"a": 1}}), "metadata"),
        ((2**40).to_bytes(8, "little") + b"{}", "not a safetensors file"),
        (b"", "not a safetensors file"),
        (b"<html>not found</html>", "not a safetensors file"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        st.read_header(path)


class Bomb:
    """Unpickling this would be seen."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("opened"),))


@pytest.mark.parametrize("name", ["model.ckpt", "model.pth", "model.bin", "model.safetensors", "model"])
def test_a_pickle_is_never_opened(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    for content in (pickle.dumps(Bomb()), b"PK\x03\x04rest"):
        path.write_bytes(content)
        with pytest.raises(UnsafeFileError, match=r"\.safetensors instead"):
            st.load(path)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_torch_file_is_refused_whatever_its_name(tmp_path: Path) -> None:
    for legacy in (True, False):
        path = tmp_path / f"{legacy}.safetensors"
        torch.save({"w": torch.zeros(2)}, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(UnsafeFileError):
            st.load(path)


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 19280, 19280 + 65536])
def test_a_header_whose_length_looks_like_a_pickles_mark_is_read(tmp_path: Path, length: int) -> None:
    text = json.dumps({"w": one()}).encode().ljust(length)
    (tmp_path / "x.safetensors").write_bytes(raw(text, bytes(8)))
    assert torch.equal(st.load(tmp_path / "x.safetensors")["w"], torch.zeros(2))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickle_is_refused(tmp_path: Path, protocol: int) -> None:
    for number, value in enumerate(({}, {"w": [1.0] * 99}, "{" * 50, Bomb())):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(pickle.dumps(value, protocol))
        with pytest.raises((UnsafeFileError, CheckpointError)) as caught:
            st.load(path)
        assert isinstance(caught.value, UnsafeFileError) or number == 2


def test_weights_that_a_narrower_type_cannot_hold_are_told_from_broken_ones(tmp_path: Path) -> None:
    st.save({"big": torch.full((3,), 1e6), "bad": torch.full((3,), torch.nan)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError) as caught:
        st.load(tmp_path / "x.safetensors", dtype=torch.float16)
    assert "too large for float16, use --dtype float32 (1): big" in str(caught.value)
    assert "not finite (1): bad" in str(caught.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, bad: float, dtype: torch.dtype) -> None:
    weights = torch.randn(50)
    weights[17] = bad
    st.save({"fine": torch.randn(3), "spoiled.weight": weights.to(dtype)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"not finite \(1\): spoiled.weight"):
        st.load(tmp_path / "x.safetensors")


def test_large_but_finite_weights_are_read(tmp_path: Path) -> None:
    st.save({"w": torch.full((9,), 3e38)}, tmp_path / "x.safetensors")
    assert torch.equal(st.load(tmp_path / "x.safetensors")["w"], torch.full((9,), 3e38))


def test_what_does_not_fit_is_said_all_at_once(tmp_path: Path) -> None:
    st.save({"a.wieght": torch.zeros(2), "b": torch.zeros(3), "n": torch.arange(2)}, tmp_path / "x.safetensors")
    expected = {"a.weight": torch.zeros(2), "b": torch.zeros(4), "n": torch.zeros(2), "c": torch.zeros(1)}
    problems = Problems("Headline")
    st.compare(st.read_headers(tmp_path / "x.safetensors"), expected, problems)
    text = str(problems)
    assert "missing (2): a.weight (near a.wieght), c" in text
    assert "unexpected (1): a.wieght (near a.weight)" in text
    assert "wrong shape (1): b is 3, needs 4" in text
    assert "wrong kind of number (1): n is torch.int64" in text


def test_a_long_list_is_shortened() -> None:
    problems = Problems("Headline")
    for number in range(100):
        problems.add("missing", f"tensor.{number}")
    assert "missing (100)" in str(problems) and "and 92 more" in str(problems)
    assert len(str(problems)) < 500


def shards(folder: Path, weight_map: dict[str, str]) -> Path:
    st.save({"a": torch.ones(2)}, folder / "one.safetensors")
    st.save({"b": torch.ones(3)}, folder / "two.safetensors")
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return path


def test_shards_are_read_together(tmp_path: Path) -> None:
    path = shards(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    assert st.load(path).keys() == {"a", "b"}
    assert st.find_weights(tmp_path) == path


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        ({"a": "../one.safetensors"}, "outside the model's folder"),
        ({"a": "/etc/passwd"}, "outside the model's folder"),
        ({"a": "sub\\one.safetensors"}, "outside the model's folder"),
        ({"a": "gone.safetensors"}, "missing file"),
        ({"a": "one.safetensors", "z": "one.safetensors"}, "missing tensor"),
        ({"z": "two.safetensors"}, "does not place there"),
    ],
)
def test_a_wrong_index_is_refused(tmp_path: Path, weight_map: dict[str, str], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        st.load(shards(tmp_path, weight_map))


def test_the_weights_of_a_folder_are_found_or_the_reason_given(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no weights"):
        st.find_weights(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    with pytest.raises(UnsafeFileError):
        st.find_weights(tmp_path)
    with pytest.raises(FileError, match="no file"):
        st.load(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("stem", ["diffusion_pytorch_model", "model"])
@pytest.mark.parametrize(
    ("variant", "tail"),
    [
        ("", ".safetensors"),
        ("", ".safetensors.index.json"),
        ("fp16", ".fp16.safetensors"),
        ("bf16", ".safetensors.index.bf16.json"),
        ("fp16", ".fp16.safetensors.index.json"),
        ("fp16", ".safetensors.fp16.index.json"),
    ],
)
def test_the_weights_of_a_variant_are_found_and_no_others(tmp_path: Path, stem: str, variant: str, tail: str) -> None:
    (tmp_path / f"{stem}{tail}").write_bytes(b"")
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    assert st.find_weights(tmp_path, variant).name == stem + tail
    for other in {"", "fp16", "bf16"} - {variant}:
        with pytest.raises((ModelNotFoundError, UnsafeFileError)):
            st.find_weights(tmp_path, other)


def test_tensors_that_are_made_one_at_a_time_are_written_as_if_all_were_there(tmp_path: Path) -> None:
    tensors = {"b": torch.randn(2, 3), "a": torch.ones(4, dtype=torch.bfloat16), "c": torch.zeros(0)}
    specs = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    st.save(tensors, tmp_path / "saved.safetensors")
    st.write(specs, lambda names: (tensors[name] for name in names), tmp_path / "streamed.safetensors")
    assert (tmp_path / "saved.safetensors").read_bytes() == (tmp_path / "streamed.safetensors").read_bytes()

    def broken(names: Sequence[str]) -> Iterator[torch.Tensor]:
        yield from (tensors[name] for name in names)
        raise CheckpointError("at the end")

    with pytest.raises(CheckpointError, match="at the end"):
        st.write(specs, broken, tmp_path / "broken.safetensors")
    assert not (tmp_path / "broken.safetensors").exists()


def test_the_fingerprint_is_of_the_contents(tmp_path: Path) -> None:
    for name, data in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(data)
    a, b, c = (st.fingerprint([tmp_path / name]) for name in "abc")
    assert a == b != c and len(a) == 64
