"""What frolic knows of a model family, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import nn

from frolic.keymap import KeyMap
from frolic.types import Compat


@dataclass(frozen=True)
class ComponentSpec:
    """One part of a pipeline folder (``transformer``, ``vae``, ``text_encoder``).

    ``class_names`` are the classes a ``config.json`` may name. ``configure`` turns that file's mapping into the
    part's config and raises ``CheckpointError`` on what it does not understand. ``build`` makes the module (on
    whatever device is current). ``keymap`` translates the published names into the module's, for a config.

    ``layouts`` are key maps of other namings that such a part is published in, by name (``original``). A file in one
    of them has no config: ``guess`` finds it from the names and shapes (``{name: shape}``) of the tensors.
    ``channels_last`` is the memory format that a part of convolutions is fastest in. ``fuse`` lets a part compute in
    fewer, larger steps while it is trained on the CPU, and says whether it could. ``precise`` says of one
    of our tensors, by name, that it stays float32 whatever the part's dtype is.
    """

    class_names: tuple[str, ...]
    configure: Callable[[Mapping[str, Any]], Any]
    build: Callable[[Any], nn.Module]
    keymap: Callable[[Any], KeyMap]
    layouts: Mapping[str, Callable[[Any], KeyMap]] = field(default_factory=lambda: MappingProxyType({}))
    guess: Callable[[Mapping[str, tuple[int, ...]]], Any] | None = None
    channels_last: bool = False
    fuse: Callable[[nn.Module], bool] | None = None
    precise: Callable[[str], bool] = lambda name: False


def either(*specs: ComponentSpec) -> ComponentSpec:
    """A part that is of one kind or another, which its config tells; a file without one is taken for the first.

    Each kind's config is of a class of its own.
    """

    def of(raw: Mapping[str, Any]) -> ComponentSpec:
        names = {raw.get("_class_name"), *(raw.get("architectures") or ())}
        return next((spec for spec in specs if names & {*spec.class_names}), specs[0])

    kinds: dict[type, ComponentSpec] = {type(spec.configure({})): spec for spec in specs}
    layouts = {name for spec in specs for name in spec.layouts}

    def layout(name: str) -> Callable[[Any], KeyMap]:
        return lambda config: kinds[type(config)].layouts.get(name, kinds[type(config)].keymap)(config)

    return ComponentSpec(
        class_names=tuple(name for spec in specs for name in spec.class_names),
        configure=lambda raw: of(raw).configure(raw),
        build=lambda config: kinds[type(config)].build(config),
        keymap=lambda config: kinds[type(config)].keymap(config),
        layouts=MappingProxyType({name: layout(name) for name in sorted(layouts)}),
    )


@dataclass(frozen=True)
class SamplingDefaults:
    """What a request gets where it says nothing. ``height`` and ``width`` in pixels, ``max_tokens`` of the prompt.

    ``instruction`` is what stands before a prompt (not before a negative one) when it is encoded. ``schedule`` names
    whose noise levels they are. ``bin_base`` is the side of the table of sizes the model was trained with
    (``frolic.bins``), 0 where there is none. ``pag_layers`` are the blocks that perturbed-attention guidance perturbs.

    ``frames`` above 1 makes it a model of videos, which play at ``fps``; how many frames one has is 1 and a multiple of
    ``frame_stride``. ``boundary``: the noise level (0 to 1) from which on, upwards, the first of two experts denoises,
    and below it the second, with ``guidance_scale_2`` (None: that of the first). ``clean_first``: a given first frame
    stands in the latents, at a noise level of zero, and ``refine`` is how many updates bring those latents nearer to
    what the autoencoder makes the frame of again. ``reading``: whose reading of texts (``Compat``) it is; with
    ``spaces``, each run of white space is one and HTML's entities are characters.
    """

    height: int
    width: int
    steps: int
    guidance_scale: float
    sampler: str
    shift: float
    max_tokens: int
    negative_prompt: str = ""
    lowercase: bool = True
    instruction: str = ""
    schedule: str = "diffusers"
    bin_base: int = 0
    pag_layers: tuple[int, ...] = (0,)
    frames: int = 1
    fps: float = 16.0
    frame_stride: int = 4
    boundary: float | None = None
    guidance_scale_2: float | None = None
    clean_first: bool = False
    refine: int = 0
    reading: Compat = "diffusers"
    spaces: bool = False

    @property
    def most_pixels(self) -> int:
        """How many pixels a picture may have whose size nobody asked for. With a table of sizes none is drawn larger
        than those, whatever it is brought to."""
        if self.frames > 1:
            return self.height * self.width
        return 2**31 if self.bin_base else 2 * self.height * self.width


@dataclass(frozen=True)
class Published:
    """One published checkpoint: what it is called here, where it lies, and what must be known to draw with it.

    ``repo`` is the pipeline folder on the Hub and ``original`` the authors' own file as ``org/name:path``, where there
    is one. ``config`` is the transformer's config. ``dtypes`` holds, for each part, the names of the dtypes that are
    safe, the one to prefer on an accelerator first; ``variant`` is the file variant (``fp16``, ``bf16``) that holds it.
    ``size`` is the side in pixels that it was trained for, ``defaults`` what differs from the family's defaults.
    """

    name: str
    repo: str
    original: str
    config: Any
    size: int
    dtypes: Mapping[str, tuple[str, ...]]
    variant: str = ""
    defaults: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    license: str = ""


@dataclass(frozen=True)
class FamilySpec:
    """A family of models that one pipeline draws with.

    ``pipeline_classes`` are what a ``model_index.json`` may name it. Every pipeline has the ``components``; the
    ``optional`` ones are there or not, and can be given beside a model. ``adapt`` turns the configs of the components
    into the sampling defaults that follow from them. ``dtypes`` names, for each part that is not safe in all, those
    that are, the one to prefer first. ``native`` changes the defaults to what the authors' own code does where
    diffusers differs. ``settings`` are entries of a ``model_index.json`` that say a sampling default, by its name.
    ``misfits`` lists what keeps parts, by their configs, from working together: what it is about, and what is wrong.
    """

    name: str
    pipeline_classes: tuple[str, ...]
    components: Mapping[str, ComponentSpec]
    defaults: SamplingDefaults
    published: tuple[Published, ...] = ()
    optional: Mapping[str, ComponentSpec] = field(default_factory=lambda: MappingProxyType({}))
    adapt: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda configs: {}
    dtypes: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    native: Callable[[SamplingDefaults], SamplingDefaults] = lambda defaults: defaults
    settings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    misfits: Callable[[Mapping[str, Any], SamplingDefaults], list[tuple[str, str]]] = lambda configs, defaults: []
