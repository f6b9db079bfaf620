"""Whole Wan folders in diffusers' layout, tiny and with random weights, written with our own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from frolic.io.files import write_json
from frolic.io.safetensors import save
from frolic.models.text import UMT5Config, UMT5Encoder
from frolic.models.wan import WanConfig, WanTransformer
from frolic.models.wan.spec import WAN
from frolic.models.wan_vae import WanVAE, WanVAEConfig

TEXT = 16
CORPUS = [
    "a rocket taking off",
    "a butterfly flapping its wings",
    "a red panda eating ramen",
    "two dogs under the moon",
]


def vae_config(kind: str = "2.1") -> WanVAEConfig:
    """4x8x8 with 4 channels, or with ``2.2`` 4x16x16 with 6."""
    if kind == "2.1":
        mean, deviation = (0.1, -0.2, 0.0, 0.3), (0.4, 0.6, 0.5, 0.3)
        return WanVAEConfig(width=8, latent_channels=4, layers=1, mean=mean, deviation=deviation)
    return WanVAEConfig(
        width=4,
        decoder_width=8,
        latent_channels=6,
        layers=1,
        in_time=(False, True, True),
        mean=(0.1,) * 6,
        deviation=(0.3,) * 6,
        shortcuts=True,
        patch=2,
    )


def write_tiny_wan(folder: Path, kind: str = "t2v", *, seed: int = 0) -> Path:
    """``kind``: ``t2v`` (one expert), ``t2v-two``, ``i2v-two`` (36-channel input in miniature), ``ti2v``."""
    folder.mkdir(parents=True)
    vocabulary = _write_tokenizer(folder / "tokenizer")
    vae = vae_config("2.2" if kind == "ti2v" else "2.1")
    known = vae.frame_stride + vae.latent_channels if kind.startswith("i2v") else 0
    transformer = WanConfig(
        heads=2,
        head_dim=24,
        in_channels=vae.latent_channels + known,
        out_channels=vae.latent_channels,
        text_dim=TEXT,
        freq_dim=32,
        hidden=40,
        layers=2,
    )
    configs: dict[str, Any] = {
        "transformer": transformer,
        "vae": vae,
        "text_encoder": UMT5Config(vocabulary=vocabulary, width=TEXT, head_dim=8, hidden=24, layers=2, heads=2),
    }
    if kind.endswith("two"):
        configs["transformer_2"] = transformer
    builders = {
        "transformer": WanTransformer,
        "transformer_2": WanTransformer,
        "vae": WanVAE,
        "text_encoder": UMT5Encoder,
    }
    parts = {**WAN.components, **WAN.optional}
    for number, (name, config) in enumerate(configs.items()):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + number)
            module: nn.Module = builders[name](config)
        (folder / name).mkdir()
        written = config.to_json()
        write_json(folder / name / "config.json", written)
        file = "model.safetensors" if name == "text_encoder" else "diffusion_pytorch_model.safetensors"
        save(parts[name].keymap(config).save(module.state_dict()), folder / name / file)
    (folder / "scheduler").mkdir()
    scheduler = {
        "_class_name": "UniPCMultistepScheduler",
        "flow_shift": 5.0,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
    }
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    index: dict[str, Any] = {
        "_class_name": "WanImageToVideoPipeline" if kind.startswith("i2v") else "WanPipeline",
        "_diffusers_version": "0.42.0",
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "transformer_2": ["diffusers", "WanTransformer3DModel"] if kind.endswith("two") else [None, None],
        "vae": ["diffusers", "AutoencoderKLWan"],
        "boundary_ratio": 0.875 if kind.endswith("two") else None,
        "expand_timesteps": kind == "ti2v",
    }
    if kind.startswith("i2v"):
        index |= {"image_encoder": [None, None], "image_processor": [None, None]}
    write_json(folder / "model_index.json", index)
    # The family's own size and length would take minutes.
    write_json(folder / "frolic.json", {"family": "wan", "height": 32, "width": 32, "frames": 5, "steps": 3})
    return folder


def _write_tokenizer(folder: Path) -> int:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=96, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "T5TokenizerFast", "eos_token": "</s>"})
    return int(tokenizer.get_vocab_size())
