"""``frolic generate``: draw pictures and write them as PNG."""

from __future__ import annotations

import argparse
import gc
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frolic.cli.options import ABOUT, loading, loras, parser, request_fields
from frolic.cli.replay import Replay, model_of
from frolic.cli.report import Report
from frolic.errors import FileError, RequestError
from frolic.io.files import check_writable, existing_file, reason
from frolic.io.media import save_png
from frolic.request import Request
from frolic.strength import Strength, blend_of

if TYPE_CHECKING:
    import typer

    from frolic.pipeline import Inputs, Pipeline, Progress, Result
    from frolic.plan import BuildPlan

CLIPS = (".mp4", ".webp", ".gif")
"""Endings of files that clips are kept in (``frolic.io.video``, which a picture has no use for)."""

_MAX_PROMPT_FILE = 4_000_000
_SLUG = 40


def register(app: typer.Typer) -> None:
    """Add the command to ``app``, for its list of commands; ``main`` calls ``run`` itself."""
    app.command("generate", help=ABOUT)(lambda: None)


def run(arguments: Sequence[str]) -> None:
    """Carry out ``frolic generate`` with these arguments.

    Raises:
        FrolicError: what the user is to be told.
    """
    # argparse itself mislays what follows "--" among intermixed arguments.
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser().parse_intermixed_args(arguments[:end])
    options.prompt += arguments[end + 1 :]
    if options.resume_decode is not None:
        _resume(options)
        return
    prompts = _prompts(options.prompt, options.prompt_file)
    replay = Replay.read(options.source) if options.source is not None else None
    fields = request_fields(options, replay.record if replay else None)
    adapters = loras(options)
    for picture in filter(None, (options.image, options.mask, options.control)):
        existing_file(Path(picture))
    model, dtype, device = options.model, options.dtype, options.device
    if replay is None:
        if not prompts:
            raise RequestError('There is no prompt; write what to draw, as in: frolic "a red panda".')
        blend = blend_of({source: strength or Strength() for source, strength in adapters})
        request, kept = Request.of(prompts, **fields).seeded(), None
    else:
        blend, fields["loras"] = replay.blend(adapters)
        request, kept = replay.request(prompts, fields)
        model, dtype, device = model or replay.model(), dtype or replay.dtype, device or replay.device
    request = replace(request, loras=(blend,))
    pictures = range(request.pictures) if kept is None else range(kept, kept + 1)
    clips = bool(request.frames or request.seconds or request.fps) and request.frames != 1
    clips = clips or (options.output is not None and Path(options.output).suffix.lower() in CLIPS)
    places = [] if options.dry_run else _places(options.output, request, pictures, options.force, clips=clips)
    with Report(as_json=options.json, quiet=options.quiet) as report:
        chosen = {"dtype": dtype or "auto", "device": device or "auto", **loading(options)}
        chosen.setdefault("compat", replay.compat if replay else "diffusers")
        if options.dry_run:
            _say_plan(report, model or "starter", chosen, request, options)
            return
        with _uncollected():
            inputs = _inputs(options)
            pipeline = _load(
                model or "starter",
                chosen,
                report,
                places[0].parent,
                led=options.control is not None,
                fetch=replay is None or options.model is not None,
            )
        # Only the model says whether it draws pictures or videos; the guess was good enough to refuse early.
        moving = pipeline.makes_clips and request.frames != 1
        if moving != clips:
            places = _places(options.output, request, pictures, options.force, clips=moving)
        if replay is not None:
            if options.model is None:
                replay.check_weights(pipeline)
            for note in replay.differences(pipeline):
                report.note(note)
        preview = _Preview(options.preview_every, places[0])
        try:
            result = _draw(pipeline, request, pictures, report, inputs, replay if kept is not None else None, preview)
        finally:
            preview.remove()
        for index, place in zip(pictures, places, strict=True):
            # A record names the weights by their hash, which takes seconds of reading for a large model.
            record = None if options.no_metadata else result.record(index)
            made = (result.videos or result.images)[index]
            path = _write(made, record, place, options, result.request.fps)
            report.made(path, result.seeds[index], result.request.prompt_of(index), "video" if moving else "image")
        report.event("done", seconds=round(result.seconds, 3))


def _load(
    model: str, chosen: dict[str, Any], report: Report, rescue: Path, *, led: bool = False, fetch: bool = True
) -> Pipeline:
    """``led``: there is a control picture. ``fetch``: the user named the model, and a record from elsewhere did not."""
    from frolic.assemble import assemble
    from frolic.plan import Watch, make_plan

    plan = make_plan(model, watch=Watch(report.note, report.download, fetch), **chosen)
    _require_controlnet(plan, led)
    for note in plan.notes:
        report.note(note)
    pipeline = assemble(plan)
    pipeline.rescue = rescue
    return pipeline


@contextmanager
def _uncollected() -> Iterator[None]:
    """Left alone, the collector walks torch's many objects again and again: a seventh of its import, and of the whole
    run a quarter when the interpreter ends. Frozen, they are passed over."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _draw(
    pipeline: Pipeline,
    request: Request,
    pictures: range,
    report: Report,
    inputs: Inputs,
    replay: Replay | None,
    preview: _Preview,
) -> Result:
    from frolic.pipeline import Progress

    if replay is not None:
        replay.check_inputs(inputs)
    report.event("start", model=pipeline.card.name, seeds=[request.seeds[index] for index in pictures])
    for event in pipeline.stream(request, inputs=inputs, tokens=replay.tokens if replay else 0):
        if isinstance(event, Progress):
            report.step(event.index, event.total)
            preview.show(event)
        else:
            result = event
    for note in result.notes:
        report.note(note)
    return result


def _inputs(options: argparse.Namespace) -> Inputs:
    """The pictures that are given, and what is to be made of them first."""
    from frolic.pipeline import Inputs

    control: Any = options.control
    if options.control_from is not None:
        from frolic.pipeline.edges import control_picture

        control = control_picture(control, options.control_from)
    return Inputs(options.image, options.mask, control)


def _resume(options: argparse.Namespace) -> None:
    """Decode what an earlier run could not."""
    from frolic.pipeline.kept import Kept

    if options.prompt or options.prompt_file is not None or options.source is not None:
        raise RequestError("--resume-decode decodes what was drawn before; leave out the prompt and --from.")

    kept = Kept.read(Path(options.resume_decode))
    records = kept.records
    chosen = {"dtype": options.dtype or records[0]["dtype"], "device": options.device or "auto", **loading(options)}
    names = [Request.of(record["request"]["prompt"], seed=record["request"]["seed"]) for record in records]
    clips = "frames" in records[0]["request"]
    places = [
        _places(options.output, name, range(1), options.force, len(names), number, clips=clips)[0]
        for number, name in enumerate(names)
    ]
    with Report(as_json=options.json, quiet=options.quiet) as report:
        # Only the autoencoder is needed, and memory was what there was too little of.
        model = options.model or model_of(records[0], options.resume_decode)
        with _uncollected():
            pipeline = _load(model, {"memory": "low", **chosen}, report, Path(), fetch=options.model is not None)
        if pipeline.card.hash != records[0]["model"]["hash"]:
            report.note(f"These are not the weights that made {options.resume_decode}; the picture may differ.")
        notes: list[str] = []
        made = pipeline.resume(kept, notes)
        for note in notes:
            report.note(note)
        for image, record, place in zip(made, records, places, strict=True):
            wanted = record["request"]
            path = _write(image, None if options.no_metadata else record, place, options, wanted.get("fps"))
            report.made(path, wanted["seed"], wanted["prompt"], "video" if "frames" in wanted else "image")


def _say_plan(
    report: Report, model: str, chosen: dict[str, Any], request: Request, options: argparse.Namespace
) -> None:
    """What drawing would take."""
    from frolic.pipeline import Inputs
    from frolic.plan import Watch, make_plan
    from frolic.plan.estimate import estimate

    plan = make_plan(model, watch=Watch(fetch=False), **chosen)
    _require_controlnet(plan, options.control is not None)
    given = Inputs(options.image, options.mask, options.control).read()
    given.check(request)
    report.plan(estimate(plan, given.sized(request, plan.defaults.most_pixels)))


def _require_controlnet(plan: BuildPlan, led: bool) -> None:
    if led and "controlnet" not in plan.parts:
        raise RequestError(f"The model {plan.name} has no ControlNet; give one with --controlnet MODEL.")


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


def _places(
    output: str | None,
    request: Request,
    pictures: range,
    force: bool,
    total: int = 0,
    start: int = 0,
    *,
    clips: bool = False,
) -> list[Path]:
    """Where every picture, or every one of ``clips``, goes, refused now if it cannot go there. They are ``total`` in
    all (0: no others), of which the first is number ``start``."""
    folder = Path(output) if output is not None and Path(output).is_dir() else None
    ending = ".mp4" if clips else ".png"
    places = []
    for index in pictures:
        if output is None or folder is not None:
            slug = re.sub(r"[\W_]+", "-", request.prompt_of(index).lower())[:_SLUG].strip("-") or "picture"
            places.append((folder or Path()) / f"frolic-{slug}-{request.seeds[index]}{ending}")
        else:
            path = Path(output)
            if not clips and path.suffix.lower() != ".png":
                raise RequestError(f"{output} is not a PNG name; end it in .png, or give an existing folder.")
            one = (total or len(pictures)) == 1
            places.append(path if one else path.with_stem(f"{path.stem}-{start + len(places) + 1}"))
    check = check_writable
    if clips:
        from frolic.io.video import check_place as check
    for place in places:
        check(_free(place) if output is None and not force else place, force=force)
    return places


def _free(path: Path) -> Path:
    """``path``, or the first of ``-2``, ``-3`` ... that is not taken."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free


class _Preview:
    """A picture of what a drawing becomes, beside its place, for as long as it lasts."""

    def __init__(self, every: int | None, place: Path) -> None:
        if every is not None and every < 1:
            raise RequestError(f"--preview-every {every} is not a number of steps; give 1 or more.")
        self._every = every
        self._path = place.with_name(f"{place.stem}.preview.png")
        self._there = False

    def show(self, step: Progress) -> None:
        if self._every is not None and (step.index + 1) % self._every == 0:
            save_png(step.preview()[0], self._path, None, force=self._there)
            self._there = True

    def remove(self) -> None:
        if self._there:
            self._path.unlink(missing_ok=True)


def _write(
    made: Any,
    record: dict[str, Any] | None,
    place: Path,
    options: argparse.Namespace,
    fps: float | None,
) -> Path:
    """Write a picture (PIL) or a clip (an array). A name that frolic chose itself gives way to one that appeared
    meanwhile."""
    gives_way = options.output is None and not options.force
    while True:
        path = _free(place) if gives_way else place
        try:
            if hasattr(made, "ndim"):
                from frolic.io.video import save_clip

                save_clip(made, path, fps=fps or 1.0, record=record, force=options.force)
            else:
                save_png(made, path, record, force=options.force)
            return path
        except FileError:
            if not (gives_way and path.exists()):
                raise
