"""The dual encoder as weights in a folder, and the reward ``alignment``: how well a picture shows its prompt.

B clips, T frames of each, N pictures, H/W sides of a frame, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from frolic.errors import CheckpointError
from frolic.io import safetensors
from frolic.io.files import read_json_object, write_json
from frolic.models.dual import DualConfig, DualEncoder
from frolic.models.dual.latent import LatentDualEncoder
from frolic.rewards.base import Base, per_frame
from frolic.rewards.kept import Kept
from frolic.rewards.preprocess import resize
from frolic.rewards.texts import Reader

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_REMEMBERED = 256


def shipped() -> Path:
    """The folder of the dual encoder that comes with frolic."""
    return Path(str(resources.files("frolic").joinpath("rewards/weights/dual")))


def write_dual(encoder: DualEncoder | LatentDualEncoder, folder: Path, *, text: str, facts: dict[str, Any]) -> None:
    """``config.json`` and bfloat16 weights into ``folder``, which is there. ``text`` is the fingerprint of the text
    encoder whose states it reads, ``facts`` what else should be known of it."""
    tensors = {name: tensor.detach().to("cpu", torch.bfloat16) for name, tensor in encoder.state_dict().items()}
    safetensors.save(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    notes = {"_text_encoder": text, **{f"_{name}": fact for name, fact in facts.items()}}
    write_json(folder / CONFIG, {**encoder.config.to_json(), **notes})


def read_dual(folder: Path | None = None) -> tuple[DualEncoder, str]:
    """The encoder in ``folder``, the shipped one if none is named, in float32; and the fingerprint of its text encoder.

    Raises:
        CheckpointError: listing all that is wrong.
    """
    folder = shipped() if folder is None else folder
    raw = read_json_object(folder / CONFIG)
    encoder = DualEncoder(DualConfig.from_json(raw))
    safetensors.fill(encoder, folder / WEIGHTS, fault="does not fit the reward")
    text = raw.get("_text_encoder")
    if not isinstance(text, str):
        raise CheckpointError(f"{folder / CONFIG} does not say which text encoder it reads; train it again.")
    encoder.eval().requires_grad_(False)
    return encoder, text


def reader_for(mark: str, folder: Path | None = None) -> Reader:
    """The text encoder in ``folder`` (the starter's, if not named), if it is the one of that fingerprint.

    Raises:
        CheckpointError: it is another one, whose states mean nothing to the reward.
    """
    reader = Reader(folder)
    if reader.mark != mark:
        raise CheckpointError(
            f"The reward was trained with another text encoder than {reader.path.parent}; train it again with this "
            "one, or name the folder of that model with the option text."
        )
    return reader


class Prompts:
    """Texts to embeddings [B, D], each encoded once and by itself, the last few remembered."""

    def __init__(self, reader: Reader, encoder: DualEncoder) -> None:
        self.reader, self.encoder = reader, encoder
        self._kept = Kept(_REMEMBERED, self._one)

    def embed(self, prompts: Sequence[str], device: torch.device) -> Tensor:
        return torch.stack([self._kept.of([prompt])[0].to(device) for prompt in prompts])

    def _one(self, prompt: str) -> Tensor:
        home = self.encoder.scale.device
        self.reader.encoder.to(home)
        # What is remembered must be the same whatever mode the caller is in.
        with torch.autocast(home.type, enabled=False):
            ids, mask = (t.to(home) for t in self.reader.tokens([prompt]))
            made: Tensor = self.encoder.text(self.reader.states(ids, mask), mask)[0]
        return made


class Alignment(Base):
    """The cosine, in [-1, 1], of a picture and its prompt in the dual encoder's space; the mean over a clip's frames.

    ``weights`` and ``text`` are folders of another dual encoder and of the model whose text encoder that reads.
    """

    name = "alignment"

    def __init__(self, weights: str | Path | None = None, text: str | Path | None = None) -> None:
        """Raises:
        CheckpointError, ModelNotFoundError: the weights cannot be read, or do not belong together.
        """
        super().__init__()
        folder = shipped() if weights is None else Path(weights).expanduser()
        self.encoder, mark = read_dual(folder)
        self.prompts = Prompts(reader_for(mark, None if text is None else Path(text).expanduser()), self.encoder)
        self.marks = {"dual encoder": safetensors.fingerprint([folder / WEIGHTS]), "text encoder": mark}
        self.freeze()

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        assert len(prompts) == len(frames_BT3HW), "a prompt for each clip"
        texts_BD = self.prompts.embed(prompts, frames_BT3HW.device)
        texts_ND = texts_BD.repeat_interleave(frames_BT3HW.shape[1], dim=0)
        return per_frame(cosines(self.encoder, texts_ND), frames_BT3HW)


def cosines(encoder: DualEncoder, texts_ND: Tensor) -> Callable[[Tensor], Tensor]:
    """``[N, 3, H, W]`` in [0, 1] to ``[N]``."""

    def score(x_N3HW: Tensor) -> Tensor:
        return (encoder.image(resize(x_N3HW, encoder.config.side)) * texts_ND).sum(dim=-1)

    return score
