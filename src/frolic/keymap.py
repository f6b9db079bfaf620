"""Translate checkpoints between two naming schemes, in both directions.

A map is a list of rules, each with patterns in which ``{name}`` stands for one dotted part (``{i}`` matches ``12``).
A rule renames one tensor, or fuses several of theirs into one of ours; either may also change the shape in a way
that can be undone. Rules are data: what a map does can be listed, tested and inverted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Edit:
    """A reversible change of shape, applied to a whole tensor."""

    load: Callable[[Tensor], Tensor]
    save: Callable[[Tensor], Tensor]


POINTWISE = Edit(load=lambda w: w.flatten(1), save=lambda w: w[:, :, None, None])
"""A 1x1 convolution's weight ``[out, in, 1, 1]`` as a linear's ``[out, in]``."""


@dataclass(frozen=True)
class Rule:
    """``theirs`` (one pattern, or several that are concatenated along axis 0 in equal parts) becomes ``ours``."""

    theirs: tuple[str, ...]
    ours: str
    edit: Edit | None = None

    @classmethod
    def of(cls, theirs: str | Sequence[str], ours: str, edit: Edit | None = None) -> Rule:
        return cls((theirs,) if isinstance(theirs, str) else tuple(theirs), ours, edit)


class _Pattern:
    """A dotted name with holes. Compared part by part: compiling expressions would show in the cold start."""

    def __init__(self, text: str) -> None:
        self.parts = tuple(text.split("."))

    def match(self, parts: Sequence[str]) -> dict[str, str] | None:
        """What stands in the holes, or None."""
        if len(parts) != len(self.parts):
            return None
        names = {}
        for mine, given in zip(self.parts, parts, strict=True):
            if mine.startswith("{"):
                names[mine[1:-1]] = given
            elif mine != given:
                return None
        return names


class KeyMap:
    """An ordered list of rules; the first that matches a name wins. A name that no rule matches stays as it is.

    ``dropped`` are patterns of tensors that their files may hold and ours have no use for: a checkpoint with them is in
    order, and so is one without. ``rebuilt`` makes those of them, by name, that other programs look for in a file.
    """

    def __init__(
        self,
        rules: Sequence[Rule] = (),
        dropped: Sequence[str] = (),
        rebuilt: Mapping[str, Callable[[], Tensor]] = MappingProxyType({}),
    ) -> None:
        self.rules = tuple(rules)
        self.dropped = tuple(dropped)
        self.rebuilt = rebuilt
        self._dropped = [_Pattern(text) for text in self.dropped]
        self._ours = [(rule, _Pattern(rule.ours)) for rule in self.rules]
        self._theirs = [(rule, part, _Pattern(text)) for rule in self.rules for part, text in enumerate(rule.theirs)]

    def _rule_for_theirs(self, key: str) -> tuple[Rule, int, dict[str, str]] | None:
        parts = key.split(".")
        for rule, part, pattern in self._theirs:
            if (names := pattern.match(parts)) is not None:
                return rule, part, names
        return None

    def _rule_for_ours(self, key: str) -> tuple[Rule, dict[str, str]] | None:
        parts = key.split(".")
        for rule, pattern in self._ours:
            if (names := pattern.match(parts)) is not None:
                return rule, names
        return None

    def knows(self, key: str) -> bool:
        """Whether a rule matches their tensor ``key``."""
        return self._rule_for_theirs(key) is not None

    def drops(self, key: str) -> bool:
        """Whether their tensor ``key`` is known and of no use."""
        parts = key.split(".")
        return any(pattern.match(parts) is not None for pattern in self._dropped)

    def wanted(self, state: Mapping[str, T]) -> dict[str, T]:
        """``state``, by their names, without what is dropped."""
        return {key: value for key, value in state.items() if not self.drops(key)}

    def under(self, prefix: str) -> KeyMap:
        """The same map for files that put ``prefix`` (which ends in a dot) before each of their names."""
        rules = [Rule(tuple(prefix + text for text in rule.theirs), rule.ours, rule.edit) for rule in self.rules]
        rebuilt = {prefix + name: make for name, make in self.rebuilt.items()}
        return KeyMap(rules, [prefix + text for text in self.dropped], rebuilt)

    def ours(self, key: str) -> str:
        """Our name for their tensor ``key`` (a fused tensor's name for each of its parts)."""
        found = self._rule_for_theirs(key)
        return key if found is None else found[0].ours.format(**found[2])

    def theirs(self, key: str) -> list[str]:
        """Their name or names for our tensor ``key``."""
        found = self._rule_for_ours(key)
        return [key] if found is None else [pattern.format(**found[1]) for pattern in found[0].theirs]

    def load(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their tensors under our names, less what is dropped. A fused tensor of which a part is missing is left out,
        so that the strict check that follows reports it."""
        out: dict[str, Tensor] = {}
        parts: dict[str, tuple[Rule, dict[int, Tensor]]] = {}
        for key, tensor in self.wanted(state).items():
            found = self._rule_for_theirs(key)
            if found is None:
                out[key] = tensor
                continue
            rule, part, names = found
            parts.setdefault(rule.ours.format(**names), (rule, {}))[1][part] = tensor
        for key, (rule, tensors) in parts.items():
            if len(tensors) < len(rule.theirs):
                continue
            ordered = [tensors[i] if rule.edit is None else rule.edit.load(tensors[i]) for i in range(len(rule.theirs))]
            out[key] = ordered[0] if len(ordered) == 1 else torch.cat(ordered)
        return out

    def save(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our tensors under their names: the inverse of ``load``."""
        out: dict[str, Tensor] = {}
        for key, tensor in state.items():
            found = self._rule_for_ours(key)
            if found is None:
                out[key] = tensor
                continue
            rule, names = found
            pieces = tensor.chunk(len(rule.theirs)) if len(rule.theirs) > 1 else (tensor,)
            for pattern, piece in zip(rule.theirs, pieces, strict=True):
                out[pattern.format(**names)] = (piece if rule.edit is None else rule.edit.save(piece)).contiguous()
        return out
