"""A whole model folder in diffusers' layout, tiny and with random weights, written with our own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from frolic.io.files import write_json
from frolic.io.safetensors import save
from frolic.models.dcae import DCAE, DCAEConfig
from frolic.models.dcae.config import RES, VIT, Stage
from frolic.models.sana.config import SanaConfig
from frolic.models.sana.model import SanaTransformer
from frolic.models.sana.spec import SANA
from frolic.models.text import Gemma2Config, Gemma2Encoder

STRIDE = 4
LATENTS = 4
WIDTH = 32
SIZE = 32
MAX_TOKENS = 12

OWN = {
    "family": "sana",
    "name": "tiny",
    "version": "0.0",
    "height": SIZE,
    "width": SIZE,
    "steps": 3,
    "guidance_scale": 3.0,
    "sampler": "dpmpp_2m",
    "shift": 3.0,
    "max_tokens": MAX_TOKENS,
    "negative_prompt": "",
    "lowercase": True,
    "prompt_suffix": "",
}
_SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>"]
_CORPUS = ["a red panda eating ramen", "a blue bird on a green field", "an orange cat", "two dogs under the moon"]


def write_tiny_folder(folder: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32, sprint: bool = False) -> Path:
    """Write the folder (which must not exist yet) and return it. Stride 4, 32 x 32 pixels, about 100,000 weights. A
    ``sprint`` model embeds its guidance and draws in two steps; its other weights are those of one that does not."""
    folder.mkdir(parents=True)
    vocabulary = _write_tokenizer(folder / "tokenizer")
    stages = (Stage(RES, 8, 1), Stage(RES, 16, 1), Stage(VIT, 32, 1, (5,)))
    configs: dict[str, Any] = {
        "transformer": SanaConfig(
            in_channels=LATENTS,
            out_channels=LATENTS,
            heads=4,
            head_dim=WIDTH // 4,
            layers=2,
            cross_heads=2,
            cross_head_dim=WIDTH // 2,
            caption_channels=16,
            sample_size=SIZE // STRIDE,
            guidance_embeds=sprint,
        ),
        "vae": DCAEConfig(latent_channels=LATENTS, head_dim=16, encoder=stages, decoder=stages, scaling_factor=0.5),
        "text_encoder": Gemma2Config(
            vocabulary=vocabulary, width=16, hidden=32, layers=2, heads=2, kv_heads=1, head_dim=8, query_scalar=8
        ),
    }
    builders: dict[str, Any] = {"transformer": SanaTransformer, "vae": DCAE, "text_encoder": Gemma2Encoder}
    for name, config in configs.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module: nn.Module = builders[name](config)
            _liven(module)
        (folder / name).mkdir()
        write_json(folder / name / "config.json", config.to_json())
        file = "model.safetensors" if name == "text_encoder" else "diffusion_pytorch_model.safetensors"
        state = SANA.components[name].keymap(config).save(module.state_dict())
        save({key: tensor.to(dtype) for key, tensor in state.items()}, folder / name / file)
    (folder / "scheduler").mkdir()
    scheduler = {
        "_class_name": "DPMSolverMultistepScheduler",
        "algorithm_type": "dpmsolver++",
        "flow_shift": 3.0,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
    }
    if sprint:
        scheduler = {"_class_name": "SCMScheduler", "prediction_type": "trigflow", "sigma_data": 0.5}
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_json(
        folder / "model_index.json",
        {
            "_class_name": "SanaSprintPipeline" if sprint else "SanaPipeline",
            "scheduler": ["diffusers", scheduler["_class_name"]],
            "text_encoder": ["transformers", "Gemma2Model"],
            "tokenizer": ["transformers", "GemmaTokenizerFast"],
            "transformer": ["diffusers", "SanaTransformer2DModel"],
            "vae": ["diffusers", "AutoencoderDC"],
        },
    )
    few = {"name": "tiny-sprint", "steps": 2, "sampler": "scm", "shift": 1.0} if sprint else {}
    write_json(folder / "frolic.json", OWN | few)
    return folder


def _liven(module: nn.Module) -> None:
    """Zero-initialised weights would hide mistakes: give every tensor some size."""
    for parameter in module.parameters():
        if float(parameter.detach().abs().max()) < 1e-3:
            nn.init.normal_(parameter, std=0.1)


def _write_tokenizer(folder: Path) -> int:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=96, special_tokens=_SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "GemmaTokenizerFast", "bos_token": "<bos>"})
    return int(tokenizer.get_vocab_size())
