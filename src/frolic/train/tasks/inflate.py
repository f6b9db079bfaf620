"""A new autoencoder of clips begins as one of pictures that treats every frame alike, so that it can be trained on
pictures first, at a fraction of the work, and on clips from there on (as Wan's own was: arXiv 2503.20314, 4.1.2)."""

from __future__ import annotations

import torch
from torch import nn

from frolic.models.wan_vae.layers import CausalConv3d, Down, Up


@torch.no_grad()
def forget_time(autoencoder: nn.Module) -> None:
    """Let every convolution see its own frame only, and what halves or doubles the frames pick or repeat one."""
    for module in autoencoder.modules():
        if isinstance(module, Down | Up) and module.time_conv is not None:
            weight, bias = module.time_conv.weight, module.time_conv.bias
            channels = weight.shape[1]
            weight.zero_()
            for rows in weight.split(channels):
                rows[:, :, -1, 0, 0] = torch.eye(channels)
            assert bias is not None
            bias.zero_()
        elif isinstance(module, CausalConv3d) and module.kernel_size[1] > 1:
            module.weight[:, :, :-1] = 0
            module.weight[:, :, -1] *= module.kernel_size[0] ** 0.5  # as many inputs less
