"""Text to token ids, through a published ``tokenizer.json``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from frolic.errors import CheckpointError


class Tokenizer:
    """A tokenizer of the ``tokenizers`` library. Special tokens (BOS) are added where its file says so."""

    def __init__(self, path: Path) -> None:
        """Read ``path``.

        Raises:
            CheckpointError: it is missing or not a tokenizer.
        """
        from tokenizers import Tokenizer as Backend

        try:
            self._backend = Backend.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"{path} is not a readable tokenizer; get the model's files again.") from error
        # What padding and truncation the file carries belongs to whoever wrote it.
        self._backend.no_padding()
        self._backend.no_truncation()
        pad = self._backend.token_to_id("<pad>")
        self._pad = 0 if pad is None else pad

    @property
    def vocabulary(self) -> int:
        """How many rows an embedding needs: the largest id and one. Ids may leave gaps, so it is not their number."""
        return max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def count(self, prompt: str) -> int:
        """Tokens in ``prompt``, special ones included, before truncation."""
        return len(self._backend.encode(prompt).ids)

    def encode(self, prompts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """Ids [B, max_tokens] (int64) and mask [B, max_tokens] (bool, True on real tokens).

        Padded on the right; cut on the right, so that BOS stays. A prompt without any token keeps its first place
        unmasked, because attention needs something to look at.
        """
        ids_BS = torch.full((len(prompts), max_tokens), self._pad, dtype=torch.int64)
        mask_BS = torch.zeros(len(prompts), max_tokens, dtype=torch.bool)
        for row, encoding in enumerate(self._backend.encode_batch(list(prompts))):
            kept = encoding.ids[:max_tokens]
            ids_BS[row, : len(kept)] = torch.tensor(kept, dtype=torch.int64)
            mask_BS[row, : max(1, len(kept))] = True
        return ids_BS, mask_BS
