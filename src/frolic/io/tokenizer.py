"""Text to token ids, through a published ``tokenizer.json``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from frolic.errors import CheckpointError
from frolic.io.problems import Problems

FILE = "tokenizer.json"
_SENTENCEPIECE = "tokenizer.model"


def find_tokenizer(folder: Path, problems: Problems) -> Path:
    """The tokenizer in ``folder``, a pipeline folder's ``tokenizer``. That there is none is noted."""
    if not (folder / FILE).is_file():
        if (folder / _SENTENCEPIECE).is_file():
            problems.add("unsupported", f"{folder.name}/{_SENTENCEPIECE} alone; put the same model's {FILE} beside it")
        else:
            problems.add("missing", f"{folder.name}/{FILE}")
    return folder / FILE


class Tokenizer:
    """A tokenizer of the ``tokenizers`` library. Special tokens (BOS) are added where its file says so.

    ``pad`` is the id that stands where there is no token.
    """

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
        self.pad: int = 0 if pad is None else pad

    @property
    def vocabulary(self) -> int:
        """How many rows an embedding needs: the largest id and one. Ids may leave gaps, so it is not their number."""
        return max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def find(self, token: str) -> int | None:
        """The id of one token, or None where there is no such token."""
        found: int | None = self._backend.token_to_id(token)
        return found

    def ids(self, text: str) -> list[int]:
        """The ids of all of ``text``, special ones included. Text is one string to it: the ids of a part need not be
        part of the ids."""
        ids: list[int] = self._backend.encode(text).ids
        return ids

    def cut(self, text: str, most: int) -> list[int]:
        """As ``ids``, of which ``most`` are kept; the special token that ends a text ends what is left of it too."""
        ids = self.ids(text)
        if len(ids) <= most:
            return ids
        ending = self.ids("")[-1:]
        return [*ids[: most - 1], *ending] if ending and ending == ids[-1:] else ids[:most]

    def count(self, text: str) -> int:
        """Tokens in ``text``, special ones included, before truncation."""
        return len(self.ids(text))

    def encode(self, prompts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """Ids [B, max_tokens] (int64) and mask [B, max_tokens] (bool, True on real tokens).

        Padded on the right; cut on the right, so that BOS stays. A prompt without any token keeps its first place
        unmasked, because attention needs something to look at.
        """
        ids_BS = torch.full((len(prompts), max_tokens), self.pad, dtype=torch.int64)
        mask_BS = torch.zeros(len(prompts), max_tokens, dtype=torch.bool)
        for row, encoding in enumerate(self._backend.encode_batch(list(prompts))):
            kept = encoding.ids[:max_tokens]
            ids_BS[row, : len(kept)] = torch.tensor(kept, dtype=torch.int64)
            mask_BS[row, : max(1, len(kept))] = True
        return ids_BS, mask_BS
