"""SANA's ControlNet: a copy of the first blocks that reads a picture and adds to the transformer's tokens.

Zhang et al. 2023 (arXiv 2302.05543) as SANA has it. There are two ways to join it to the transformer, ``INJECTIONS``:
``native`` is how the authors' code runs the published weights, ``diffusers`` what diffusers computes with the same.

B batch, C latent channels, H/W latent height and width, L image tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn

from frolic.models.configs import refuse
from frolic.models.context import TextContext
from frolic.models.sana.block import SanaState
from frolic.models.sana.config import SanaControlNetConfig
from frolic.models.sana.trunk import SanaTrunk
from frolic.nn.embed import patchify

Injection = Literal["diffusers", "native"]
INJECTIONS: tuple[Injection, ...] = get_args(Injection)


class SanaControlNet(SanaTrunk):
    """The copied blocks, with the embeddings and the caption of the transformer that they were copied from."""

    config: SanaControlNetConfig

    def __init__(self, config: SanaControlNetConfig) -> None:
        super().__init__(config)
        self.input_block = nn.Linear(config.width, config.width)
        self.controlnet_blocks = nn.ModuleList(nn.Linear(config.width, config.width) for _ in self.blocks)
        for linear in (self.input_block, *self.controlnet_blocks):
            for parameter in linear.parameters():
                nn.init.zeros_(parameter)

    @classmethod
    def from_base(cls, base: SanaTrunk, layers: int = 7) -> Self:
        """A ControlNet to train: copies of the first ``layers`` blocks of ``base`` and of what feeds them, of the same
        device and dtype. Its projections are zero, so that at first it changes nothing.

        Raises:
            CheckpointError: if ``base`` has too few blocks.
        """
        kept = {field.name: getattr(base.config, field.name) for field in fields(SanaControlNetConfig)}
        own = {"layers": layers, "timestep_scale": 1.0, "guidance_embeds": False}
        config = SanaControlNetConfig(**kept | own)
        refuse("SANA ControlNet", [f"{name}: {said}" for name, said in config.differences(base.config).items()])
        weight = base.patch.weight
        with torch.device(weight.device):
            net = cls(config).to(weight.dtype)
        names = net.state_dict().keys()
        found = {name: tensor for name, tensor in base.state_dict().items() if name in names}
        missing = net.load_state_dict(found, strict=False).missing_keys
        assert all(name.startswith(("input_block.", "controlnet_blocks.")) for name in missing), missing
        return net

    def control(
        self, latents_BCHW: Tensor, context: TextContext, *, scale: float = 1.0, injection: Injection = "diffusers"
    ) -> SanaControl:
        """What a request's steps need. ``latents`` are the encoded control picture, one for all or one for each row of
        ``context``, which is this ControlNet's own (its ``context`` makes it); ``scale`` multiplies what is added."""
        assert injection in INJECTIONS
        if injection == "native":
            # The authors add positions to the noised latents only.
            tokens_BLD = self.patch(patchify(latents_BCHW, self.config.patch_size))
        else:
            tokens_BLD = self.tokens(latents_BCHW)
        signal_BLD = self.input_block(tokens_BLD).expand(len(context), -1, -1)
        return SanaControl(self, context, signal_BLD, scale, injection)


@dataclass(frozen=True)
class SanaControl:
    """A control picture, ready for a request: ``signal`` is ``[B, L, D]``, ``context`` has the same rows."""

    net: SanaControlNet
    context: TextContext
    signal: Tensor
    scale: float
    injection: Injection

    def begin(self, x_BCHW: Tensor, t_B: Tensor) -> ControlBranch:
        """One step, for the latents and the (scaled) timesteps that the transformer gets."""
        return ControlBranch(self, x_BCHW, t_B)


class ControlBranch:
    """One step's pass through the ControlNet, block by block beside the transformer.

    ``native``: block ``i`` of the ControlNet follows block ``i`` of the transformer. The first one reads that one's
    result plus the signal, each other one its predecessor's, and what it yields goes into block ``i + 1``; time is
    the transformer's. ``diffusers``: the first one reads the embedded latents plus the signal, and what block ``i``
    yields is added one block later.
    """

    def __init__(self, control: SanaControl, x_BCHW: Tensor, t_B: Tensor) -> None:
        assert len(control.signal) == len(x_BCHW), "a control has a row for each of the batch"
        self.control = control
        self.delay = 0
        self.state: SanaState | None = None
        if control.injection == "diffusers":
            self.delay = 1
            first = control.net.embed(x_BCHW, t_B, control.context)
            self.state = replace(first, x=first.x + control.signal)

    def after(self, index: int, base: SanaState) -> SanaState:
        """The transformer's state after its block ``index``, with what the ControlNet adds there."""
        control, place = self.control, index - self.delay
        if not 0 <= place < len(control.net.blocks):
            return base
        if self.state is None:
            # Perturbed attention is the transformer's; the control stays whole in every row.
            self.state = replace(base, x=base.x + control.signal, context=control.context, perturb=None)
        self.state = control.net.blocks[place](self.state)
        added = control.net.controlnet_blocks[place](self.state.x)
        return replace(base, x=torch.add(base.x, added, alpha=control.scale))
