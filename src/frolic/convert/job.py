"""One part on its way from the names it has to others. No more than one tensor of ours is in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor

from frolic.errors import CheckpointError, FileError, NumericsError, is_out_of_memory
from frolic.io.problems import Problems
from frolic.io.safetensors import Entry, all_finite, compare, read_headers, read_tensors, write
from frolic.keymap import KeyMap
from frolic.models.layouts import Located


@dataclass(frozen=True)
class Maker:
    """How an output tensor comes about: ``ours`` is the tensor it is a part of, ``sources`` what that is read from.
    Without ``ours`` it is the one source as it is, and without sources too it is made from the config."""

    ours: str
    sources: tuple[str, ...]
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Job:
    """``found`` in the names of ``target``, its floating-point numbers as ``dtype`` (None: as they are).

    ``extra`` is None, or the prefix under which tensors go along that are of no use here. ``change`` makes another one
    of each tensor of ours, by its name, as it is stored; those of ``changed`` are not kept in 8 bits, which would round
    away the better half of what is changed, but in bfloat16.

    Raises:
        CheckpointError: listing every tensor that is missing, unexpected or misshapen.
    """

    def __init__(
        self,
        found: Located[Entry],
        target: KeyMap,
        path: Path,
        *,
        dtype: torch.dtype | None,
        extra: str | None,
        change: Callable[[str, Tensor], Tensor] | None = None,
        changed: Collection[str] = (),
    ) -> None:
        self.found, self.target, self.path, self.dtype, self.change = found, target, path, dtype, change
        ours = _tensors(found, path)
        problems = Problems(f"{path} is not the {found.part} that its tensors look like; get the file again")
        compare(found.keymap.wanted(found.entries), found.keymap.save(ours), problems)
        problems.raise_any(CheckpointError)
        self.makers: dict[str, Maker] = {}
        for name, meta in ours.items():
            sources = tuple(found.keymap.theirs(name))
            for theirs, piece in target.save({name: meta}).items():
                kind = self._kind(sources)
                if name in changed and kind.is_floating_point and kind.itemsize == 1:
                    kind = torch.bfloat16
                self.makers[theirs] = Maker(name, sources, kind, tuple(piece.shape))
        dropped = [name for name in found.entries if found.keymap.drops(name)]
        self.left_out = tuple(dropped) if extra is None else ()
        for name in dropped if extra is not None else ():
            place = f"{extra}{name.removeprefix(found.prefix)}"
            self.makers[place] = Maker("", (name,), self._kind([name]), found.entries[name].shape)
        for name, make in target.rebuilt.items():
            if name not in self.makers:
                self.makers[name] = Maker("", (), self.dtype or torch.float32, tuple(make().shape))

    def _kind(self, sources: Iterable[str]) -> torch.dtype:
        kind = reduce(torch.promote_types, (self.found.entries[name].dtype for name in sources))
        return self.dtype if self.dtype is not None and kind.is_floating_point else kind

    def write(
        self,
        files: Mapping[Path, Sequence[str]],
        *,
        metadata: Mapping[str, str] | None = None,
        force: bool = False,
    ) -> None:
        """Write each file with the tensors that are named for it and the ``metadata``, and read their headers back.

        Raises:
            CheckpointError: numbers are not finite, or too large for the dtype; all are listed.
            NumericsError: a changed tensor is not finite in the dtype that it is written in.
            FileError, ResourceError: a file cannot be written.
        """
        problems = Problems(f"{self.path} cannot be converted; get the file again")
        checked: set[str] = set()

        def stream(names: Sequence[str], last: bool) -> Iterator[Tensor]:
            for name in names:
                yield self._make(name, problems, checked)
            if last:
                problems.raise_any(CheckpointError)

        for index, (path, names) in enumerate(files.items(), 1):
            specs = {name: (self.makers[name].dtype, self.makers[name].shape) for name in names}
            last = index == len(files)
            write(
                specs,
                lambda order, last=last: stream(order, last),  # type: ignore[misc]
                path,
                metadata=metadata,
                force=force,
            )
            back = {name: (entry.dtype, entry.shape) for name, entry in read_headers(path).items()}
            if back != specs:
                raise FileError(f"{path} does not hold what was written to it; check the disk and try again.")

    def _make(self, name: str, problems: Problems, checked: set[str]) -> Tensor:
        maker = self.makers[name]
        entries = {source: self.found.entries[source] for source in maker.sources}
        # A fused tensor is read once for each of its parts, which is cheaper than keeping it; said once is enough.
        heard = Problems("") if checked.issuperset(maker.sources) else problems
        checked.update(maker.sources)
        theirs = read_tensors(entries, heard, dtype=self.dtype if self.change is None else None)
        if not maker.sources:
            return self.target.rebuilt[name]().to(maker.dtype)
        if not maker.ours:
            return theirs[maker.sources[0]].to(maker.dtype)
        ours = self.found.keymap.load(theirs)
        if self.change is None:
            return self.target.save(ours)[name].to(maker.dtype)
        made = self.target.save({key: self.change(key, tensor) for key, tensor in ours.items()})[name].to(maker.dtype)
        if not all_finite(made):
            raise NumericsError(f"{name} is not finite as it would be written; change it by less, or use float32.")
        return made


def _tensors(found: Located[Entry], path: Path) -> dict[str, Tensor]:
    """All our tensors of the part, without memory."""
    try:
        with torch.device("meta"):
            return found.spec.build(found.config).state_dict()
    except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise CheckpointError(f"No {found.part} can be built for {path} ({error}); get the file again.") from error
