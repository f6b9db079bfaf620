"""What a reward reads of a prompt: the states of a text encoder that stays as it is, the shipped starter's if no other
is named.

B batch, S tokens, E width of a token's state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor, nn

from frolic.errors import CheckpointError
from frolic.io import safetensors
from frolic.io.files import read_json_object
from frolic.io.problems import Problems
from frolic.io.tokenizer import FILE, Tokenizer
from frolic.models.registry import families

TOKENS = 24
FAMILY = "sana"


def starter() -> Path:
    """The shipped starter's folder."""
    return Path(str(resources.files("frolic").joinpath("starter/model")))


def fill(module: nn.Module, path: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Fill ``module`` strictly from a file that has its names, or with the tensors of ``state``, in float32.

    Raises:
        CheckpointError: listing all that is wrong.
    """
    if state is None:
        problems = Problems(f"{path} does not fit the reward")
        entries = safetensors.read_headers(path)
        safetensors.compare(entries, module.state_dict(), problems)
        problems.raise_any(CheckpointError)
        state = safetensors.read_tensors(entries, problems, dtype=torch.float32)
        problems.raise_any(CheckpointError)
    module.load_state_dict(dict(state))


class Reader:
    """Texts to states. ``folder`` holds ``text_encoder`` and ``tokenizer``, as a model's folder does."""

    def __init__(self, folder: Path | None = None) -> None:
        """Raises:
        CheckpointError, ModelNotFoundError: it cannot be read.
        """
        folder = folder or starter()
        spec = families()[FAMILY].components["text_encoder"]
        config = spec.configure(read_json_object(folder / "text_encoder" / "config.json"))
        self.encoder = spec.build(config)
        self.path = safetensors.find_weights(folder / "text_encoder")
        keymap = spec.keymap(config)
        problems = Problems(f"{self.path} does not fit its config")
        entries = safetensors.read_headers(self.path)
        safetensors.compare(entries, keymap.save(self.encoder.state_dict()), problems)
        problems.raise_any(CheckpointError)
        tensors = safetensors.read_tensors(entries, problems, dtype=torch.float32)
        problems.raise_any(CheckpointError)
        fill(self.encoder, self.path, keymap.load(tensors))
        self.encoder.eval().requires_grad_(False)
        self.tokenizer = Tokenizer(folder / "tokenizer" / FILE)
        self.width: int = config.width
        self.mark = safetensors.fingerprint([self.path, folder / "tokenizer" / FILE])

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids [B, S] and mask [B, S]; S is that of the longest, ``TOKENS`` at most."""
        ids, mask = self.tokenizer.encode([text.lower().strip() for text in texts], TOKENS)
        longest = int(mask.sum(dim=1).max())
        return ids[:, :longest], mask[:, :longest]

    def states(self, ids_BS: Tensor, mask_BS: Tensor) -> Tensor:
        """``[B, S, E]`` in float32."""
        states: Tensor = self.encoder(ids_BS, mask_BS)
        return states.float()
