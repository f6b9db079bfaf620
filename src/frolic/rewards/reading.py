"""Read a reward's files: all that is wrong with any of them is one error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from frolic.errors import CheckpointError, ConfigError, FrolicError, ModelNotFoundError, nearest
from frolic.io.files import existing_file, read_json_object
from frolic.io.problems import Problems
from frolic.io.safetensors import VARIANTS, compare, find_weights, fingerprint, read_headers, read_tensors
from frolic.io.tokenizer import FILE, Tokenizer
from frolic.rewards.keymaps import Layout, is_unused

M = TypeVar("M", bound=nn.Module)
PREDICTOR = "predictor.safetensors"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Piece:
    """A module on meta that a file fills: its ``layouts``, one of which the file is in, and what else it may hold.
    ``precise``: it stays in float32 whatever the reward computes in."""

    module: nn.Module
    layouts: Sequence[Layout]
    unused: Sequence[str] = ()
    precise: bool = False


class Reader:
    """Reads what the reward ``name`` is made of, from ``place``, a file or a folder.

    Raises:
        ConfigError: no place is given, or there is no such dtype.
        FileError: nothing is there.
    """

    def __init__(self, name: str, place: str | Path | None, dtype: str = "float32") -> None:
        if place is None:
            raise ConfigError(f"The reward {name} needs weights; give the file or folder that holds them.")
        if dtype not in _DTYPES:
            raise ConfigError(f"dtype is {dtype!r}; give {', '.join(_DTYPES)}{nearest(dtype, _DTYPES) or '.'}")
        self.name, self.dtype = name, _DTYPES[dtype]
        self.place = Path(place).expanduser()
        if not self.place.is_dir():
            existing_file(self.place)
        self.folder = self.place if self.place.is_dir() else self.place.parent
        self.marks: dict[str, str] = {}
        self._problems = Problems(f"The reward {name} cannot be made from {self.place}; get its files again")
        self.words_at: Path | None = None
        self._loads: list[tuple[nn.Module, dict[str, Tensor]]] = []

    def config(self, model_type: str) -> dict[str, Any]:
        """What the ``config.json`` of a folder says, or nothing where there is none, or only a file was given.

        Raises:
            CheckpointError: it cannot be read, or is another model's.
        """
        file = self.place / "config.json"
        if not file.is_file():
            return {}
        raw = read_json_object(file)
        if raw.get("model_type") != model_type:
            raise CheckpointError(f"{file} is for a {raw.get('model_type')!r}, but {self.name} reads a {model_type!r}.")
        return raw

    def weights(self) -> Path:
        """The weights at the place: the file, or the folder's ``model.safetensors``, its index, or its only file.

        Raises:
            UnsafeFileError: there are only pickles.
            ModelNotFoundError: there are none, or several to choose from.
        """
        if not self.place.is_dir():
            return self.place
        problem = None
        for variant in VARIANTS:
            try:
                return find_weights(self.place, variant)
            except ModelNotFoundError as error:
                problem = problem or error
        found = [path for path in sorted(self.place.glob("*.safetensors")) if path.name != PREDICTOR]
        if len(found) == 1:
            return found[0]
        assert problem is not None
        raise problem

    def beside(self, given: str | Path | None, name: str, what: str) -> Path | None:
        """The file ``given``, or ``name`` in the folder, which is noted where it is missing.

        Raises:
            FileError: nothing is at what was given.
        """
        if given is not None:
            path = Path(given).expanduser()
            return existing_file(path / name if path.is_dir() else path)
        for path in (self.folder / name, self.folder / what / name):
            if path.is_file():
                return path
        self._problems.add("missing", f"{name} beside the weights; put the {what} there, or give {what}=FILE")
        return None

    def fill(self, what: str, path: Path, pieces: Mapping[str, Piece]) -> None:
        """Take each piece's tensors from the file, under the prefix it has there. What is wrong is noted.

        Raises:
            CheckpointError, UnsafeFileError: it is no whole safetensors file.
        """
        entries = read_headers(path)
        self.marks[what] = fingerprint(sorted({path, *(entry.file for entry in entries.values())}))
        for prefix, piece in sorted(pieces.items(), key=lambda item: -len(item[0])):
            # The longest prefix first: what is left is what nobody asked for, or the piece without a prefix takes it.
            mine = {name.removeprefix(prefix): entries.pop(name) for name in list(entries) if name.startswith(prefix)}
            used = {name: entry for name, entry in mine.items() if not is_unused(name, piece.unused)}
            state = {name: tensor.to("meta") for name, tensor in piece.module.state_dict().items()}
            layout = max(piece.layouts, key=lambda layout: len(layout.expected(state).keys() & used.keys()))
            expected = layout.expected(state)
            compare(used, expected, self._problems, where=f"{what}: {prefix}")
            fits = {name: used[name] for name in used.keys() & expected.keys()}
            kind = torch.float32 if piece.precise else self._kind
            tensors = read_tensors(fits, self._problems, dtype=kind, where=f"{what}: {prefix}")
            if tensors.keys() == expected.keys() and not self._problems:
                self._loads.append((piece.module, layout.load(tensors)))
        for name in entries:
            self._problems.add("unexpected", f"{what}: {name}")

    def tokenizer(self, given: str | Path | None, vocabulary: int) -> Tokenizer | None:
        """The tokenizer that is given or lies beside the weights. That it is missing or does not fit is noted.

        Raises:
            CheckpointError: it is not readable.
        """
        path = self.beside(given, FILE, "tokenizer")
        if path is None:
            return None
        tokenizer = Tokenizer(path)
        if tokenizer.vocabulary > vocabulary:
            self._problems.add("does not fit", f"{path} has {tokenizer.vocabulary} tokens, the weights {vocabulary}")
        if tokenizer.count("") != 2:
            self._problems.add("does not fit", f"{path} does not put a first and a last token around a text")
        self.words_at = path
        self.marks["tokenizer"] = fingerprint([path])
        return tokenizer

    def done(self) -> None:
        """Give the modules what was read.

        Raises:
            CheckpointError: listing all that was noted.
        """
        self._problems.raise_any(CheckpointError)
        for module, tensors in self._loads:
            module.load_state_dict(tensors, strict=True, assign=True)
            _number_places(module)
            module.eval().requires_grad_(False)

    def _kind(self, name: str) -> torch.dtype:
        # Angles of far places are lost in half precision.
        return torch.float32 if name.endswith("inv_freq") else self.dtype


def build(make: Callable[[], M], where: Path) -> M:
    """A module on meta.

    Raises:
        CheckpointError: the settings in ``where`` make none.
    """
    try:
        with torch.device("meta"):
            return make()
    except FrolicError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"No model can be built from the settings in {where} ({error}).") from error


def _number_places(module: nn.Module) -> None:
    """Make what no file holds: transformers keeps 0, 1, 2, ... as a buffer."""
    for owner in module.modules():
        for name, buffer in list(owner.named_buffers(recurse=False)):
            if buffer.is_meta:
                assert name == "position_ids", name
                setattr(owner, name, torch.arange(buffer.shape[-1])[None])
