"""What frolic knows of a model family, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from frolic.keymap import KeyMap


@dataclass(frozen=True)
class ComponentSpec:
    """One part of a pipeline folder (``transformer``, ``vae``, ``text_encoder``).

    ``class_names`` are the classes a ``config.json`` may name. ``configure`` turns that file's mapping into the
    part's config and raises ``CheckpointError`` on what it does not understand. ``build`` makes the module (on
    whatever device is current). ``keymap`` translates the published names into the module's, for a config.
    """

    class_names: tuple[str, ...]
    configure: Callable[[Mapping[str, Any]], Any]
    build: Callable[[Any], nn.Module]
    keymap: Callable[[Any], KeyMap]


@dataclass(frozen=True)
class SamplingDefaults:
    """What a request gets where it says nothing. ``height`` and ``width`` in pixels, ``max_tokens`` of the prompt."""

    height: int
    width: int
    steps: int
    guidance_scale: float
    sampler: str
    shift: float
    max_tokens: int
    negative_prompt: str = ""
    lowercase: bool = True


@dataclass(frozen=True)
class FamilySpec:
    """A family of models that one pipeline draws with; ``pipeline_class`` is what ``model_index.json`` names it."""

    name: str
    pipeline_class: str
    components: Mapping[str, ComponentSpec]
    defaults: SamplingDefaults
