"""``frolic generate``: draw pictures and write them as PNG.

Parsed by argparse, alone among the commands: typer and what it imports cost a tenth of the time to a first picture.
"""

from __future__ import annotations

import argparse
import gc
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from frolic.cli.replay import Replay
from frolic.cli.report import Report
from frolic.errors import FileError, RequestError
from frolic.io.files import check_writable, existing_file, reason
from frolic.request import SAMPLERS, Request

if TYPE_CHECKING:
    import typer

    from frolic.pipeline import Pipeline, Result

_MAX_PROMPT_FILE = 4_000_000
_SLUG = 40
_ABOUT = "Draw pictures of a prompt and write them as PNG files that remember how they were made."


def register(app: typer.Typer) -> None:
    """Add the command to ``app``, for its list of commands; ``main`` calls ``run`` itself."""
    app.command("generate", help=_ABOUT)(lambda: None)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message[0].upper()}{message[1:]}; see frolic generate --help.")


def parser() -> argparse.ArgumentParser:
    """All options of the command."""
    parser = _Parser(prog="frolic generate", description=_ABOUT, allow_abbrev=False)
    add = parser.add_argument
    add("prompt", nargs="*", help="what to draw; several words are one prompt")
    add("-m", "--model", help="a name or a model folder [starter]")
    add("-n", "--negative-prompt", metavar="TEXT", help="what to keep away from")
    add("--prompt-file", metavar="FILE", help="read prompts from a file, one a line; - is standard input")
    add("--steps", type=int, metavar="N", help="denoising steps, 1 to 1000")
    add("--guidance-scale", "--cfg", type=float, metavar="X", help="how closely to follow the prompt; 1 is no guidance")
    add("-s", "--seed", type=int, metavar="N", help="seed of the first picture [random, and printed]")
    add("-W", "--width", type=int, metavar="N", help="pixels")
    add("-H", "--height", type=int, metavar="N", help="pixels")
    add("--size", metavar="WxH", help="width and height, as 128x128")
    add("-N", "--num-images", type=int, metavar="N", help="pictures for each prompt [1]")
    add("-o", "--output", metavar="PATH", help="PNG file, or a folder [frolic-PROMPT-SEED.png in this folder]")
    add("--sampler", metavar="NAME", help=" or ".join(SAMPLERS))
    add("--dtype", metavar="NAME", help="auto, float32, bfloat16 or float16 [auto]")
    add("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps [auto]")
    add("--from", dest="source", metavar="PNG", help="draw again what made this picture; other options change it")
    add("--no-metadata", action="store_true", help="do not write the request into the PNG")
    add("--force", action="store_true", help="replace existing files")
    add("--json", action="store_true", help="print JSON lines")
    add("-q", "--quiet", action="store_true", help="print nothing but errors")
    return parser


def run(arguments: Sequence[str]) -> None:
    """Carry out ``frolic generate`` with these arguments.

    Raises:
        FrolicError: what the user is to be told.
    """
    # argparse itself mislays what follows "--" among intermixed arguments.
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser().parse_intermixed_args(arguments[:end])
    options.prompt += arguments[end + 1 :]
    width, height = _sides(options.size, options.width, options.height)
    fields: dict[str, Any] = {
        "negative_prompt": options.negative_prompt,
        "steps": options.steps,
        "guidance_scale": options.guidance_scale,
        "seed": options.seed,
        "width": width,
        "height": height,
        "num_images": options.num_images,
        "sampler": options.sampler,
    }
    prompts = _prompts(options.prompt, options.prompt_file)
    replay = Replay.read(options.source) if options.source is not None else None
    model, dtype, device = options.model, options.dtype, options.device
    if replay is None:
        if not prompts:
            raise RequestError('There is no prompt; write what to draw, as in: frolic "a red panda".')
        request, kept = Request.of(prompts, **fields).seeded(), None
    else:
        request, kept = replay.request(prompts, fields)
        model, dtype, device = model or replay.model(), dtype or replay.dtype, device or replay.device
    pictures = range(request.pictures) if kept is None else range(kept, kept + 1)
    places = _places(options.output, request, pictures, options.force)
    with Report(as_json=options.json, quiet=options.quiet) as report:
        pipeline = _load(model or "starter", dtype or "auto", device or "auto")
        if replay is not None:
            if options.model is None:
                replay.check_weights(pipeline)
            for note in replay.differences(pipeline):
                report.note(note)
        result = _draw(pipeline, request, pictures, report, 0 if replay is None or kept is None else replay.tokens)
        for index, place in zip(pictures, places, strict=True):
            path = _write(result, index, place, options)
            report.image(path, result.seeds[index], result.request.prompt_of(index))
        report.event("done", seconds=round(result.seconds, 3))


def _load(model: str, dtype: str, device: str) -> Pipeline:
    # Left alone, the collector walks torch's many objects again and again: a seventh of its import, and of the whole
    # run a quarter when the interpreter ends. Frozen, they are passed over.
    gc.disable()
    try:
        from frolic.assemble import load

        return load(model, dtype=dtype, device=device)
    finally:
        gc.freeze()
        gc.enable()


def _draw(pipeline: Pipeline, request: Request, pictures: range, report: Report, tokens: int) -> Result:
    from frolic.pipeline import Progress

    report.event("start", model=pipeline.card.name, seeds=[request.seeds[index] for index in pictures])
    for event in pipeline.stream(request, tokens=tokens):
        if isinstance(event, Progress):
            report.step(event.index, event.total)
        else:
            result = event
    for note in result.notes:
        report.note(note)
    return result


def _sides(size: str | None, width: int | None, height: int | None) -> tuple[int | None, int | None]:
    if size is None:
        return width, height
    match = re.fullmatch(r"\s*(\d{1,6})\s*[xX*]\s*(\d{1,6})\s*", size)
    if match is None:
        raise RequestError(f"--size {size!r} is not WIDTHxHEIGHT; write it as 128x128.")
    if width is not None or height is not None:
        raise RequestError("--size already says the width and the height; leave out -W and -H.")
    return int(match[1]), int(match[2])


def _prompts(words: list[str] | None, file: str | None) -> tuple[str, ...]:
    if words and file is not None:
        raise RequestError("Give a prompt or --prompt-file, not both.")
    if file is None:
        return (" ".join(words),) if words else ()
    try:
        stream = sys.stdin.buffer if file == "-" else existing_file(Path(file)).open("rb")
        with stream:
            raw = stream.read(_MAX_PROMPT_FILE + 1)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{file} cannot be read ({reason(error)}); check its permissions.") from error
    if len(raw) > _MAX_PROMPT_FILE:
        raise RequestError(f"{file} is too long for a list of prompts; split it.")
    try:
        lines = [line.strip() for line in raw.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise RequestError(f"{file} is not UTF-8 text; save it as UTF-8.") from None
    prompts = tuple(line for line in lines if line)
    if not prompts:
        raise RequestError(f"{file} holds no prompt; write one a line.")
    return prompts


def _places(output: str | None, request: Request, pictures: range, force: bool) -> list[Path]:
    """Where every picture goes, refused now if it cannot go there."""
    folder = Path(output) if output is not None and Path(output).is_dir() else None
    places = []
    for index in pictures:
        if output is None or folder is not None:
            slug = re.sub(r"[\W_]+", "-", request.prompt_of(index).lower())[:_SLUG].strip("-") or "picture"
            places.append((folder or Path()) / f"frolic-{slug}-{request.seeds[index]}.png")
        else:
            path = Path(output)
            if path.suffix.lower() != ".png":
                raise RequestError(f"{output} is not a PNG name; end it in .png, or give an existing folder.")
            places.append(path if len(pictures) == 1 else path.with_stem(f"{path.stem}-{len(places) + 1}"))
    for place in places:
        check_writable(_free(place) if output is None and not force else place, force=force)
    return places


def _free(path: Path) -> Path:
    """``path``, or the first of ``-2``, ``-3`` ... that is not taken."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free


def _write(result: Result, index: int, place: Path, options: argparse.Namespace) -> Path:
    """Write a picture. A name that frolic chose itself gives way to one that appeared meanwhile."""
    gives_way = options.output is None and not options.force
    while True:
        path = _free(place) if gives_way else place
        try:
            return result.save(path, index, metadata=not options.no_metadata, force=options.force)
        except FileError:
            if not (gives_way and path.exists()):
                raise
