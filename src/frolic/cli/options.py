"""The options of ``frolic generate``, and what they say of a request and of a model.

Parsed by argparse, alone among the commands: typer and what it imports cost a tenth of the time to a first picture.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from frolic.errors import RequestError
from frolic.request import SAMPLERS, SCHEDULES
from frolic.strength import Strength, parse

ABOUT = "Draw pictures or videos of a prompt and write them as files that remember how they were made."


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message[0].upper()}{message[1:]}; see frolic generate --help.")


def parser() -> argparse.ArgumentParser:
    """All options of the command."""
    parser = _Parser(prog="frolic generate", description=ABOUT, allow_abbrev=False)
    add = parser.add_argument
    add("prompt", nargs="*", help="what to draw; several words are one prompt")
    add("-n", "--negative-prompt", metavar="TEXT", help="what to keep away from")
    add("--prompt-file", metavar="FILE", help="read prompts from a file, one a line; - is standard input")
    add("--steps", type=int, metavar="N", help="denoising steps, 1 to 1000")
    add("--guidance-scale", "--cfg", type=float, metavar="X", help="how closely to follow the prompt; 1 is no guidance")
    add("-s", "--seed", type=int, metavar="N", help="seed of the first picture [random, and printed]")
    add("-W", "--width", type=int, metavar="N", help="pixels")
    add("-H", "--height", type=int, metavar="N", help="pixels")
    add("--size", metavar="WxH", help="width and height, as 128x128")
    add("--aspect", metavar="W:H", help="width to height, as 16:9, at the best size for the model")
    add("-N", "--num-images", type=int, metavar="N", help="pictures for each prompt [1]")
    add(
        *("-o", "--output"),
        metavar="PATH",
        help="a file (.png; videos .mp4, .gif, .webp, or frames as NEW_FOLDER/%%04d.png), or a folder that is there "
        "[frolic-PROMPT-SEED.png, or .mp4]",
    )
    _add_sampling(parser)
    _add_videos(parser)
    _add_pictures(parser)
    _add_adapters(parser)
    _add_model(parser)
    _add_running(parser)
    return parser


def _add_videos(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("videos (with a model that makes them)").add_argument
    add("--frames", type=int, metavar="N", help="how many, 1 to 1025; rounded to what the model has, and said")
    add("--seconds", type=float, metavar="X", help="how long, instead of --frames")
    add("--fps", type=float, metavar="X", help="frames a second, 1 to 120")
    add("--guidance-scale-2", "--cfg-2", type=float, metavar="X", help="guidance of the second of two experts")
    add("--preview-every", type=int, metavar="N", help="show OUTPUT.preview.png every N steps, until it is done")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("sampling").add_argument
    add("--sampler", metavar="NAME", help=", ".join(SAMPLERS))
    add("--schedule", metavar="NAME", help=f"whose noise levels: {' or '.join(SCHEDULES)}")
    add("--guidance-interval", type=float, nargs=2, metavar=("LOW", "HIGH"), help="guide only between two noise levels")
    add("--apg", action="store_true", default=None, help="adaptive projected guidance: strong without burnt colours")
    add("--apg-eta", type=float, metavar="X", help="its share of the parallel part, 0 to 1 [0]")
    add("--apg-threshold", type=float, metavar="X", help="its longest update; 0 is any [0]")
    add("--apg-momentum", type=float, metavar="X", help="its momentum, -1 to 1 [-0.5]")
    add("--pag-scale", type=float, metavar="X", help="perturbed-attention guidance; 0 is none [0]")
    add("--pag-layers", type=_layers, metavar="N,N", help="the blocks it perturbs")
    add(
        "--step-cache",
        type=float,
        metavar="X",
        help="take over most of a step that hardly differs, as 0.1; 0 is never [0]",
    )
    add("--times", type=_times, metavar="T,T", help="of a model that draws in 1 to 4 steps: when, as 1.5708,1.3")
    add("--instruction", metavar="TEXT", help="what the text encoder reads before the prompt; '' is nothing")
    add(
        "--binning",
        action=argparse.BooleanOptionalAction,
        help="draw at a size the model was trained with, then resize",
    )


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("pictures to start from").add_argument
    add("--image", metavar="FILE", help="draw this picture anew, or begin a video with it")
    add(
        "--strength",
        type=float,
        metavar="X",
        help="how much of it, above 0 to 1 [1; without a mask 0.6, in few steps 0.5]",
    )
    add("--mask", metavar="FILE", help="only where this one is white")
    add("--control", metavar="FILE", help="what a ControlNet is led by")
    add("--control-from", metavar="KIND", help="edges, hed:WEIGHTS or scribble:WEIGHTS: what to make of FILE first")
    add("--control-scale", type=float, metavar="X", help="how strongly [1]")


def _add_adapters(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("adapters").add_argument
    add(
        "--lora",
        action="append",
        metavar="SRC[:WEIGHT]",
        help="a LoRA's file, folder or name (see frolic lora list), with its weight [1]; may be given several times; "
        "more after commas: steps=0-0.5, branch=cond, blocks=0-3, target=high",
    )
    add("--allow-partial", action="store_true", default=None, help="pass over what of a LoRA is of no use to the model")


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add(
        "-m",
        "--model",
        help="a name (see frolic models list), org/name on the Hub, a folder or a file [starter-sprint, or starter for "
        "what that cannot do]",
    )
    add("--base", metavar="MODEL", help="where the other parts are, when the model is one file")
    add("--controlnet", metavar="MODEL", help="a ControlNet's folder, or a model that has one")
    add("--vae", metavar="MODEL", help="another autoencoder")
    add("--variant", metavar="NAME", help="which of several weight files: fp16 or bf16")
    add("--compat", metavar="NAME", help="whose reading of the model: diffusers or native [diffusers]")
    add("--dtype", metavar="NAME", help="auto, float32, bfloat16 or float16 [auto]")
    add("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps [auto]")
    add(
        "--memory",
        metavar="NAME",
        help="auto, full (all parts stay loaded), low (one at a time) or blocks (one block at a time) [auto]",
    )
    add("--tiling", metavar="NAME", help="auto, on or off: decode in pieces, with the same result [auto]")


def _add_running(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("running").add_argument
    add(
        "--from",
        dest="source",
        metavar="FILE",
        help="draw again what made this picture or video; other options change it",
    )
    add("--resume-decode", metavar="FILE", help="decode latents that were kept when memory ran out")
    add("--dry-run", action="store_true", help="say what it would take, and draw nothing")
    add("--no-metadata", action="store_true", help="do not write the request into the file")
    add("--force", action="store_true", help="replace existing files")
    add("--json", action="store_true", help="print JSON lines")
    add("-q", "--quiet", action="store_true", help="print nothing but errors")


REQUEST = (
    *("negative_prompt", "steps", "guidance_scale", "seed", "aspect", "num_images", "sampler", "schedule", "apg"),
    *("apg_eta", "apg_threshold", "apg_momentum", "pag_scale", "pag_layers", "instruction", "binning", "strength"),
    *("control_scale", "frames", "seconds", "fps", "guidance_scale_2", "step_cache", "times"),
)
"""Options that are fields of a request under the same name."""

LOADING = ("base", "controlnet", "vae", "variant", "compat", "memory", "tiling", "allow_partial")
"""Options that say how a model is loaded. ``dtype`` and ``device`` too, but a record has those."""


NEEDS = {
    **dict.fromkeys(("mask", "strength"), "image"),
    **dict.fromkeys(("control_from", "control_scale"), "control"),
    **dict.fromkeys(("apg_eta", "apg_threshold", "apg_momentum"), "apg"),
    "pag_layers": "pag_scale",
}
"""Options that mean nothing without another one."""


def request_fields(options: argparse.Namespace, replayed: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The fields of a request that ``options`` give; None is not given. ``replayed``: the record that they change.

    Raises:
        RequestError: two options contradict each other.
    """
    for name, needed in NEEDS.items():
        if replayed is None and getattr(options, name) is not None and getattr(options, needed) is None:
            raise RequestError(
                f"--{name.replace('_', '-')} means nothing without --{needed.replace('_', '-')}; add it."
            )
    fields = {name: getattr(options, name) for name in REQUEST}
    fields["width"], fields["height"] = sides(options.size, options.width, options.height)
    if options.guidance_interval is not None:
        fields["guidance_interval"] = tuple(options.guidance_interval)
    drawn_from = (replayed or {}).get("inputs", {})
    if options.strength is None and options.image is not None and options.mask is None and "image" not in drawn_from:
        fields["strength"] = 0.6
    return fields


def loras(options: argparse.Namespace) -> list[tuple[str, Strength | None]]:
    """The adapters that are given, with the strength of each where one is said.

    Raises:
        RequestError: one cannot be read, or is given twice.
    """
    given = [parse(text) for text in options.lora or ()]
    sources = [source for source, _ in given]
    if twice := sorted({source for source in sources if sources.count(source) > 1}):
        raise RequestError(f"--lora {', '.join(twice)} is given twice; give it once, with the sum of the weights.")
    return given


def loading(options: argparse.Namespace) -> dict[str, Any]:
    """How to load the model, without what is not given."""
    return {name: value for name in LOADING if (value := getattr(options, name)) is not None}


def _layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not block numbers, as 8,9") from None


def _times(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not times, as 1.5708,1.3") from None


def sides(size: str | None, width: int | None, height: int | None) -> tuple[int | None, int | None]:
    """Width and height, said by ``--size`` or by themselves. Raises RequestError."""
    if size is None:
        return width, height
    match = re.fullmatch(r"\s*(\d{1,6})\s*[xX*]\s*(\d{1,6})\s*", size)
    if match is None:
        raise RequestError(f"--size {size!r} is not WIDTHxHEIGHT; write it as 128x128.")
    if width is not None or height is not None:
        raise RequestError("--size already says the width and the height; leave out -W and -H.")
    return int(match[1]), int(match[2])
