"""The reward ``preference``: what ``frolic reward train`` learned from choices.

Its folder holds all it needs but the text encoder: the dual encoder, as it was stored, in ``encoder.safetensors``; the
head in ``model.safetensors``; and what they were learned from in ``config.json``.

B clips, T frames of each, H/W sides of a frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from frolic.errors import CheckpointError, ConfigError
from frolic.io import safetensors
from frolic.io.files import read_json_object, write_json
from frolic.models.configs import FLAG, MAPPING, TEXT, Kind, read_config, refuse, whole
from frolic.models.dual import DualConfig, DualEncoder, PreferenceHead, describe, described
from frolic.rewards.base import Base
from frolic.rewards.dual import CONFIG, WEIGHTS, Prompts, reader_for
from frolic.rewards.preprocess import resize, spread

KIND = "preference"
ENCODER = "encoder.safetensors"
_SHARE = Kind("a share or null", lambda value: value is None or (type(value) in (int, float) and 0 <= value <= 1))
_KNOWN = {
    "dual": MAPPING,
    "hidden": whole(0, 4096),
    "frames": whole(1, 4096),
    "prompts": FLAG,
    "text_encoder": TEXT,
    "pairs": whole(1, 2**40),
    "pairs_hash": TEXT,
    "held_out": whole(0, 2**40),
    "agreement": _SHARE,
}


@dataclass(frozen=True)
class PreferenceConfig:
    """``hidden`` units of the head; ``frames`` of a clip that it sees; whether it reads ``prompts``, and by the text
    encoder of which fingerprint.

    ``pairs`` is how many choices it was learned from, those ``held_out`` to measure it included; ``agreement`` the
    share of the held-out ones, ties aside, that it decides alike (None where there are none); ``pairs_hash`` is of
    their contents.
    """

    dual: DualConfig
    hidden: int
    frames: int
    prompts: bool
    text_encoder: str
    pairs: int
    pairs_hash: str
    held_out: int
    agreement: float | None

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> PreferenceConfig:
        """Raises:
        CheckpointError: listing every entry that is missing, unknown or cannot be honoured.
        """
        got = read_config(raw, what="preference", known=_KNOWN, fixed={"model_type": (KIND,)})
        refuse("preference", [f"{key} is missing" for key in _KNOWN if key not in got])
        return cls(**{**got, "dual": DualConfig.from_json(got["dual"])})

    def to_json(self) -> dict[str, Any]:
        return {"model_type": KIND, **asdict(self), "dual": self.dual.to_json()}


class Learned(nn.Module):
    """A dual encoder that stays as it is, and the head that is learned."""

    def __init__(self, encoder: DualEncoder, head: PreferenceHead) -> None:
        super().__init__()
        self.dual, self.head = encoder, head


def write_preference(config: PreferenceConfig, learned: Learned, folder: Path) -> None:
    """The files of a reward into ``folder``, which is there."""
    encoder = {name: tensor.detach().to("cpu", torch.bfloat16) for name, tensor in learned.dual.state_dict().items()}
    head = {name: tensor.detach().cpu().float() for name, tensor in learned.head.state_dict().items()}
    for name, tensors in ((ENCODER, encoder), (WEIGHTS, head)):
        safetensors.save(tensors, folder / name, metadata={"format": "pt"})
    write_json(folder / CONFIG, config.to_json())


def read_preference(folder: Path) -> tuple[PreferenceConfig, Learned]:
    """Raises:
    CheckpointError: listing all that is wrong.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder; give one that `frolic reward train` wrote.")
    config = PreferenceConfig.from_json(read_json_object(folder / CONFIG))
    head = PreferenceHead(described(config.dual, config.prompts), config.hidden)
    learned = Learned(DualEncoder(config.dual), head)
    safetensors.fill(learned.dual, folder / ENCODER, fault="does not fit the reward")
    safetensors.fill(learned.head, folder / WEIGHTS, fault="does not fit the reward")
    return config, learned


def reduced(frames_BT3HW: Tensor, most: int, side: int) -> Tensor:
    """``[B, t, 3, side, side]``: ``most`` of the frames at the size that the encoder reads."""
    x = frames_BT3HW[:, spread(frames_BT3HW.shape[1], most)]
    return resize(x.flatten(0, 1), side).unflatten(0, x.shape[:2])


class Preference(Base):
    """Scores whose difference is the logarithm of the odds that the first of two clips is chosen.

    ``weights`` is a folder that ``frolic reward train`` wrote, ``text`` that of the model whose text encoder it reads,
    if not the starter's.
    """

    name = "preference"

    def __init__(self, weights: str | Path | None = None, text: str | Path | None = None) -> None:
        """Raises:
        ConfigError: no folder is named. CheckpointError, ModelNotFoundError: the weights cannot be read.
        """
        super().__init__()
        if weights is None:
            raise ConfigError("The reward 'preference' is one of your own; give weights, the folder it was trained to.")
        folder = Path(weights).expanduser()
        self.config, self.learned = read_preference(folder)
        self.prompts: Prompts | None = None
        marks = {"preference": safetensors.fingerprint([folder / ENCODER, folder / WEIGHTS])}
        if self.config.prompts:
            reader = reader_for(self.config.text_encoder, None if text is None else Path(text).expanduser())
            self.prompts = Prompts(reader, self.learned.dual)
            marks["text encoder"] = reader.mark
        self.marks = marks
        self.freeze()

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        assert len(prompts) == len(frames_BT3HW), "a prompt for each clip"
        x = reduced(frames_BT3HW, self.config.frames, self.config.dual.side)
        texts = None if self.prompts is None else self.prompts.embed(prompts, x.device)
        score: Tensor = self.learned.head(describe(self.learned.dual, x, texts))
        return score.float()


class Fun(Preference):
    """The preference that ships with frolic, for warm, strong colours: learned from 500 choices between the starter's
    pictures, which a rule made in place of a person (``scripts/fun_choices``). It agrees with 85 % of held-out ones,
    and reads no prompt."""

    name = "fun"

    def __init__(self) -> None:
        super().__init__(str(resources.files("frolic").joinpath("rewards/weights/fun")))
