"""Strict safetensors: what is read is whole, finite and exactly what the model asks for; a pickle is never opened.

Own reading and writing, because the library accepts a header with duplicate names and weights that are not numbers,
maps the file (a later truncation kills the process), and writes with mode 0600 and no fsync.
The format: 8 bytes of little-endian header length, a JSON header, then the tensors' bytes without gaps.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from frolic.errors import CheckpointError, ModelNotFoundError, UnsafeFileError
from frolic.io.files import existing_file, read_json_object, reason, whole_file
from frolic.io.problems import Problems
from frolic.keymap import KeyMap

DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAX_HEADER = 100_000_000
VARIANTS = ("", "fp16", "bf16")
"""What may stand before ``.safetensors`` in a weight file's name; the plain one first."""
PICKLES = frozenset({".bin", ".ckpt", ".pkl", ".pickle", ".pt", ".pth"})


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: ``start`` and ``end`` are byte positions in ``file``."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """What one file says it holds."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]


def refuse_pickle(path: Path) -> None:
    """Refuse a file that is, or is named like, a pickle. Only its first bytes are looked at.

    Raises:
        UnsafeFileError: always in that case; a pickle can run any program when it is opened.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError:
        head = b""
    # A torch file is a zip archive; older ones and plain pickles start with the protocol mark. So may the header's
    # length in a safetensors file, but there the header follows, and no pickle or archive has a brace in that place.
    looks = head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"))
    if path.suffix.lower() in PICKLES or (looks and head[8:9] != b"{"):
        raise UnsafeFileError(
            f"{path} is a pickle, which can run any program when it is opened; get the model as .safetensors instead."
        )


def read_header(path: Path) -> Header:
    """Read and check what the file says it holds, without reading a tensor.

    Raises:
        UnsafeFileError: it is a pickle.
        CheckpointError: it is not safetensors, truncated, or contradicts itself.
    """
    refuse_pickle(existing_file(path))
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= _MAX_HEADER:
                raise _broken(path, "it is not a safetensors file")
            if size < 8 + length:
                raise _broken(path, f"it is cut short at {size:,} bytes")
            raw = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({reason(error)}); check its permissions.") from error
    try:
        parsed = json.loads(raw, object_pairs_hook=_without_duplicates)
    except _DuplicateName as error:
        raise _broken(path, f"it names {error.args[0]!r} twice") from None
    except (ValueError, RecursionError):
        raise _broken(path, "its header is not JSON") from None
    if not isinstance(parsed, dict):
        raise _broken(path, "its header is not a JSON object")
    metadata = parsed.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _broken(path, "its metadata is not text")
    entries = {name: _entry(path, name, value, 8 + length) for name, value in parsed.items()}
    end = 8 + length
    for entry in sorted(entries.values(), key=lambda e: (e.start, e.end)):
        if entry.start != end:
            raise _broken(path, "its tensors overlap or leave gaps")
        end = entry.end
    if size != end:
        said = f"it is cut short: {size:,} of {end:,} bytes" if size < end else f"{size - end:,} bytes follow its end"
        raise _broken(path, said)
    return Header(entries, metadata)


def read_headers(path: Path) -> dict[str, Entry]:
    """The tensors of a file, or of all shards that an ``.index.json`` lists. Raises as ``read_header``."""
    if path.suffix != ".json":
        return dict(read_header(path).entries)
    index = read_json_object(path).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
        raise _broken(path, "it has no weight_map from names to files")
    problems = Problems(f"{path} does not fit its shards; get the model's files again")
    entries: dict[str, Entry] = {}
    for shard in sorted(set(index.values())):
        # A plain name cannot leave the folder. Links are followed: download caches keep the weights behind them.
        if shard in (".", "..") or "/" in shard or "\\" in shard or "\0" in shard:
            problems.add("file outside the model's folder", shard)
        elif not (path.parent / shard).is_file():
            problems.add("missing file", shard)
        else:
            for name, entry in read_header(path.parent / shard).entries.items():
                if index.get(name) == shard:
                    entries[name] = entry
                else:
                    problems.add("tensor the index does not place there", f"{name} in {shard}")
    for name, shard in index.items():
        if name not in entries and (path.parent / shard).is_file():
            problems.add("missing tensor", f"{name} in {shard}")
    problems.raise_any(CheckpointError)
    return entries


def find_weights(folder: Path, variant: str = "") -> Path:
    """The weights of a component's folder: one ``.safetensors`` or the index of its shards, of the ``variant`` that
    stands in their names (``""`` is the plain one).

    Raises:
        UnsafeFileError: there are only pickles.
        ModelNotFoundError: there are none, or several to choose from.
    """
    wanted = [f"{stem}{tail}" for stem in _STEMS for tail in weight_names(variant)]
    for name in wanted:
        if (folder / name).is_file():
            return folder / name
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    found = [name for name in names if name.endswith(".safetensors")]
    for name in [] if found else names:
        if Path(name).suffix in PICKLES:
            refuse_pickle(folder / name)
    said = f"only {', '.join(found)}" if found else "no weights"
    single = [f"{stem}{weight_names(variant)[0]}" for stem in _STEMS]
    raise ModelNotFoundError(f"{folder} holds {said}; it needs {' or '.join(single)}.")


_STEMS = ("diffusion_pytorch_model", "model")


def weight_names(variant: str = "") -> tuple[str, ...]:
    """What follows the stem: a whole file, then an index of shards under each name that one has been published by."""
    if not variant:
        return ".safetensors", ".safetensors.index.json"
    return (
        f".{variant}.safetensors",
        f".safetensors.index.{variant}.json",
        f".{variant}.safetensors.index.json",
        f".safetensors.{variant}.index.json",
    )


def compare(
    entries: Mapping[str, Entry], expected: Mapping[str, Tensor], problems: Problems, *, where: str = ""
) -> None:
    """Note every tensor of ``expected`` (name -> a tensor of that shape, on meta) that is missing or misshapen in
    ``entries``, and every one that nothing asked for. ``where`` is put before their names."""
    missing = [where + name for name in expected if name not in entries]
    foreign = [where + name for name in entries if name not in expected]
    for name in missing:
        problems.add("missing", name, near=foreign)
    for name in foreign:
        problems.add("unexpected", name, near=missing)
    for name in sorted(expected.keys() & entries.keys()):
        have, need = entries[name], expected[name]
        if have.shape != tuple(need.shape):
            problems.add("wrong shape", f"{where}{name} is {_shape(have.shape)}, needs {_shape(need.shape)}")
        elif have.dtype.is_floating_point != need.is_floating_point():
            problems.add("wrong kind of number", f"{where}{name} is {have.dtype}")


def read_tensors(
    entries: Mapping[str, Entry],
    problems: Problems,
    *,
    dtype: torch.dtype | Callable[[str], torch.dtype] | None = None,
    device: torch.device | str = "cpu",
    where: str = "",
) -> dict[str, Tensor]:
    """Read every tensor; floating-point ones become ``dtype``, or what that says of their name. What is not finite, or
    is not in that dtype any more, is noted in ``problems``.

    Raises:
        CheckpointError: the file shrank while it was read.
    """
    tensors: dict[str, Tensor] = {}
    ordered = sorted(entries.items(), key=lambda item: (item[1].file, item[1].start))
    for path, group in groupby(ordered, key=lambda item: item[1].file):
        try:
            with path.open("rb") as file:
                for name, entry in group:
                    tensor = _read(file, entry)
                    if tensor.is_floating_point():
                        wanted = dtype(name) if callable(dtype) else dtype
                        stored, tensor = tensor, tensor if wanted is None else tensor.to(wanted)
                        if not all_finite(tensor):
                            lost = f"too large for {str(wanted).removeprefix('torch.')}, use --dtype float32"
                            problems.add(lost if all_finite(stored) else "not finite", where + name)
                    tensors[name] = tensor.to(device)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({reason(error)}); get the file again.") from error
    return tensors


def load(path: Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """All tensors of a file or of an index, checked to be whole and finite.

    Raises:
        CheckpointError, UnsafeFileError, FileError: as ``read_header``; also when weights are not finite.
    """
    problems = Problems(f"{path} cannot be used; get the file again")
    tensors = read_tensors(read_headers(path), problems, dtype=dtype, device=device)
    problems.raise_any(CheckpointError)
    return tensors


def save(
    tensors: Mapping[str, Tensor], path: Path, *, metadata: Mapping[str, str] | None = None, force: bool = False
) -> None:
    """Write ``tensors`` whole or not at all. Raises as ``frolic.io.files.whole_file``."""
    specs = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    write(specs, lambda names: (tensors[name] for name in names), path, metadata=metadata, force=force)


def write(
    specs: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    stream: Callable[[Sequence[str]], Iterable[Tensor]],
    path: Path,
    *,
    metadata: Mapping[str, str] | None = None,
    force: bool = False,
) -> None:
    """Write tensors that are made one at a time, whole or not at all: ``stream`` gets their names in the order of the
    file and yields them in that order, of the dtype and shape that ``specs`` said. What it raises leaves no file.
    Raises as ``frolic.io.files.whole_file``.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    ordered = sorted(specs, key=lambda name: (-specs[name][0].itemsize, name))
    for name in ordered:
        dtype, shape = specs[name]
        assert dtype in _NAMES, f"{name}: {dtype} has no safetensors name"
        end = position + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [position, end]}
        position = end
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    with whole_file(path, force=force) as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for name, tensor in zip(ordered, stream(ordered), strict=True):
            assert (tensor.dtype, tuple(tensor.shape)) == specs[name], f"{name} is not what was announced"
            if tensor.numel():
                file.write(_bytes_of(tensor.detach().cpu().contiguous()))


def fill(module: nn.Module, path: Path, keymap: KeyMap | None = None, *, fault: str = "does not fit the model") -> None:
    """Fill ``module`` strictly, in float32, from a file or shard index whose names ``keymap`` knows, or which has the
    module's own. ``fault``: what the error says of a file that is another.

    Raises:
        CheckpointError: listing all that is wrong. FileError: it cannot be read.
    """
    names = keymap or KeyMap()
    problems = Problems(f"{path} {fault}")
    entries = read_headers(path)
    compare(entries, names.save(module.state_dict()), problems)
    problems.raise_any(CheckpointError)
    tensors = read_tensors(entries, problems, dtype=torch.float32)
    problems.raise_any(CheckpointError)
    module.load_state_dict(names.load(tensors))


def fingerprint(paths: Iterable[Path]) -> str:
    """SHA-256 over the contents of ``paths`` in the given order, as hexadecimal."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 20))
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
    return digest.hexdigest()


class _DuplicateName(Exception):
    pass


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise _DuplicateName(key)
        out[key] = value
    return out


def _broken(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} cannot be used because {what}; get the file again.")


def _entry(path: Path, name: str, value: Any, data: int) -> Entry:
    try:
        dtype, shape, (start, end) = DTYPES[value["dtype"]], value["shape"], value["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise _broken(path, f"{name!r} is described in a way that is not known") from None
    numbers = [*shape, start, end] if isinstance(shape, list) else [-1]
    if any(type(n) is not int or n < 0 for n in numbers) or math.prod(shape) * dtype.itemsize != end - start:
        raise _broken(path, f"the size of {name!r} contradicts its shape")
    return Entry(path, dtype, tuple(shape), data + start, data + end)


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor that is not empty."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _read(file: BufferedReader, entry: Entry) -> Tensor:
    tensor = torch.empty(entry.shape, dtype=entry.dtype)
    if tensor.numel():
        file.seek(entry.start)
        if file.readinto(_bytes_of(tensor)) != entry.end - entry.start:
            raise OSError(errno.EIO, "the file ends too early")
    return tensor


def all_finite(tensor: Tensor) -> bool:
    """One cheap pass; a sum is finite unless something in it is not, or it overflowed."""
    if tensor.element_size() == 1:
        tensor = tensor.float()
    return bool(torch.isfinite(tensor.sum(dtype=torch.float32))) or bool(torch.isfinite(tensor).all())


def _shape(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
