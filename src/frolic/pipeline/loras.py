"""The adapters of a pipeline: which are there, and how much of each at which step, for which picture and branch.

N adapters, B pictures, k branches of guidance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from frolic.errors import FrolicError, ModelNotFoundError, RequestError
from frolic.lora.adapter import Loaded
from frolic.lora.experts import HIGH, LOW
from frolic.lora.layer import Attached
from frolic.request import Request
from frolic.sampling.guidance import UNCOND
from frolic.strength import Blend, Strength, blend_of
from frolic.types import Denoise

Read = Callable[[str, str], Loaded]
"""An adapter by its source, for a transformer that is the expert ``high`` or ``low``. Raises as
``frolic.adapters.read``."""


class Loras:
    """Adapters that were loaded stay, whatever the blend: another one costs nothing but another mix.

    ``expert``: which of two the transformer is, ``high`` or ``low``; empty where there is one alone.
    """

    def __init__(self, read: Read | None, expert: str = "") -> None:
        self._read = read
        self._expert = expert
        self._loaded: dict[str, Loaded] = {}
        self._attached: Attached | None = None
        self._on: nn.Module | None = None
        self._carried: dict[str, tuple[int, int] | None] = {}
        self._drawing = 0
        self.strengths: dict[str, Strength] = {}

    def load(self, blend: Blend) -> None:
        """Read the sources of ``blend`` that are not here yet. A name that a record would call one of those here means
        that one only where nothing else is called so."""
        for source, _ in blend:
            if source in self._loaded:
                continue
            if self._read is None:
                raise RequestError("This pipeline was put together without a way to read adapters; use frolic.load.")
            names = {loaded.name: loaded for loaded in self._loaded.values()}
            try:
                found = self._read(source, self._expert or HIGH)
            except ModelNotFoundError:
                if source in names:
                    continue
                raise
            if source in names and names[source].hash == found.hash:
                continue
            name, number = found.name, 2
            while name in names or (name != source and self._is_another(name, found)):
                name, number = f"{found.name}-{number}", number + 1
            self._loaded[source] = replace(found, name=name)

    def _is_another(self, name: str, found: Loaded) -> bool:
        """Whether another adapter than ``found`` could be asked for by ``name``: records must not call it that."""
        assert self._read is not None
        try:
            return self._read(name, self._expert or HIGH).hash != found.hash
        except ModelNotFoundError:
            return False
        except FrolicError:
            return True

    def _known(self, source: str) -> Loaded | None:
        """By its source, or by the name that a record calls it."""
        named = {loaded.name: loaded for loaded in self._loaded.values()}
        return self._loaded.get(source) or named.get(source)

    def _of(self, source: str) -> Loaded:
        found = self._known(source)
        assert found is not None, f"{source} was not loaded"
        return found

    def named(self, blends: Sequence[Blend]) -> tuple[Blend, ...]:
        """Sources as the names of records."""
        return tuple(tuple((self._of(source).name, each) for source, each in blend) for blend in blends)

    def notes(self, blends: Sequence[Blend], blocks: int) -> list[str]:
        """A sentence for each adapter of the blends of which not all is used, or whose strength asks for what a model
        of so many ``blocks`` does not have."""
        used = {source: self._of(source) for blend in blends for source, _ in blend}
        idle = []
        for source, strength in dict.fromkeys(each for blend in blends for each in blend):
            if strength.blocks is not None and strength.blocks[0] >= blocks:
                first = strength.blocks[0]
                idle.append(f"{used[source].name} does nothing from block {first} on: the last one is {blocks - 1}.")
            if not self._expert and strength.target in (HIGH, LOW):
                idle.append(f"{used[source].name} acts throughout: this model has no {strength.target}-noise expert.")
        return idle + [
            f"{len(each.adapter.left_out)} tensors of {each.name} are of no use here and were passed over: "
            f"{', '.join(each.adapter.left_out[:3])}{' ...' if len(each.adapter.left_out) > 3 else ''}"
            for each in used.values()
            if each.adapter.left_out
        ]

    def hashes(self, blends: Sequence[Blend]) -> dict[str, str]:
        """By name in records, of what the blends use."""
        return {self._of(source).name: self._of(source).hash for blend in blends for source, _ in blend}

    @property
    def attached(self) -> Attached:
        """What the transformer carries now."""
        assert self._attached is not None, "nothing is carried"
        return self._attached

    @contextmanager
    def mixes(self, transformer: Any, blends: Sequence[Blend]) -> Iterator[Mixes | None]:
        """What the blends do to ``transformer``, which carries their adapters while a drawing lasts; None if they do
        nothing. Drawings of one pipeline may take turns: what one of them uses stays until it ends."""
        blends = [tuple((source, each) for source, each in blend if self._acts(source, each)) for blend in blends]
        if not any(strength.weight for blend in blends for _, strength in blend):
            if not self._drawing:
                # Without any it is bit for bit what it was, with products folded that no adapter could be included in.
                self.detach()
            yield None
            return
        self._carry(transformer, blends)
        self._drawing += 1
        try:
            yield Mixes(self, [[(_key(*each), each[1]) for each in blend] for blend in blends])
        finally:
            self._drawing -= 1

    def _acts(self, source: str, strength: Strength) -> bool:
        """Whether an adapter is for this expert."""
        target = self._of(source).expert or "all" if strength.target == "auto" else strength.target
        return not self._expert or target in ("all", self._expert)

    def _carry(self, transformer: Any, blends: Sequence[Blend]) -> None:
        # An adapter that acts in different blocks in different blends is carried once for each.
        wanted = {
            _key(source, strength): strength.blocks for blend in blends for source, strength in blend if strength.weight
        }
        if self._attached is None or self._on is not transformer or not wanted.keys() <= self._carried.keys():
            self.detach()
            self._carried |= wanted
            adapters = {key: self._of(_source(key)).adapter for key in self._carried}
            within = {key: range(span[0], span[1] + 1) for key, span in self._carried.items() if span is not None}
            with torch.inference_mode(False), torch.no_grad():
                self._attached, self._on = Attached(transformer, adapters, within), transformer

    def detach(self) -> None:
        """Let the transformer be as it was."""
        if self._attached is not None:
            self._attached.remove()
        self._attached = self._on = None


def _key(source: str, strength: Strength) -> str:
    return source if strength.blocks is None else f"{source}\0{strength.blocks[0]}-{strength.blocks[1]}"


def _source(key: str) -> str:
    return key.partition("\0")[0]


class Mixes:
    """How much of each adapter there is, through the phases of a drawing: a phase ends where an adapter begins or ends
    to act."""

    def __init__(self, loras: Loras, blends: Sequence[Sequence[tuple[str, Strength]]]) -> None:
        self._loras = loras
        self._blends = blends
        shares = {share for blend in blends for _, each in blend if each.weight for share in (each.start, each.end)}
        self.cuts = tuple(sorted(shares - {0.0, 1.0}))
        branches = {each.branch for blend in blends for _, each in blend if each.weight}
        self._tables: dict[tuple[Any, ...], Tensor] = {}
        self._tabled: Attached | None = None
        self.varied = branches != {"both"} or any(list(blend) != list(blends[0]) for blend in blends)

    @property
    def phases(self) -> int:
        return len(self.cuts) + 1

    def weights(self, branch: str, blend: int, phase: int) -> Tensor:
        """[N]"""
        begins = (0.0, *self.cuts)[phase]
        other = "cond" if branch == UNCOND else "uncond"
        acting: dict[str, float] = {}
        for name, each in self._blends[blend]:
            # One of weight 0 is not carried, unless another blend has it.
            if each.weight and each.start <= begins < each.end and each.branch != other:
                acting[name] = acting.get(name, 0.0) + each.weight
        return self._loras.attached.tensor(acting)

    @contextmanager
    def reading(self, branch: str, blend: int, phase: int) -> Iterator[None]:
        """While the text of a branch is read, for pictures of a blend."""
        with self._loras.attached.using(self.weights(branch, blend, phase)):
            yield

    def switched(
        self,
        prepared: Callable[[int], Denoise],
        branches: Sequence[str],
        blends: Sequence[int],
        sigmas: Tensor,
    ) -> Denoise:
        """``prepared`` (of a phase) under the mix of its phase, for pictures of these ``blends``, branch after branch.
        ``sigmas`` are the noise levels of all steps, of which a share of the steps is one."""
        last = len(sigmas) - 1
        bounds = [float(sigmas[round(cut * last)]) for cut in self.cuts]
        made: dict[int, Denoise] = {}

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            level = float(sigma.flatten()[0])
            phase = sum(level <= bound for bound in bounds)
            if phase not in made:
                made[phase] = prepared(phase)
            with self._loras.attached.using(self._table(phase, tuple(branches), tuple(blends))):
                return made[phase](x, sigma)

        return denoise

    def _table(self, phase: int, branches: tuple[str, ...], blends: tuple[int, ...]) -> Tensor:
        """[k B, N], or [N] where all rows are alike. The same tensor each time: layers keep what they made of it."""
        if self._tabled is not self._loras.attached:  # another drawing brought further adapters along
            self._tables, self._tabled = {}, self._loras.attached
        key = (phase, branches, blends)
        if key not in self._tables:
            rows = [self.weights(branch, blend, phase) for branch in branches for blend in blends]
            self._tables[key] = torch.stack(rows) if self.varied else rows[0]
        return self._tables[key]


def reading(mixes: Mixes | None, branch: str, blend: int, phase: int) -> Any:
    """``Mixes.reading``, or nothing without adapters."""
    return nullcontext() if mixes is None else mixes.reading(branch, blend, phase)


def blends_of(request: Request, usual: Mapping[str, Strength]) -> tuple[Blend, ...]:
    """What ``request`` asks for, or what is usual."""
    return request.loras if request.loras is not None else (blend_of(usual),)
