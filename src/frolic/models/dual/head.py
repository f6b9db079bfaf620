"""What someone likes, as a small head on a dual encoder's features.

B clips, T frames of each, P side of a frame, F features of a picture, D embedding, K numbers that describe a clip.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.models.dual.config import DualConfig
from frolic.models.dual.model import DualEncoder

_STILL = 1e-4
"""What deviates by less than this from clip to clip, in numbers of the order of 1, is rounding."""


def parts(config: DualConfig, prompts: bool) -> list[int]:
    """How many numbers of each kind ``describe`` gives, in their order: of the pixels and each stage the means and the
    deviations, both again as they vary over a clip; what is seen; and where prompts are read, how that agrees with them
    in each part of the space, and in all."""
    return [3, *config.widths] * 4 + [config.embedding] + ([config.embedding, 1] if prompts else [])


def described(config: DualConfig, prompts: bool) -> int:
    """How many numbers ``describe`` gives: K."""
    return sum(parts(config, prompts))


def describe(encoder: DualEncoder, x_BT3PP: Tensor, texts_BD: Tensor | None) -> Tensor:
    """``[B, K]``: of the frames' features the mean and the deviation over the clip (0 of a picture), the frames' mean
    embedding, and, where there are texts, its product with theirs and the sum of that, the cosine."""
    features_BTF = encoder.image.features(x_BT3PP.flatten(0, 1)).unflatten(0, x_BT3PP.shape[:2])
    seen_BD = encoder.image.embed(features_BTF.flatten(0, 1)).unflatten(0, x_BT3PP.shape[:2]).mean(dim=1)
    deviation = features_BTF.var(dim=1, correction=0)
    # The root has no slope at 0, where a clip stands still.
    varied = (deviation + 1e-8).sqrt() - 1e-4 if features_BTF.shape[1] > 1 else torch.zeros_like(deviation)
    found = [features_BTF.mean(dim=1), varied, seen_BD]
    if texts_BD is not None:
        found += [seen_BD * texts_BD, (seen_BD * texts_BD).sum(dim=1, keepdim=True)]
    return torch.cat(found, dim=1)


class PreferenceHead(nn.Module):
    """``[B, K]`` to ``[B]``: a linear function of the standardised numbers and, with ``hidden`` units, a bend of it.

    The difference of two scores is the logarithm of the odds that the first is chosen. What did not vary in the clips
    that it was learned from has no say.
    """

    mean: Tensor
    rescale: Tensor

    def __init__(self, inputs: int, hidden: int = 0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("rescale", torch.ones(inputs))
        self.linear = nn.Linear(inputs, 1, bias=False)
        nn.init.zeros_(self.linear.weight)
        self.bend: nn.Linear | None = None
        if hidden:
            self.bend, self.bent = nn.Linear(inputs, hidden), nn.Linear(hidden, 1, bias=False)
            nn.init.zeros_(self.bent.weight)

    def fit(self, clips_NK: Tensor, kinds: Sequence[int]) -> None:
        """Standardise by these clips. Then each of ``kinds`` (see ``parts``) is made to weigh alike, and a clip's
        numbers to have about length 1: three colours are not to drown in hundreds of features."""
        deviation, mean = torch.std_mean(clips_NK.double(), dim=0, correction=0)
        used = deviation > _STILL
        count = torch.tensor([int(each.sum()) for each in used.split(list(kinds))])
        weigh = count.clamp_min(1).repeat_interleave(torch.tensor(kinds)) * (count > 0).sum().clamp_min(1)
        self.mean.copy_(mean)
        self.rescale.copy_(torch.where(used, 1 / deviation.clamp_min(_STILL), 0.0) / weigh**0.5)
        if self.bend is not None:
            # A ridge would shrink these for ever, to numbers so small that arithmetic with them is slow.
            self.bend.weight.data.masked_fill_(self.rescale == 0, 0.0)

    def ridge(self) -> Tensor:
        """The sum of the squares of all weights."""
        return torch.stack([weight.square().sum() for weight in self.parameters() if weight.ndim > 1]).sum()

    def forward(self, clips_BK: Tensor) -> Tensor:
        x = (clips_BK - self.mean) * self.rescale
        score: Tensor = self.linear(x)[:, 0]
        return score if self.bend is None else score + self.bent(F.silu(self.bend(x)))[:, 0]


def bradley_terry(left_B: Tensor, right_B: Tensor, goal_B: Tensor) -> Tensor:
    """Mean cross-entropy of choices under ``P(left) = sigmoid(left - right)`` (Bradley & Terry 1952); ``goal`` is 1, 0
    or, where both were as good, 0.5."""
    return F.binary_cross_entropy_with_logits(left_B - right_B, goal_B)
