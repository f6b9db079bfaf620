"""The image and text towers of CLIP, and SigLIP's of images: their modules are transformers', which is imported here
and only when a reward is made.

N pictures, S tokens of a text, P places of a picture (its patches, after one that stands for all of it), D the width
that both towers project to.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.errors import ConfigError
from frolic.rewards.preprocess import CLIP_MEAN, CLIP_STD, normalise, resize
from frolic.rewards.reading import build

FITS = ("squash", "crop", "pad")


def _clip(vision: tuple[int, int, int, int, int], text: tuple[int, int, int], act: str) -> dict[str, Any]:
    """``config.json`` of a published CLIP: width, layers, heads, patch and side of pictures; the first three of texts,
    whose width is also the projection's."""
    width, layers, heads, patch, side = vision
    shared = {"hidden_act": act, "layer_norm_eps": 1e-5, "projection_dim": text[0]}
    return {
        "model_type": "clip",
        "projection_dim": text[0],
        "vision_config": {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "patch_size": patch,
            "image_size": side,
            **shared,
        },
        "text_config": {
            "hidden_size": text[0],
            "intermediate_size": 4 * text[0],
            "num_hidden_layers": text[1],
            "num_attention_heads": text[2],
            "max_position_embeddings": 77,
            "vocab_size": 49408,
            **shared,
        },
    }


CLIPS: Mapping[str, Mapping[str, Any]] = {
    "openai-vit-b-32": _clip((768, 12, 12, 32, 224), (512, 12, 8), "quick_gelu"),
    "openai-vit-b-16": _clip((768, 12, 12, 16, 224), (512, 12, 8), "quick_gelu"),
    "openai-vit-l-14": _clip((1024, 24, 16, 14, 224), (768, 12, 12), "quick_gelu"),
    "openai-vit-l-14-336": _clip((1024, 24, 16, 14, 336), (768, 12, 12), "quick_gelu"),
    "laion-vit-h-14": _clip((1280, 32, 16, 14, 224), (1024, 24, 16), "gelu"),
}
"""The published ones. Tensors do not say which nonlinearity they were trained with, so a name has to."""

SO400M: Mapping[str, Any] = {
    "model_type": "siglip",
    "vision_config": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": 384,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
    },
}
"""SigLIP so400m-patch14-384, Zhai et al., "Sigmoid Loss for Language Image Pre-Training" (arXiv 2303.15343)."""

_SMALL_TEXT = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}


class Eye(nn.Module):
    """What looks at pictures: ``fit`` is how they are brought to the tower's square (``resize``)."""

    vision_model: nn.Module
    visual_projection: nn.Module

    def __init__(self, vision_model: Any, projection: Any, fit: str) -> None:
        super().__init__()
        if fit not in FITS:
            raise ConfigError(f"fit is {fit!r}; give one of {', '.join(FITS)}.")
        self.vision_model = vision_model
        if projection is not None:
            self.visual_projection = projection
        config = vision_model.config
        self.projects = projection is not None
        self.width: int = projection.out_features if self.projects else config.hidden_size
        self.side, self.fit = int(config.image_size), fit
        self.mean, self.deviation = (CLIP_MEAN, CLIP_STD) if self.projects else ((0.5,) * 3, (0.5,) * 3)

    def see(self, pictures_N3HW: Tensor) -> Tensor:
        """The pictures as the tower wants them, ``[N, 3, side, side]``."""
        return normalise(resize(pictures_N3HW, self.side, self.fit), self.mean, self.deviation)

    def summary(self, seen_N3SS: Tensor) -> Tensor:
        """``[N, D]``, of length 1: what the tower makes of each picture as a whole."""
        pooled: Tensor = self.vision_model(pixel_values=self._cast(seen_N3SS)).pooler_output
        return unit(self.visual_projection(pooled) if self.projects else pooled)

    def states(self, seen_N3SS: Tensor) -> Tensor:
        """``[N, P, D]``: what the last block makes of each place, projected, without the norm that comes before the
        projection of a whole picture: as MPS takes them."""
        states: Tensor = self.vision_model(pixel_values=self._cast(seen_N3SS)).last_hidden_state
        return torch.as_tensor(self.visual_projection(states))

    def _cast(self, seen_N3SS: Tensor) -> Tensor:
        return seen_N3SS.to(next(self.vision_model.parameters()).dtype)


class Clip(Eye):
    """Both towers of CLIP, Radford et al., "Learning Transferable Visual Models From Natural Language Supervision"
    (arXiv 2103.00020)."""

    text_model: nn.Module
    text_projection: nn.Module

    def __init__(self, model: Any, fit: str) -> None:
        super().__init__(model.vision_model, model.visual_projection, fit)
        self.text_model, self.text_projection = model.text_model, model.text_projection
        config = model.config.text_config
        self.tokens: int = config.max_position_embeddings
        self.vocabulary: int = config.vocab_size

    def read(self, ids: list[int]) -> tuple[Tensor, Tensor]:
        """``[S, D]``, the projected state of each token, and ``[D]``, of length 1, what the text says as a whole: the
        state of the token that ends it, which is the one with the largest id."""
        place = next(self.text_projection.parameters()).device
        ids_1S = torch.tensor([ids], device=place)
        with torch.autocast(place.type, enabled=False):
            states: Tensor = self.text_projection(self.text_model(input_ids=ids_1S).last_hidden_state)[0]
        return states, unit(states[int(ids_1S[0].argmax())])


def precise(x: Tensor) -> Tensor:
    """In float32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def unit(x: Tensor) -> Tensor:
    """Scaled to length 1 along the last axis, and ``precise``."""
    return F.normalize(precise(x), dim=-1)


def clip(raw: Mapping[str, Any], where: Path, fit: str) -> Clip:
    """CLIP by its ``config.json``, on meta.

    Raises:
        ConfigError: transformers is not installed, or ``fit`` is not known.
        CheckpointError: nothing can be built by these settings.
    """
    return build(lambda: Clip(_made("CLIP", raw), fit), where)


def clip_eye(raw: Mapping[str, Any], where: Path, fit: str) -> Eye:
    """Its image tower alone. Raises as ``clip``."""

    def make() -> Eye:
        # An old config says it all twice.
        model = _made("CLIP", {**raw, "text_config": _SMALL_TEXT, "text_config_dict": None})
        return Eye(model.vision_model, model.visual_projection, fit)

    return build(make, where)


def siglip_eye(raw: Mapping[str, Any], where: Path, fit: str) -> Eye:
    """SigLIP's image tower, by its ``config.json``, on meta. Raises as ``clip``."""

    def make() -> Eye:
        model = _made("Siglip", {**raw, "text_config": _SMALL_TEXT})
        return Eye(model.vision_model, None, fit)

    return build(make, where)


def _made(family: str, raw: Mapping[str, Any]) -> Any:
    try:
        import transformers

        # Its names import what they stand for when they are asked for.
        config, model = (getattr(transformers, f"{family}{kind}") for kind in ("Config", "Model"))
    except ImportError as error:
        raise ConfigError(
            f"Published rewards need transformers ({error}); install frolic with its rewards extra."
        ) from error
    return model(config.from_dict(dict(raw)))
