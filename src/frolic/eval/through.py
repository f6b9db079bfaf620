"""True clips after a model's encoder and decoder: what its pictures could be at best, however good the rest is.

T frames, H/W sides of a frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from frolic.data.compose import PLAIN
from frolic.data.motion import Actor, Clip, render_clip
from frolic.data.moves import move
from frolic.errors import RequestError
from frolic.eval.films import Loops
from frolic.eval.video import LIVELY, Film, Moving

if TYPE_CHECKING:
    from frolic.pipeline import Pipeline


def filmer(
    pipe: Pipeline, rgba_N4HW: Tensor, rows: Mapping[str, int], cases: Sequence[Moving], loops: Loops | None = None
) -> Film:
    """A ``Film`` of what each case asks for, on white and as training shows it, after ``pipe``'s autoencoder in
    float32. ``rows`` says which of the cut-outs a concept is, by its code; ``loops`` are needed for what moves by
    itself.

    Raises:
        RequestError: a case's thing is not among them, or the model draws no clips.
    """
    if not pipe.defaults.frames:
        raise RequestError(f"The model {pipe.card.name} draws pictures; choose one of videos with --model.")
    shape = pipe.defaults.height, pipe.defaults.width, pipe.defaults.frames
    asked = {case.prompt: case for case in cases}
    vae = pipe.vae.float()

    def clip(case: Moving, seed: int) -> Tensor:
        lively = case.move == LIVELY
        if case.code not in (rows if not lively else loops[1] if loops is not None else ()):
            what = "animated cut-out" if lively else "picture"
            raise RequestError(f"The training set has no {what} of {case.prompt!r}; give another with --data.")
        does = move("still" if lively else case.move or "still", Random(seed))
        loop = loops[1][case.code] if lively and loops is not None else None
        shown = Clip("one", (Actor(rows.get(case.code, 0), 0, does, loop),), PLAIN, (case.prompt,), seed)
        return render_clip(rgba_N4HW, shown, *shape, None if loops is None else loops[0])

    @torch.no_grad()
    def film(prompts: list[str], seed: int) -> list[np.ndarray]:
        true = torch.stack([clip(asked[prompt], seed + number) for number, prompt in enumerate(prompts)])
        back = vae.decode(vae.encode(true.to(pipe.device).float() / 127.5 - 1)).clamp(-1, 1)
        return list(((back + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).cpu().numpy())

    return film
