"""What a reward reads of a prompt: the states of a text encoder that stays as it is, the shipped starter's if no other
is named.

B batch, S tokens, E width of a token's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from torch import Tensor

from frolic.io import safetensors
from frolic.io.files import read_json_object
from frolic.io.tokenizer import FILE, Tokenizer
from frolic.models.registry import families

TOKENS = 24
FAMILY = "sana"


def starter() -> Path:
    """The shipped starter's folder."""
    return Path(str(resources.files("frolic").joinpath("starter/model")))


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
        safetensors.fill(self.encoder, self.path, spec.keymap(config), fault="does not fit its config")
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
