"""A pipeline of diffusers' own classes, tiny and with random weights, as diffusers and transformers save it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from texts import GEMMA, write_tokenizer

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

CHANNELS = 8
STEPS = 20
DPM: dict[str, Any] = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
TRANSFORMER: dict[str, Any] = {
    "in_channels": CHANNELS, "out_channels": CHANNELS, "num_attention_heads": 4, "attention_head_dim": 16,
    "num_layers": 3, "num_cross_attention_heads": 2, "cross_attention_head_dim": 32, "cross_attention_dim": 64,
    "caption_channels": 32, "sample_size": 8, "qk_norm": None,
}  # fmt: skip
# The authors' autoencoder in small: the first stages are convolutions, the last ones attend.
_WIDTHS = [4, 8, 8, 16, 16]
_ATTENDING = 2


def stock_pipeline(
    folder: Path,
    *,
    kind: str = "SanaPipeline",
    stages: int = 4,
    scheduler: Any = None,
    window: int = 64,
    **changes: Any,
) -> Any:
    """``kind`` of diffusers with a tokenizer that is kept in ``folder``. The autoencoder has ``stages`` (stride
    2 ** (stages - 1)), the text encoder sees ``window`` tokens back in some of its layers; ``changes`` are the
    transformer's."""
    config = TRANSFORMER | changes
    text = GEMMA | {"hidden_size": config["caption_channels"], "vocab_size": 520, "sliding_window": window}
    parts = {
        "transformer": diffusers.SanaTransformer2DModel(**config),
        "vae": autoencoder(stages, config["in_channels"]),
        # The fused attention kernel of transformers leaves out the soft cap of the logits.
        "text_encoder": transformers.Gemma2Model._from_config(
            transformers.Gemma2Config(**text, pad_token_id=0, bos_token_id=2, eos_token_id=1),
            attn_implementation="eager",
        ),
    }
    if kind == "SanaControlNetPipeline":
        own = {key: value for key, value in config.items() if key not in ("out_channels", "qk_norm")}
        parts["controlnet"] = diffusers.SanaControlNetModel(**own | {"num_layers": 2})
    for seed, part in enumerate(parts.values()):
        fill(part, seed)
    # Most of the picture is to be between black and white.
    for p in parts["vae"].decoder.conv_out.parameters():
        p.mul_(0.3)
    pipe = getattr(diffusers, kind)(
        tokenizer=transformers.GemmaTokenizerFast(
            tokenizer_file=str(write_tokenizer(folder / "written.json")), pad_token="<pad>", bos_token="<bos>"
        ),
        scheduler=scheduler or diffusers.DPMSolverMultistepScheduler(**DPM),
        **parts,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def autoencoder(stages: int, channels: int) -> Any:
    widths = [*_WIDTHS[: stages - 1], max(16, channels)]
    types = ["ResBlock"] * (stages - _ATTENDING) + ["EfficientViTBlock"] * _ATTENDING
    scales: list[list[int]] = [[]] * (stages - _ATTENDING) + [[5]] * _ATTENDING
    return diffusers.AutoencoderDC(
        latent_channels=channels,
        attention_head_dim=8,
        encoder_block_types=types,
        decoder_block_types=types,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=[1] * stages,
        decoder_layers_per_block=[1] * stages,
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
        scaling_factor=0.41407,
    )


def fill(module: nn.Module, seed: int) -> None:
    """Every weight random, so that each matters, and of a size that keeps what flows through it in its range."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            size = p[0].numel() ** -0.5 if p.ndim > 1 else 0.2
            p.normal_(std=size, generator=generator)
            if "norm" in name and p.ndim == 1:
                p.add_(0.8)
    module.eval().requires_grad_(False)


def draw(pipe: Any, prompt: Any, seeds: Any, **options: Any) -> Tensor:
    """What a call of diffusers' pipeline gives, [B, 3, H, W] from 0 to 1."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    options = {"num_inference_steps": STEPS, "output_type": "pt", **options}
    images: Tensor = pipe(prompt, generator=generators, **options).images
    return images


def assert_same(ours: Tensor | None, theirs: Tensor, tolerance: float = 1e-4) -> None:
    """``ours`` [B, 3, H, W] from -1 to 1 is ``theirs`` from 0 to 1, and that is a picture worth comparing."""
    assert ours is not None and ours.shape == theirs.shape
    assert theirs.std() > 0.05, "a flat picture would prove nothing"
    assert ((theirs > 0) & (theirs < 1)).float().mean() > 0.5, "nor would one that was cut off"
    difference = float(((ours + 1) / 2 - theirs).abs().max())
    assert difference < tolerance, difference
