"""Wan against diffusers, on weights that both load: ``python benchmarks/video.py --out NAME.json``.

Stages: ``clip`` is a whole warm request of the shipped video starter, from prompt to frames; ``cold`` processes that
write such a clip, from their start to their end; ``transformer`` one guided step of some of Wan 1.3B's blocks and
``decode`` 17 frames by Wan2.1's autoencoder, both with random weights; ``memory`` the most that decoding 17, 81 and 161
frames holds, in processes of their own. The two take turns. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from processes import frolic_command, machine, run, shipped
from torch import Tensor, nn
from turns import ratio, timed

Work = Callable[[], Tensor]
FRAMES = (17, 81, 161)
PROMPTS = ("a dog moving to the left", "a pizza spinning", "a red panda bouncing", "a rocket moving up")
STARTER_VAE = {
    "base_dim": 24, "decoder_base_dim": 32, "z_dim": 48, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 1,
    "temperal_downsample": [False, True, True], "is_residual": True, "in_channels": 12, "out_channels": 12,
    "patch_size": 2, "scale_factor_spatial": 16, "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48,
}  # fmt: skip


def main() -> int:
    options = _parser().parse_args()
    torch.set_grad_enabled(False)
    if options.child is not None:
        print(_held(int(options.child)))
        return 0
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {"machine": machine(options.threads), "stages": {}}
    for stage in options.stages.split(","):
        if stage in WHOLE:
            report["stages"][stage] = WHOLE[stage](options)
        else:
            report["stages"][stage] = compare(*BUILD[stage](options), options.repeats)
        print(stage, json.dumps({k: v for k, v in report["stages"][stage].items() if k != "seconds"}), flush=True)
        if options.out is not None:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return 0


def compare(ours: Work, theirs: Work, repeats: int) -> dict[str, Any]:
    """Seconds of both, in turns, and how far apart their results are."""
    a, b = ours().float(), theirs().float()  # also warms up
    error = float((a - b).abs().max() / (b.max() - b.min()))
    seconds = timed({"frolic": ours, "diffusers": theirs}, repeats)
    return {
        "faster": ratio(seconds["diffusers"], seconds["frolic"]),
        "median_seconds": {name: median(values) for name, values in seconds.items()},
        "error_of_range": error,
        "seconds": seconds,
    }


def lively(module: nn.Module, seed: int = 0) -> Any:
    """Random weights at which activations neither vanish nor explode."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1 and "gamma" not in name:
            fan = parameter[0].numel()
            nn.init.normal_(parameter, std=fan**-0.5, generator=generator)
    return module.eval()


def transformer(options: argparse.Namespace) -> tuple[Work, Work]:
    from diffusers import WanTransformer3DModel

    from frolic.models.context import TextContext
    from frolic.models.wan import WanConfig, WanTransformer, diffusers_keys

    config = WanConfig(heads=12, hidden=8960, layers=options.layers)
    ours = lively(WanTransformer(config))
    settings = {name: value for name, value in config.to_json().items() if not name.startswith("_")}
    theirs: Any = WanTransformer3DModel(**settings)
    theirs.eval()
    theirs.load_state_dict(diffusers_keys(config).save(ours.state_dict()))
    side = options.side // 8
    x = torch.randn(1, 16, 5, side, side).repeat(2, 1, 1, 1, 1)
    t, mask = torch.tensor([500.0, 500.0]), torch.arange(512) < torch.tensor([[1], [24]])
    text = torch.randn(2, 512, 4096) * mask[..., None]
    # The text is read once a request, and each branch only as far as its words go.
    parts = [ours.context(text[i : i + 1, :n], mask[i : i + 1, :n]) for i, n in ((0, 1), (1, 32))]
    context = TextContext.joined(parts)
    return lambda: ours.denoise(x, t, context), lambda: theirs(x, t, text, return_dict=False)[0]


def decode(options: argparse.Namespace) -> tuple[Work, Work]:
    from diffusers import AutoencoderKLWan

    from frolic.models.wan_vae import WanVAE, WanVAEConfig, diffusers_keys

    config = WanVAEConfig()
    ours = lively(WanVAE(config))
    settings = {name: value for name, value in config.to_json().items() if not name.startswith("_")}
    theirs: Any = AutoencoderKLWan(**settings)
    theirs.eval()
    theirs.load_state_dict(diffusers_keys(config).save(ours.state_dict()))
    z = 0.3 * torch.randn(1, 16, 5, options.decode_side // 8, options.decode_side // 8)
    return (
        lambda: torch.cat([*ours.stream_decode(z)], 2).clamp(-1, 1),
        lambda: theirs.decode(z, return_dict=False)[0],
    )


def clip(options: argparse.Namespace) -> tuple[Work, Work]:
    """The shipped starter, from prompt to frames, in turns over prompts that nobody has read before."""
    import diffusers

    import frolic

    folder = shipped("video")
    ours = frolic.load(folder, device="cpu", dtype="float32")
    theirs: Any = diffusers.WanPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    asked = {"ours": 0, "theirs": 0}
    fields: dict[str, Any] = {"height": 96, "width": 96, "guidance_scale": 5.0}

    def prompt(who: str) -> str:
        asked[who] += 1
        return f"{PROMPTS[asked[who] % len(PROMPTS)]} {asked[who]}"

    def draw_ours() -> Tensor:
        pixels = ours(prompt("ours"), seed=7, steps=20, frames=17, output="tensor", **fields).pixels
        assert pixels is not None
        return (pixels + 1) / 2

    def draw_theirs() -> Tensor:
        made = theirs(
            prompt("theirs"), num_frames=17, num_inference_steps=20, output_type="pt",
            generator=torch.Generator().manual_seed(7), **fields,
        ).frames  # fmt: skip
        return made.transpose(1, 2)

    return draw_ours, draw_theirs


def cold(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of whole processes that write one clip of the shipped starter to an MP4, in turns."""
    folder = str(shipped("video"))
    with tempfile.TemporaryDirectory() as place:
        peer = Path(__file__).with_name("diffusers_clip_once.py")
        commands = {
            "frolic": [*frolic_command(), PROMPTS[0], "-m", folder, "--seed", "7", "--force", "-o", f"{place}/a.mp4"],
            "diffusers": [sys.executable, str(peer), folder, PROMPTS[0], f"{place}/b.mp4"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(options.repeats + 1):
            for name, command in commands.items():
                done = run(command, options.threads)
                if turn:  # the first reads files that later ones find in memory
                    seconds[name].append(round(done.seconds, 3))
    return {
        "faster": ratio(seconds["diffusers"], seconds["frolic"]),
        "median_seconds": {name: median(values) for name, values in seconds.items()},
        "seconds": seconds,
    }


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Megabytes at the peak of decoding, less those before it, by the number of frames."""
    command = [sys.executable, __file__, "--decode-side", str(options.decode_side), "--child"]
    return {"megabytes": {str(n): float(run([*command, str(n)], options.threads).output) for n in FRAMES}}


def _held(frames: int) -> float:
    """Frames are thrown away when they are made, as they would be by who writes them to a file."""
    from frolic.models.wan_vae import WanVAE, WanVAEConfig

    vae = lively(WanVAE(WanVAEConfig.from_json(STARTER_VAE)))
    z = torch.randn(1, 48, vae.latent_frames(frames), 16, 16)

    def status(name: str) -> float:
        return int(Path("/proc/self/status").read_text("utf-8").split(f"{name}:")[1].split()[0]) / 1e3

    for _ in vae.stream_decode(z[:, :, :3]):  # the libraries' own memory
        pass
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    for _ in vae.stream_decode(z):
        pass
    return round(status("VmHWM") - before, 1)


BUILD = {"clip": clip, "transformer": transformer, "decode": decode}
WHOLE = {"cold": cold, "memory": memory}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", default="clip,cold,transformer,decode,memory")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--layers", type=int, default=4, help="blocks of Wan 1.3B, which has 30")
    parser.add_argument("--side", type=int, default=256, help="of a frame, for the transformer")
    parser.add_argument("--decode-side", type=int, default=128, help="of a frame, for the decoder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    return parser


if __name__ == "__main__":
    sys.exit(main())
