"""SANA's parts against diffusers', 600M transformer: ``python benchmarks/sana.py --out benchmarks/results/NAME.json``.

Random weights, the same for both. Times are taken in turns within one process, memory in a process for each. What both
compute is compared, so that nobody is fast by doing less. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from processes import machine, run
from torch import Tensor, nn
from turns import ratio, timed

NAMES = ("frolic", "diffusers")
TRANSFORMER: dict[str, Any] = {
    "in_channels": 32, "out_channels": 32, "num_attention_heads": 36, "attention_head_dim": 32, "num_layers": 28,
    "num_cross_attention_heads": 16, "cross_attention_head_dim": 72, "cross_attention_dim": 1152,
    "caption_channels": 2304, "sample_size": 32,
}  # fmt: skip
BLOCKS = ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3
WIDTHS = [128, 256, 512, 512, 1024, 1024]
DC_AE: dict[str, Any] = {
    "latent_channels": 32, "attention_head_dim": 32, "scaling_factor": 0.41407,
    "encoder_block_types": BLOCKS, "decoder_block_types": BLOCKS,
    "encoder_block_out_channels": WIDTHS, "decoder_block_out_channels": WIDTHS,
    "encoder_layers_per_block": [2, 2, 2, 3, 3, 3], "decoder_layers_per_block": [3] * 6,
    "encoder_qkv_multiscales": [[], [], [], [5], [5], [5]], "decoder_qkv_multiscales": [[], [], [], [5], [5], [5]],
    "downsample_block_type": "Conv", "upsample_block_type": "interpolate",
}  # fmt: skip
GEMMA: dict[str, Any] = {
    "vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}  # fmt: skip
SLOTS = 300
"""Text tokens that a prompt is padded to; ``WORDS`` of them are real."""
WORDS = 40

Work = Callable[[], Tensor]


def main() -> int:
    options = _parser().parse_args()
    torch.set_grad_enabled(False)
    if options.child:
        name, stage, dtype = options.child
        return child(name, stage, dtype, options)
    report: dict[str, Any] = {
        "machine": machine(options.threads),
        "settings": {"size": options.size, "device": options.device, "text_tokens": [WORDS, SLOTS], "batch": 2},
        "stages": {},
    }
    for dtype in options.dtype.split(","):
        for stage in ["transformer", "decode", *(["text"] if options.text else [])]:
            found = report["stages"][f"{stage} {dtype}"] = measure(stage, dtype, options)
            print(_line(f"{stage} {dtype}", found), flush=True)
            if options.out is not None:
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return 0


def measure(stage: str, dtype: str, options: argparse.Namespace) -> dict[str, Any]:
    """Times, memory, and how far apart the results are."""
    memory = {name: _memory(name, stage, dtype, options) for name in NAMES}
    works = BUILD[stage](NAMES, getattr(torch, dtype), options)
    ours, theirs = (works[name]().float() for name in NAMES)  # also warms up
    error = ((ours - theirs).abs().max() / (theirs.max() - theirs.min())).item()
    seconds = timed({name: works[name] for name in NAMES}, options.repeats, wait=lambda: _wait(options.device))
    return {
        "faster": ratio(seconds["diffusers"], seconds["frolic"]),
        "median_seconds": {name: median(values) for name, values in seconds.items()},
        "seconds": seconds,
        "peak_mb": memory,
        "error_of_range": error,
    }


def child(name: str, stage: str, dtype: str, options: argparse.Namespace) -> int:
    """Compute ``stage`` with one of both, and print the most memory that was held meanwhile, in MB: resident, or the
    accelerator's."""
    work = BUILD[stage]((name,), getattr(torch, dtype), options)[name]
    gc.collect()
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of loading
    for _ in range(2):
        work()
    _wait(options.device)
    if options.device == "cuda":
        print(torch.cuda.max_memory_allocated() / 1e6)
    else:
        status = Path("/proc/self/status").read_text("utf-8")
        print(int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6)
    return 0


def _memory(name: str, stage: str, dtype: str, options: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "--child", name, stage, dtype, "--size", str(options.size)]
    return round(float(run([*command, "--device", options.device], options.threads).output), 1)


def transformer(names: tuple[str, ...], dtype: torch.dtype, options: argparse.Namespace) -> dict[str, Work]:
    """One step with guidance: a batch of two, the text prepared once, as in a request."""
    from frolic.models.sana import SanaConfig, SanaTransformer, TextContext, diffusers_keys

    config = SanaConfig.from_json(TRANSFORMER)
    state = filled(lambda: SanaTransformer(config))
    side = options.size // 32
    x, t = _noise(2, 32, side, side).to(options.device, dtype), torch.tensor([500.0, 500.0], device=options.device)
    text = _noise(2, SLOTS, 2304).to(options.device, dtype)
    mask = torch.zeros(2, SLOTS, dtype=torch.long, device=options.device)
    mask[0, :1] = mask[1, :WORDS] = 1
    works: dict[str, Work] = {}
    if "diffusers" in names:
        from diffusers import SanaTransformer2DModel

        theirs = loaded(
            lambda: SanaTransformer2DModel(**TRANSFORMER), diffusers_keys(config).save(state), dtype, options
        )
        works["diffusers"] = lambda: theirs(x, text, t, encoder_attention_mask=mask, return_dict=False)[0]
    if "frolic" in names:
        ours = loaded(lambda: SanaTransformer(config), state, dtype, options)
        # As a request prepares them: the empty text is one token, the prompt is padded to the next 32.
        width = -(-WORDS // 32) * 32
        free = ours.context(text[:1, :1], mask[:1, :1])
        context = TextContext.joined([free, ours.context(text[1:, :width], mask[1:, :width])])
        works["frolic"] = lambda: ours.denoise(x, t, context)
    return works


def decode(names: tuple[str, ...], dtype: torch.dtype, options: argparse.Namespace) -> dict[str, Work]:
    """Latents to one picture."""
    from frolic.models.dcae import DCAE, DCAEConfig, diffusers_keys
    from frolic.pipeline.decode import DecodeStage

    config = DCAEConfig.from_json(DC_AE)
    state = filled(lambda: _without_encoder(DCAE(config)))
    latents = _noise(1, 32, options.size // 32, options.size // 32).to(options.device) * config.scaling_factor
    works: dict[str, Work] = {}
    if "diffusers" in names:
        from diffusers import AutoencoderDC

        published = diffusers_keys(config).save(state)
        theirs = loaded(lambda: _without_encoder(AutoencoderDC(**DC_AE)), published, dtype, options)
        works["diffusers"] = lambda: theirs.decode((latents / config.scaling_factor).to(dtype)).sample
    if "frolic" in names:
        ours = loaded(lambda: _without_encoder(DCAE(config)), state, dtype, options)
        ours.to(memory_format=torch.channels_last)
        stage = DecodeStage(ours, device=torch.device(options.device), dtype=dtype)
        works["frolic"] = lambda: stage.decode(latents, notes=[])
    return works


def text(names: tuple[str, ...], dtype: torch.dtype, options: argparse.Namespace) -> dict[str, Work]:
    """One prompt, padded as the pipelines pad it."""
    from frolic.models.text import Gemma2Config, Gemma2Encoder, transformers_keys

    config = Gemma2Config.from_json(GEMMA)
    state = filled(lambda: Gemma2Encoder(config))
    ids = torch.randint(0, 256000, (1, SLOTS), generator=torch.Generator().manual_seed(2)).to(options.device)
    mask = (torch.arange(SLOTS, device=options.device) < WORDS).long()[None]
    works: dict[str, Work] = {}
    if "diffusers" in names:
        from transformers import Gemma2Config as TheirConfig
        from transformers import Gemma2Model

        theirs = loaded(
            lambda: Gemma2Model(TheirConfig(**GEMMA)), transformers_keys(config).save(state), dtype, options
        )
        works["diffusers"] = lambda: theirs(ids, attention_mask=mask, use_cache=False).last_hidden_state[:, :WORDS]
    if "frolic" in names:
        ours = loaded(lambda: Gemma2Encoder(config), state, dtype, options)
        works["frolic"] = lambda: ours(ids[:, :WORDS], mask[:, :WORDS])
    return works


BUILD: dict[str, Any] = {"transformer": transformer, "decode": decode, "text": text}


def filled(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """Weights that keep activations finite: 0.7 over the root of what a value sums over; norms one, biases zero."""
    from frolic.assemble import Unfilled

    with Unfilled():
        state = build().state_dict()
    generator = torch.Generator().manual_seed(1)
    for name, tensor in state.items():
        if tensor.ndim > 1:
            tensor.normal_(0, 0.7 * tensor[0].numel() ** -0.5, generator=generator)
        else:
            tensor.fill_(float(name.endswith("weight")))
    return state


def loaded(build: Callable[[], Any], state: dict[str, Tensor], dtype: torch.dtype, options: argparse.Namespace) -> Any:
    """The module that ``build`` makes, with these weights."""
    from frolic.assemble import Unfilled

    with Unfilled():
        module = build()
    module.load_state_dict(state, strict=True, assign=True)
    return module.to(options.device, dtype).eval().requires_grad_(False)


def _without_encoder(vae: Any) -> Any:
    vae.encoder = nn.Identity()
    return vae


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _line(name: str, found: dict[str, Any]) -> str:
    parts = [f"{who} {found['median_seconds'][who]:.4f} s {found['peak_mb'][who]:.0f} MB" for who in NAMES]
    faster = found["faster"]
    ratio = f"{faster['median']:.2f}x faster ({faster['min']:.2f} to {faster['max']:.2f})"
    return f"{name:<22} {'   '.join(parts)}   {ratio}   error {found['error_of_range']:.1e} of the range"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=512, help="pixels along a side, a multiple of 32 [512]")
    parser.add_argument("--device", default="cpu", help="for both [cpu]")
    parser.add_argument("--dtype", default="float32,bfloat16", help="one or more, with commas [float32,bfloat16]")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="for both [all cores]")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each [5]")
    parser.add_argument("--text", action="store_true", help="also Gemma 2 of 2.6 B, for which memory must hold 22 GB")
    parser.add_argument("--out", type=Path, help="keep everything that was measured")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
