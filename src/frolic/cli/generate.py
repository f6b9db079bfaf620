"""``frolic generate``: draw pictures and videos, and write them as files that remember how they were made."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frolic.cli.options import ABOUT, LOADING, loading, loras, parser, request_fields
from frolic.cli.places import folder_of, places, refuse, save_drawn, write
from frolic.cli.previews import Previews
from frolic.cli.replay import QUICK, WHOLE, Replay, model_of
from frolic.cli.report import Report
from frolic.errors import FileError, RequestError
from frolic.io.files import existing_file, reason
from frolic.request import FEW, IMPLIED_STRENGTH, Request, suits
from frolic.strength import Strength, blend_of

if TYPE_CHECKING:
    import typer

    from frolic.pipeline import Inputs, Pipeline, Result
    from frolic.plan import BuildPlan

_MAX_PROMPT_FILE = 4_000_000
_OF_DECODING = frozenset(
    {"resume_decode", "model", "dtype", "device", *LOADING, "output", "force", "no_metadata", "json", "quiet"}
)


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
    prompts = read_prompts(options.prompt, options.prompt_file)
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
        model, dtype, device = model or replay.model(fields), dtype or replay.dtype, device or replay.device
    request = replace(request, loras=(blend,))
    model = model or _starter(request, options)
    pictures = range(request.pictures) if kept is None else range(kept, kept + 1)
    if not options.dry_run:
        refuse(options.output, request, pictures, options.force)
    with Report(as_json=options.json, quiet=options.quiet) as report:
        chosen = {"dtype": dtype or "auto", "device": device or "auto", **loading(options)}
        chosen.setdefault("compat", replay.compat if replay else "diffusers")
        implied = options.strength is None and fields["strength"] is not None

        def meant(plan: BuildPlan, asked: Request = request) -> Request:
            fitting = _meant(asked, plan, implied)
            return replay.suited(fitting, fields, plan.defaults) if replay else fitting

        if options.dry_run:
            _say_plan(report, model, chosen, meant, options)
            return
        with _uncollected():
            inputs = _inputs(options)
            if replay is not None and kept is None:
                replay.check_given(inputs)
            plan = _plan(
                model,
                chosen,
                report,
                led=options.control is not None,
                fetch=replay is None or options.model is not None,
            )
            request = meant(plan)
            frames, fps = request.length(plan.defaults)
            found = places(options.output, request, pictures, options.force, is_video=frames > 1, fps=fps)
            previews = Previews(options.preview_every, found, pictures, report, force=options.force)
            pipeline = _load(plan, folder_of(found[0]))
        if replay is not None:
            if options.model is None and model == replay.model({}):
                replay.check_weights(pipeline)
            for note in replay.differences(pipeline):
                report.note(note)
        with previews:
            result = _draw(pipeline, request, pictures, report, inputs, replay if kept is not None else None, previews)
        for index, place in zip(pictures, found, strict=True):
            # A record names the weights by their hash, which takes seconds of reading for a large model.
            save = partial(result.save, index=index, metadata=not options.no_metadata, force=options.force)
            path = write(save, place, gives_way=options.output is None and not options.force)
            if result.videos:
                _remark(report, path, result)
            kind = "video" if result.videos else "image"
            report.made(path, result.seeds[index], result.request.prompt_of(index), kind)
        report.event("done", seconds=round(result.seconds, 3))


def _starter(request: Request, options: argparse.Namespace) -> str:
    """The starter that is drawn with where no model is named: the quick one, if it can do what is asked."""
    given = (options.image, options.control, options.controlnet, options.vae, options.base, options.variant)
    return WHOLE if any(given) or not suits(request) else QUICK


def _meant(request: Request, plan: BuildPlan, implied: bool) -> Request:
    """``request`` for this model. A model of videos goes on from an image, and does not draw it anew: a strength that
    was only ``implied`` is not for it. One that draws in a few steps has its own."""
    if not implied or (plan.defaults.frames == 1 and plan.defaults.sampler != FEW):
        return request
    return replace(request, strength=1.0 if plan.defaults.frames > 1 else IMPLIED_STRENGTH)


def _remark(report: Report, path: Path, result: Result) -> None:
    from frolic.io.video import remarks

    for note in remarks(path, *result.videos[0].shape[1:3]):
        report.note(note)


def _plan(model: str, chosen: dict[str, Any], report: Report, *, led: bool = False, fetch: bool = True) -> BuildPlan:
    """``led``: there is a control picture. ``fetch``: the user named the model, and a record from elsewhere did not."""
    from frolic.plan import Watch, make_plan

    plan = make_plan(model, watch=Watch(report.note, report.download, fetch), **chosen)
    _require_controlnet(plan, led)
    for note in plan.notes:
        report.note(note)
    return plan


def _load(plan: BuildPlan, rescue: Path) -> Pipeline:
    from frolic.assemble import assemble

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
    previews: Previews,
) -> Result:
    from frolic.pipeline import Progress

    if replay is not None:
        replay.check_inputs(inputs)
    report.event("start", model=pipeline.card.name, seeds=[request.seeds[index] for index in pictures])
    for event in pipeline.stream(request, inputs=inputs, tokens=replay.tokens if replay else 0):
        if isinstance(event, Progress):
            report.step(event.index, event.total)
            previews.step(event)
        else:
            result = event
    for note in result.notes:
        report.note(note)
    return result


def _inputs(options: argparse.Namespace) -> Inputs:
    """The pictures that are given, and what is to be made of them first. Read now: what is no picture is refused before
    the model is."""
    from frolic.io.media import load_image
    from frolic.pipeline import Inputs

    given: list[Any] = [
        None if path is None else load_image(Path(path)) for path in (options.image, options.mask, options.control)
    ]
    if options.control_from is not None:
        from frolic.pipeline.edges import control_picture

        given[2] = control_picture(given[2], options.control_from)
    return Inputs(*given)


def _resume(options: argparse.Namespace) -> None:
    """Decode what an earlier run could not."""
    from frolic.pipeline.kept import Kept

    usual = parser()
    given = [name for name, value in vars(options).items() if value != usual.get_default(name) and value != []]
    spelled = {"prompt": "the prompt", "source": "--from"}
    given.sort(key=lambda name: name != "prompt")
    idle = [spelled.get(name, f"--{name.replace('_', '-')}") for name in given if name not in _OF_DECODING]
    if idle:
        raise RequestError(f"--resume-decode decodes what was drawn before; leave out {', '.join(idle)}.")
    kept = Kept.read(Path(options.resume_decode))
    records = kept.records
    chosen = {"dtype": options.dtype or records[0]["dtype"], "device": options.device or "auto", **loading(options)}
    names = [Request.of(record["request"]["prompt"], seed=record["request"]["seed"]) for record in records]
    is_video = records[0]["request"].get("frames", 1) > 1
    found = [
        places(options.output, name, range(1), options.force, is_video=is_video, total=len(names), start=i)[0]
        for i, name in enumerate(names)
    ]
    with Report(as_json=options.json, quiet=options.quiet) as report:
        # Only the autoencoder is needed, and memory was what there was too little of.
        model = options.model or model_of(records[0], options.resume_decode)
        with _uncollected():
            plan = _plan(model, {"memory": "low", **chosen}, report, fetch=options.model is not None)
            pipeline = _load(plan, Path())
        if pipeline.card.hash != records[0]["model"]["hash"]:
            report.note(f"These are not the weights that made {options.resume_decode}; the picture may differ.")
        notes: list[str] = []
        drawn = pipeline.resume(kept, notes)
        for note in notes:
            report.note(note)
        for one, record, place in zip(drawn, records, found, strict=True):
            kept_record = None if options.no_metadata else record
            save = partial(save_drawn, one, record=kept_record, wanted=record["request"], force=options.force)
            path = write(save, place, gives_way=options.output is None and not options.force)
            kind = "video" if is_video else "image"
            report.made(path, record["request"]["seed"], record["request"]["prompt"], kind)


def _say_plan(
    report: Report,
    model: str,
    chosen: dict[str, Any],
    meant: Callable[[BuildPlan], Request],
    options: argparse.Namespace,
) -> None:
    """What drawing would take. ``meant``: the request for the model that the plan is of."""
    from frolic.pipeline import Inputs
    from frolic.plan import Watch, make_plan
    from frolic.plan.estimate import estimate

    plan = make_plan(model, watch=Watch(fetch=False), **chosen)
    _require_controlnet(plan, options.control is not None)
    request = meant(plan)
    given = Inputs(options.image, options.mask, options.control).read()
    given.check(request)
    report.plan(estimate(plan, given.sized(request, plan.defaults.most_pixels)))


def _require_controlnet(plan: BuildPlan, led: bool) -> None:
    if led and "controlnet" not in plan.parts:
        raise RequestError(f"The model {plan.name} has no ControlNet; give one with --controlnet MODEL.")


def read_prompts(words: list[str] | None, file: str | None) -> tuple[str, ...]:
    """The one prompt that ``words`` are, or those of ``file``, one a line."""
    if words and file is not None:
        raise RequestError("Give a prompt or --prompt-file, not both.")
    if file is None:
        return (" ".join(words),) if words else ()
    try:
        # Of a shell's <(...) there is a pipe, which is read as well.
        piped = Path(file).is_fifo()
        stream = sys.stdin.buffer if file == "-" else (Path(file) if piped else existing_file(Path(file))).open("rb")
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
