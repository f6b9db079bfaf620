"""One adapter for a tiny SANA, and its files in every dialect."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from frolic.adapters import Target, target
from frolic.models.sana.config import SanaConfig
from frolic.models.sana.model import SanaTransformer
from frolic.models.sana.spec import SANA

CONFIG = SanaConfig(
    in_channels=4, out_channels=4, heads=2, head_dim=16, layers=2, cross_heads=1, cross_head_dim=32, mlp_ratio=1.5,
    caption_channels=16, sample_size=4, qk_norm=True,
)  # fmt: skip
RANK, ALPHA = 4, 6.0
Factors = Mapping[str, tuple[Tensor, Tensor]]
"""diffusers' names of modules, and what a rank's ``down`` [R, in] and ``up`` [out, R] are, alpha not multiplied in."""


def model() -> SanaTransformer:
    torch.manual_seed(0)
    net = SanaTransformer(CONFIG)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return net.requires_grad_(False)


def goal() -> Target:
    return target(SANA.components["transformer"], CONFIG)


def inputs(batch: int = 2) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    x, text = torch.randn(batch, 4, 4, 4, generator=generator), torch.randn(batch, 5, 16, generator=generator)
    return x, torch.full((batch,), 500.0), text, torch.ones(batch, 5, dtype=torch.bool)


def factors(seed: int = 1, rank: int = RANK, split_alike: bool = True) -> Factors:
    """For every linear in diffusers' naming; ``split_alike``: those that the authors hold as one share their ``down``,
    so that the authors' naming can say the same."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    place = goal()
    for linear, (rows, columns) in place.shapes.items():
        theirs = place.names.spoken(linear, "diffusers")
        down = torch.randn(rank, columns, generator=generator) / columns**0.5
        for name in theirs:
            if not split_alike:
                down = torch.randn(rank, columns, generator=generator) / columns**0.5
            found[name] = (down, 0.3 * torch.randn(rows // len(theirs), rank, generator=generator))
    return found


def fused(given: Factors) -> dict[str, tuple[Tensor, Tensor]]:
    """``given`` in the authors' naming, where q, k and v are one layer."""
    place, out = goal(), {}
    for linear in place.shapes:
        (original,), theirs = place.names.spoken(linear, "original"), place.names.spoken(linear, "diffusers")
        out[original] = (given[theirs[0]][0], torch.cat([given[name][1] for name in theirs]))
    return out


def expected(net: nn.Module, given: Factors, weight: float = 1.0, alpha: float = ALPHA) -> SanaTransformer:
    """The model with the adapter added to its weights, by hand."""
    merged = model()
    merged.load_state_dict(net.state_dict())
    place, modules = goal(), dict(merged.named_modules())
    for linear in place.shapes:
        names = place.names.spoken(linear, "diffusers")
        rank = given[names[0]][0].shape[0]
        change = torch.cat([given[name][1] @ given[name][0] for name in names]) * (alpha / rank) * weight
        modules[linear].weight.add_(change)
    return merged


def shaped(name: str, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """As a file has them: convolutions' factors have four dimensions."""
    if "conv" in name or "patch_embed" in name or "x_embedder" in name:
        return down[:, :, None, None], up[:, :, None, None]
    return down, up


def _diffusers(given: Factors, alphas: bool) -> dict[str, Tensor]:
    out = {}
    for name, pair in given.items():
        down, up = shaped(name, *pair)
        out[f"transformer.{name}.lora_A.weight"], out[f"transformer.{name}.lora_B.weight"] = down, up
        if alphas:
            out[f"transformer.{name}.alpha"] = torch.tensor(ALPHA)
    return out


def diffusers(given: Factors) -> tuple[dict[str, Tensor], dict[str, str]]:
    settings = {"transformer.r": RANK, "transformer.lora_alpha": ALPHA, "transformer.target_modules": list(given)}
    return _diffusers(given, False), {"lora_adapter_metadata": json.dumps(settings), "format": "pt"}


def diffusers_alpha_tensors(given: Factors) -> tuple[dict[str, Tensor], dict[str, str]]:
    return _diffusers(given, True), {}


def folded(given: Factors) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Without any alpha: it is the rank."""
    return _diffusers({name: (a, b * (ALPHA / RANK)) for name, (a, b) in given.items()}, False), {}


def comfy(given: Factors) -> tuple[dict[str, Tensor], dict[str, str]]:
    out: dict[str, Tensor] = {}
    for name, pair in fused(given).items():
        down, up = shaped(name, *pair)
        out[f"diffusion_model.{name}.lora_down.weight"], out[f"diffusion_model.{name}.lora_up.weight"] = down, up
        out[f"diffusion_model.{name}.alpha"] = torch.tensor(int(ALPHA))  # a whole number, as some files have it
    return out, {}


def ai_toolkit(given: Factors) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The authors' names with PEFT's endings, of scaled factors: it writes no alpha, which is the rank then."""
    out: dict[str, Tensor] = {}
    for name, pair in fused(given).items():
        down, up = shaped(name, *pair)
        out[f"diffusion_model.{name}.lora_A.weight"] = down
        out[f"diffusion_model.{name}.lora_B.weight"] = up * (ALPHA / RANK)
    return out, {"software": '{"name": "ai-toolkit"}', "format": "pt"}


def ai_toolkit_dotted(given: Factors) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The same in diffusers' names: which of both it is depends on the model."""
    return folded(given)[0], ai_toolkit(given)[1]


def ai_toolkit_lokr(given: Factors) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Kronecker products under diffusers' dotted names, with their alphas."""
    out = {}
    for name, (down, up) in given.items():
        key = f"transformer.{name}"
        out[f"{key}.lokr_w1"], out[f"{key}.lokr_w2_a"], out[f"{key}.lokr_w2_b"] = torch.ones(1, 1), up, down
        out[f"{key}.alpha"] = torch.tensor(ALPHA)
    return out, ai_toolkit(given)[1]


def ai_toolkit_lokr_flat(given: Factors) -> tuple[dict[str, Tensor], dict[str, str]]:
    """As older versions wrote them: the dots of diffusers' names are underscores."""
    flat = {}
    for key, tensor in ai_toolkit_lokr(given)[0].items():
        module, _, kind = key.removeprefix("transformer.").rpartition(".")
        flat[f"lycoris_{module.replace('.', '_')}.{kind}"] = tensor
    return flat, ai_toolkit(given)[1]


def _flat(given: Factors, prefix: str) -> dict[str, Tensor]:
    out = {}
    for name, pair in given.items():
        down, up = shaped(name, *pair)
        flat = prefix + name.replace(".", "_")
        out[f"{flat}.lora_down.weight"], out[f"{flat}.lora_up.weight"] = down, up
        out[f"{flat}.alpha"] = torch.tensor(ALPHA)
    return out


def kohya(given: Factors) -> tuple[dict[str, Tensor], dict[str, str]]:
    return _flat(fused(given), "lora_unet_"), {"ss_network_dim": str(RANK)}


def kohya_of_diffusers(given: Factors) -> tuple[dict[str, Tensor], dict[str, str]]:
    return _flat(given, "lora_unet_"), {}


def videox(given: Factors) -> tuple[dict[str, Tensor], dict[str, str]]:
    return _flat(fused(given), "lora_unet__"), {}


def peft(given: Factors) -> tuple[dict[str, Tensor], dict[str, str]]:
    out = {}
    for name, pair in given.items():
        down, up = shaped(name, *pair)
        out[f"base_model.model.{name}.lora_A.default.weight"] = down
        out[f"base_model.model.{name}.lora_B.default.weight"] = up
    return out, {}


def full_difference(given: Factors) -> tuple[dict[str, Tensor], dict[str, str]]:
    out = {}
    for name, (down, up) in fused(given).items():
        change = up @ down * (ALPHA / RANK)
        out[f"diffusion_model.{name}.diff"] = change[:, :, None, None] if "conv" in name else change
    return out, {}


def lokr(given: Factors) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Of one by one times the factors: the smallest Kronecker product there is."""
    out = {}
    for name, (down, up) in fused(given).items():
        flat = "lycoris_" + name.replace(".", "_")
        out[f"{flat}.lokr_w1"] = torch.ones(1, 1)
        out[f"{flat}.lokr_w2_a"], out[f"{flat}.lokr_w2_b"] = up, down
        out[f"{flat}.alpha"] = torch.tensor(ALPHA)
    return out, {}


def loha(given: Factors) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Times a matrix of ones, which is of rank one."""
    out = {}
    for name, (down, up) in fused(given).items():
        key = f"diffusion_model.{name}"
        out[f"{key}.hada_w1_a"], out[f"{key}.hada_w1_b"] = up, down
        out[f"{key}.hada_w2_a"] = torch.cat([torch.ones(len(up), 1), torch.zeros(len(up), RANK - 1)], 1)
        out[f"{key}.hada_w2_b"] = torch.ones(RANK, down.shape[1])
        out[f"{key}.alpha"] = torch.tensor(ALPHA)
    return out, {}


DIALECTS: Mapping[str, Callable[[Factors], tuple[dict[str, Tensor], dict[str, str]]]] = {
    each.__name__: each
    for each in (
        diffusers, diffusers_alpha_tensors, folded, comfy, ai_toolkit, kohya, kohya_of_diffusers, videox,
        full_difference, lokr, loha, ai_toolkit_dotted, ai_toolkit_lokr, ai_toolkit_lokr_flat,
    )
}  # fmt: skip


def save(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Tensors that share memory are each written whole."""
    save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, path, dict(metadata or {}))


def write(folder: Path, name: str, given: Factors) -> Path:
    path = folder / f"{name}.safetensors"
    tensors, metadata = DIALECTS[name](given)
    save(tensors, path, metadata)
    return path


def write_peft_folder(folder: Path, given: Factors) -> Path:
    folder.mkdir()
    save(peft(given)[0], folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": ALPHA, "peft_type": "LORA"}))
    return folder
