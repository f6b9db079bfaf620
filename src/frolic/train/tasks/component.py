"""Parts of a pipeline folder, as training meets them: built from a recipe, written, and read back."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from frolic.config import Recipe, Section
from frolic.data.motion import Loops
from frolic.data.scenes import KINDS, TRAINING_MIX
from frolic.data.starter import animated
from frolic.data.starter.concepts import Concept
from frolic.data.starter.pack import default_folder, read
from frolic.errors import CheckpointError, ConfigError, nearest
from frolic.io import safetensors
from frolic.io.files import read_json_object, write_json
from frolic.models.registry import families
from frolic.spec import ComponentSpec

JobT = TypeVar("JobT", bound=Section)
DataT = TypeVar("DataT", bound=Section)

WEIGHTS = {"text_encoder": "model.safetensors"}
Store = Literal["bfloat16", "float8"]
STORED: Mapping[Store, torch.dtype] = {"bfloat16": torch.bfloat16, "float8": torch.float8_e4m3fn}
"""What finished weights can be kept in. Of 8 bits, every reader casts them to what it computes in."""
_LARGE = 2**15
_ENDS = ("patch.", "out.")
_DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"


def training_mix() -> dict[str, float]:
    return dict(TRAINING_MIX)


def known_kinds(kinds: Collection[str]) -> AfterValidator:
    """That shares are of these ``kinds``, and not all nothing."""

    def check(mix: dict[str, float]) -> dict[str, float]:
        unknown = [f"{kind!r}{nearest(kind, kinds)}" for kind in mix if kind not in kinds]
        if unknown or not sum(mix.values()):
            raise ValueError(f"give {', '.join(kinds)}, at least one of them above 0; not {', '.join(unknown) or mix}")
        return mix

    return AfterValidator(check)


Share = Annotated[float, Field(ge=0)]
Mix = Annotated[dict[str, Share], known_kinds(KINDS)]
"""Kinds of scenes, each with its share."""


class ModelSection(Section):
    """``family`` is a registered one; ``config`` is the component's published config, entry by entry."""

    family: str
    config: dict[str, Any]


def sections(recipe: Recipe, job: type[JobT], data: type[DataT]) -> tuple[JobT, DataT, ModelSection]:
    """A recipe's own sections, read as what this kind of job declares.

    Raises:
        ConfigError: listing what is wrong with a section, and where it was written.
    """
    return recipe.section("job", job), recipe.section("data", data), recipe.section("model", ModelSection)


def component_spec(family: str, component: str) -> ComponentSpec:
    """Raises:
    ConfigError: there is no such family.
    """
    known = families()
    if family not in known:
        raise ConfigError(f"model.family {family!r} is unknown{nearest(family, known)}; known: {', '.join(known)}.")
    return known[family].components[component]


def write_component(
    spec: ComponentSpec, component: str, config: Any, module: nn.Module, folder: Path, dtype: torch.dtype
) -> None:
    """``config.json`` and safetensors under the published names, into an empty or new ``folder``. In 8 bits only large
    matrices are kept, which are nearly all there is; the rest, and what embeds times and captions, is in bfloat16
    then."""
    folder.mkdir(parents=True, exist_ok=True)
    state = spec.keymap(config).save(module.state_dict())

    def kept(name: str, tensor: Tensor) -> torch.dtype:
        large = tensor.ndim > 1 and tensor.numel() >= _LARGE and name.endswith(".weight")
        # A vocabulary is most of a small text encoder, and each token has its own rounding.
        rough = "embed" not in name or name.endswith("embed_tokens.weight")
        return dtype if (large and rough) or dtype.itemsize > 1 else torch.bfloat16

    tensors = {name: tensor.detach().to("cpu", kept(name, tensor)) for name, tensor in state.items()}
    weights = WEIGHTS.get(component, _DIFFUSERS_WEIGHTS)
    safetensors.save(tensors, folder / weights, metadata={"format": "pt"})
    write_json(folder / "config.json", config.to_json())


def read_component(family: str, component: str, folder: Path) -> tuple[Any, nn.Module]:
    """The config and the module, in float32, from what ``write_component`` or a publisher wrote.

    Raises:
        ConfigError: there is no such folder. CheckpointError: listing all that is wrong. FileError: it cannot be read.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"{folder} is not there. A run of another recipe makes it: finish that one first, or name a model that has "
            f"a {component.replace('_', ' ')}, such as starter."
        )
    spec = component_spec(family, component)
    config = spec.configure(read_json_object(folder / "config.json"))
    module = spec.build(config)
    load_weights(spec, config, module, folder)
    return config, module.eval()


def load_weights(spec: ComponentSpec, config: Any, module: nn.Module, folder: Path) -> None:
    """Fill ``module`` strictly from the component folder.

    Raises:
        CheckpointError: listing all that is wrong. FileError: it cannot be read.
    """
    safetensors.fill(module, safetensors.find_weights(folder), spec.keymap(config))


def load_between(family: str, transformer: nn.Module, folder: Path) -> None:
    """Fill a transformer from one that another autoencoder belongs to: all but its first and its last layer, which read
    and write latents.

    Raises:
        CheckpointError: the two are of different shapes between their ends. FileError: it cannot be read.
    """
    _, other = read_component(family, "transformer", folder)
    given = {name: value for name, value in other.state_dict().items() if not name.startswith(_ENDS)}
    wanted = {name: value for name, value in transformer.state_dict().items() if not name.startswith(_ENDS)}
    shapes = [{name: tuple(value.shape) for name, value in each.items()} for each in (given, wanted)]
    wrong = sorted(name for name in shapes[0].keys() | shapes[1].keys() if shapes[0].get(name) != shapes[1].get(name))
    if wrong:
        raise CheckpointError(
            f"{folder} is no model of the same shape between its ends: {', '.join(wrong[:8])}"
            f"{f' and {len(wrong) - 8} more' if len(wrong) > 8 else ''} differ."
        )
    transformer.load_state_dict(given, strict=False)


def weights_mark(folder: Path) -> str:
    """A fingerprint of the weights in a component's folder."""
    return safetensors.fingerprint([safetensors.find_weights(folder)])


def part_marks(autoencoder: Path, texts: Path) -> dict[str, str]:
    """Fingerprints of the autoencoder and of the text encoder in these models' folders, by what they are called."""
    return {"autoencoder": weights_mark(autoencoder / "vae"), "text encoder": weights_mark(texts / "text_encoder")}


def pack_mark(sprites: Tensor, concepts: list[Concept]) -> str:
    """A fingerprint of a training set: every pixel, every word."""
    return pack_marks(sprites, concepts)[1]


def pack_marks(sprites: Tensor, concepts: list[Concept]) -> tuple[str, str]:
    """A training set's fingerprints: of its pictures alone, and ``pack_mark``."""
    pictures = hashlib.sha256(sprites.contiguous().numpy().data)  # not a copy: it is the better part of a gigabyte
    whole = pictures.copy()
    whole.update(repr(concepts).encode())
    return pictures.hexdigest(), whole.hexdigest()


def open_loops(file: str | None) -> tuple[Loops | None, Tensor | None]:
    """The animated cut-outs in ``file``, or where ``frolic data starter-video`` writes them; nothing for ``none``.

    Raises:
        FileError: they are not there.
    """
    if file == "none":
        return None, None
    rgba, rows = animated.read(Path(file).expanduser() if file else None)
    return Loops(rows, animated.verbs(), animated.headings()), rgba


def open_pack(folder: str | None) -> tuple[Tensor, list[Concept]]:
    """The sprites [N, 4, H, W] and concepts in ``folder``, or where ``frolic data starter`` writes them.

    Raises:
        FileError: they are not there.
    """
    return read(Path(folder).expanduser() if folder else default_folder())
