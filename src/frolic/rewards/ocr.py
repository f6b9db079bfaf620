"""Whether the text that a prompt asks for can be read in the picture.

N pictures, H/W their sides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from frolic.errors import ConfigError, RequestError
from frolic.rewards.base import Base
from frolic.rewards.called import as_bytes

if TYPE_CHECKING:
    import numpy as np

Engine = Callable[["np.ndarray"], str]
"""The text in a picture, uint8 [H, W, 3]."""
_QUOTES = re.compile(r'"([^"]+)"|“([^”]+)”|«([^»]+)»|「([^」]+)」|(?<!\w)\'([^\']+)\'(?!\w)')
_MOST = 2000
"""Letters of an answer that are compared: a page of them is as wrong as all of them."""


class Legible(Base):
    """1 minus the normalised edit distance (Levenshtein 1966) between the text quoted in the prompt and what an OCR
    reads in the frame; the mean over the frames. 1 is the text and nothing else, 0 none of it.

    Case and spaces do not count: readers disagree about them. The distance is divided by the longer text's length, so
    that a picture full of letters, in which any text could be found, scores low. ``engine``: by default RapidOCR, of
    the extra ``frolic[ocr]``.

    Raises:
        ConfigError: there is no OCR here.
        RequestError: listing the prompts that quote nothing.
    """

    name = "ocr"
    differentiable = False

    def __init__(self, engine: Engine | None = None) -> None:
        super().__init__()
        self.engine = engine or rapidocr()

    def check_prompts(self, prompts: Sequence[str]) -> None:
        if silent := [prompt for prompt in prompts if not quoted(prompt)]:
            listed = "; ".join(f"{prompt[:80]!r}" for prompt in silent[:8]) + (" ..." if len(silent) > 8 else "")
            raise RequestError(
                f'The reward ocr compares with the text that the prompt quotes, as in: a sign that says "open". '
                f"Nothing is quoted in {listed}"
            )

    def score(self, frames_BT3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        self.check_prompts(prompts)
        wanted = [quoted(prompt) for prompt in prompts]
        scores = [
            sum(likeness(text, self.engine(frame)) for frame in clip) / len(clip)
            for text, clip in zip(wanted, as_bytes(frames_BT3HW), strict=True)
        ]
        return torch.tensor(scores, dtype=torch.float32, device=frames_BT3HW.device)


def quoted(prompt: str) -> str:
    """What stands in quotation marks, several of it with a space between; an apostrophe is none."""
    return " ".join(next(filter(None, groups)) for groups in _QUOTES.findall(prompt))


def likeness(wanted: str, read: str) -> float:
    """1 minus the edit distance over the longer one's length, without case and spaces."""
    a, b = ("".join(text.casefold().split())[:_MOST] for text in (wanted, read))
    return 1 - distance(a, b) / max(len(a), len(b), 1)


def distance(a: str, b: str) -> int:
    """How many letters must be put in, taken out or exchanged to make ``b`` of ``a`` (Wagner and Fischer 1974)."""
    row = list(range(len(b) + 1))
    for i, one in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (one != other))
    return row[-1]


def rapidocr() -> Engine:
    """RapidOCR with the small models that its package brings, under either of its two names.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        from rapidocr import RapidOCR

        reader: Any = RapidOCR(params={"Global.log_level": "error"})
    except ImportError as missing:
        try:
            from rapidocr_onnxruntime import RapidOCR as Older
        except ImportError:
            raise ConfigError(
                f"The reward ocr needs a reader ({missing}); install one: pip install 'frolic[ocr]'."
            ) from missing
        reader = Older()

    def read(picture: np.ndarray) -> str:
        found = reader(picture[..., ::-1])  # blue first, as OpenCV has it
        if isinstance(found, tuple):
            return " ".join(str(line[1]) for line in found[0] or ())
        return " ".join(found.txts or ())

    return read
