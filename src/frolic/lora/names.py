"""Whose weight a name in an adapter's file means: found among the names that the model's own key maps know, never
guessed from where underscores might have been dots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from frolic.keymap import KeyMap

PREFIXES = (
    "base_model.model.transformer.",
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "unet.",
)
FLAT_PREFIXES = ("lora_unet__", "lora_unet_", "lora_transformer_", "lycoris_")
TEXT_PREFIXES = ("text_encoder.", "text_encoders.", "te.", "lora_te_", "lora_te1_", "lora_te2_")


@dataclass(frozen=True)
class Place:
    """A linear of ours by its name, and which of ``parts`` equal ranges of its rows."""

    linear: str
    part: int = 0
    parts: int = 1

    def rows(self, outputs: int) -> slice:
        each = outputs // self.parts
        return slice(self.part * each, (self.part + 1) * each)


class Names:
    """The names of a model's linears in every naming that its family is published in.

    Args:
        linears: our names of the layers that an adapter may change.
        layouts: key maps by the layout's name; ours need none.
    """

    def __init__(self, linears: Iterable[str], layouts: Mapping[str, KeyMap]) -> None:
        self.linears = tuple(linears)
        self.layouts = dict(layouts)
        self._places: dict[str, Place] = {}
        self._spoken: dict[str, dict[str, list[str]]] = {}
        for layout, keymap in self.layouts.items():
            spoken = self._spoken[layout] = {}
            for linear in self.linears:
                theirs = [name.removesuffix(".weight") for name in keymap.theirs(f"{linear}.weight")]
                spoken[linear] = theirs
                for part, name in enumerate(theirs):
                    self._places.setdefault(name, Place(linear, part, len(theirs)))
        for linear in self.linears:
            self._places.setdefault(linear, Place(linear))
        self._flat: dict[str, Place | None] = {}
        for name, place in self._places.items():
            flat = name.replace(".", "_")
            # Two layers that only dots tell apart cannot be told apart: neither is taken.
            same = self._flat.get(flat, place) == place
            self._flat[flat] = place if same else None

    def find(self, module: str) -> Place | None:
        """The place of a module's name as a file has it, with whatever prefix."""
        for prefix in ("", *PREFIXES):
            if module.startswith(prefix) and (found := self._places.get(module[len(prefix) :])):
                return found
        for prefix in FLAT_PREFIXES:
            if module.startswith(prefix) and (found := self._flat.get(module[len(prefix) :])):
                return found
        return None

    def known(self) -> list[str]:
        """Every dotted name, to suggest the nearest of."""
        return list(self._places)

    def spoken(self, linear: str, layout: str) -> list[str]:
        """What ``linear`` is called in a layout: several names where it is split there."""
        return self._spoken[layout][linear]
