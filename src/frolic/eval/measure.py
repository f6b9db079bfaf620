"""The figures of a model that need the training set besides it: reconstruction, and the distance of its pictures from
true ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from frolic.data.starter.pack import default_folder, read
from frolic.errors import RequestError
from frolic.eval import features, truth
from frolic.eval.layouts import Cuts
from frolic.eval.reconstruction import Reconstruction
from frolic.eval.reconstruction import measure as measure_reconstruction
from frolic.eval.starter import Draw
from frolic.eval.suites import SUITES, Case, Known, suite
from frolic.io.home import home

if TYPE_CHECKING:
    from frolic.pipeline import Pipeline


@dataclass(frozen=True)
class Distance:
    """The Frechet distance of ``n`` drawn pictures from as many true ones of the same prompts; ``floor`` is that of
    other true pictures of them, the best that there is with this many."""

    n: int
    fid: float
    floor: float
    width: int


def cases_of_all(concepts: Sequence[Known], count: int) -> list[Case]:
    """``count`` cases, from every suite that true pictures can be made for, in turn."""
    names = [name for name in SUITES if SUITES[name](concepts)]
    if not names:
        raise RequestError("The training set has no concepts that a suite asks for; make it again.")
    parts = [suite(name, concepts, -(-count // len(names))) for name in names]
    turn = [part[index] for index in range(max(map(len, parts))) for part in parts if index < len(part)]
    return turn[:count]


class Truth:
    """True pictures of the suites' prompts, from the pack in ``data`` (the usual folder if None)."""

    def __init__(self, data: Path | None, count: int) -> None:
        if count < 2:
            raise RequestError("Give --pictures at least 2.")
        rgba, concepts = read(data or default_folder())
        self._cuts = Cuts(rgba)
        self._by_code = {concept.code: concept for concept in concepts}
        self.cases = cases_of_all([truth.known(concept) for concept in concepts], count)
        self._features: dict[tuple[int, int], Tensor] = {}

    def pictures(self, seed: int, side: int) -> Tensor:
        """[N, 3, S, S] in [-1, 1], one a case, without jitter; another ``seed`` places things otherwise."""
        rows = [
            truth.picture(case, self._cuts, self._by_code, seed + k, side, clean=True)
            for k, case in enumerate(self.cases)
        ]
        return torch.stack(rows)

    def features(self, net: nn.Module, seed: int, side: int) -> Tensor:
        """What ``net`` sees in ``pictures``, found once."""
        if (seed, side) not in self._features:
            self._features[seed, side] = features.features(net, self.pictures(seed, side))
        return self._features[seed, side]


def distance(draw: Draw, true: Truth, seed: int, batch: int) -> Distance:
    """The pictures that ``draw`` makes against true ones of the same prompts and size."""
    net = features.load_features(home() / "packages")  # first: what cannot be fetched is found before anything is drawn
    prompts = [case.prompt for case in true.cases]
    drawn = [draw(prompts[k : k + batch], seed + k).float().cpu() for k in range(0, len(prompts), batch)]
    pictures = torch.cat(drawn)
    side = pictures.shape[-1]
    found = features.features(net, pictures)
    first, second = (true.features(net, other, side) for other in (0, 1_000_000))
    return Distance(
        n=len(prompts),
        fid=round(features.frechet(found, first), 2),
        floor=round(features.frechet(second, first), 2),
        width=found.shape[1],
    )


def reconstruct(pipe: Pipeline, true: Truth, side: int, lpips: nn.Module | None) -> Reconstruction:
    """What ``pipe``'s autoencoder makes of true pictures of one and of several things, in float32.

    Raises RequestError: it is one of clips, or cannot make pictures of that ``side``.
    """
    if pipe.makes_clips:
        raise RequestError(f"The model {pipe.card.name} draws videos; choose one of pictures with --model.")
    vae = pipe.vae.float()
    if side < 1 or side % vae.config.stride:
        raise RequestError(f"--side is {side}; the autoencoder needs a multiple of {vae.config.stride}.")
    return measure_reconstruction(
        lambda x: vae.decode(vae.encode(x.to(pipe.device))).cpu(), true.pictures(0, side), lpips
    )
