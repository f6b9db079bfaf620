"""``frolic reward label``: make pairs of pictures, and choose between them on a local page."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frolic.errors import RequestError

if TYPE_CHECKING:
    from frolic.data.asking import Asking, Question

_PROMPT = typer.Option("--prompt", "-p", help="What to draw; can be given several times.")
_FILE = typer.Option("--prompt-file", help="Prompts, one a line.")
_AGAINST = typer.Option(help="A second model; each pair is then one seed drawn by both.")
_AGAINST_LORA = typer.Option(help="Adapters of the second side.")
_PAIRS_FROM = typer.Option(help="Choose between the pictures and clips that are in this folder.")
_NO_BROWSER = typer.Option("--no-browser", help="Only print the page's address.")
_MODEL, _PAIRS, _SEED = "starter", 1, 0


def label(
    folder: Annotated[Path, typer.Argument(help="Where the pairs are kept: pairs.jsonl, and the pictures drawn.")],
    prompt: Annotated[list[str] | None, _PROMPT] = None,
    prompt_file: Annotated[Path | None, _FILE] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="The model to draw with: a name, a folder.")] = _MODEL,
    lora: Annotated[list[str] | None, typer.Option(help="SOURCE[:WEIGHT], as for `frolic generate`.")] = None,
    against: Annotated[str | None, _AGAINST] = None,
    against_lora: Annotated[list[str] | None, _AGAINST_LORA] = None,
    pairs: Annotated[int, typer.Option(min=1, max=10_000, help="Pairs of each prompt.")] = _PAIRS,
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, help="Seed of the first picture of a prompt.")] = _SEED,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance-scale", "--cfg", help="Guidance scale.")] = None,
    size: Annotated[str | None, typer.Option(help="Width and height, as 256x256.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames, of a model that makes videos.")] = None,
    pairs_from: Annotated[Path | None, _PAIRS_FROM] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 is any that is free.")] = 0,
    no_browser: Annotated[bool, _NO_BROWSER] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Draw pairs of pictures and choose between them on a page that only this machine can see.

    Keys: left and right arrow for the better one, down for equal, s to skip, u to undo. Every choice is on disk at
    once; run the command again to go on. Without prompts it asks what is left of the folder's pairs.
    """
    from frolic.data.asking import Asking, open_asked, questions_from
    from frolic.errors import FileError
    from frolic.io.files import reason

    prompts = _prompts(prompt, prompt_file)
    options = _options(steps, guidance, size, frames)
    drawing = [lora, against, against_lora, *options]
    other = (model, pairs, seed) != (_MODEL, _PAIRS, _SEED)
    if pairs_from is not None and (prompts or any(drawing) or other):
        raise RequestError("--pairs-from is for pictures that are there; leave out what says how to draw others.")
    if not prompts and any(drawing):
        raise RequestError("There is no prompt to draw pairs of; give --prompt or --prompt-file.")
    folder = folder.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{folder} cannot be made ({reason(error)}); choose another place.") from error
    cut = ""
    if pairs_from is not None:
        questions, alone = questions_from(pairs_from.expanduser(), folder)
        if alone:
            _say(f"{alone} pictures are the only ones of their prompt and are left out.", as_json)
    elif prompts:
        painters = _painters(model, lora, against, against_lora)
        questions = _draw(folder, painters, prompts, pairs, seed, options, as_json)
    else:
        lines, questions = open_asked(folder)
        cut = lines.cut
        lines.close()
        if not questions:
            raise RequestError(f"{folder} holds no pairs yet; give --prompt, --prompt-file or --pairs-from.")
    asking = Asking(folder, questions)
    for note in filter(None, (cut, asking.repaired)):
        _say(note, as_json)
    try:
        if asking.questions:
            _serve(asking, port, no_browser, as_json)
        _summary(asking, folder, as_json)
    finally:
        asking.close()


def _draw(
    folder: Path, painters: Any, prompts: list[str], pairs: int, seed: int, options: dict[str, Any], as_json: bool
) -> list[Question]:
    from frolic.cli.label_draw import draw, pairs_to_draw

    wanted = pairs_to_draw(prompts, pairs, seed, painters[0] != painters[1])

    def say(done: int, total: int) -> None:
        if as_json:
            typer.echo(json.dumps({"event": "drawn", "done": done, "total": total}))
        elif done % 10 == 0 or done == total:
            typer.echo(f"{done} of {total} pictures", err=True)

    return draw(folder, painters, wanted, options, say)


def _serve(asking: Asking, port: int, no_browser: bool, as_json: bool) -> None:
    from frolic.cli.label_server import LabelServer

    server = LabelServer(asking, port)
    try:
        if as_json:
            typer.echo(json.dumps({"event": "serving", "url": server.address, "to_ask": len(asking.questions)}))
        else:
            typer.echo(f"{len(asking.questions)} pairs to choose between: {server.address}  (Ctrl-C ends)")
        if not no_browser:
            import webbrowser

            with contextlib.suppress(webbrowser.Error):
                webbrowser.open(server.address)
        # Ctrl-C is how this ends: every choice is on disk already.
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever(poll_interval=0.1)
    finally:
        server.server_close()


def _summary(asking: Asking, folder: Path, as_json: bool) -> None:
    from frolic.data.asking import PAIRS

    place = folder / PAIRS
    left = len(asking.questions) - asking.chosen
    if as_json:
        facts = {"chosen": asking.chosen, "in_all": asking.before + asking.chosen, "left": left, "pairs": str(place)}
        typer.echo(json.dumps({"event": "done", **facts}))
        return
    typer.echo(
        f"{asking.chosen} choices added, {asking.before + asking.chosen} in all in {place}; {left} not chosen yet."
    )
    if asking.before + asking.chosen:
        typer.echo(f"To learn from them: frolic reward train {place} -o my-reward")


def _prompts(given: list[str] | None, file: Path | None) -> list[str]:
    from frolic.errors import FileError
    from frolic.io.files import existing_file

    prompts = [text.strip() for text in given or ()]
    if file is not None:
        try:
            prompts += existing_file(file.expanduser()).read_text("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise FileError(f"{file} is not UTF-8 text; write it so.") from error
    if given and not all(prompts[: len(given)]):
        raise RequestError("A --prompt is empty; say what to draw.")
    return list(dict.fromkeys(text.strip() for text in prompts if text.strip()))


def _options(steps: int | None, guidance: float | None, size: str | None, frames: int | None) -> dict[str, Any]:
    from frolic.cli.options import sides

    width, height = sides(size, None, None)
    options = {"steps": steps, "guidance_scale": guidance, "width": width, "height": height, "frames": frames}
    return {name: value for name, value in options.items() if value is not None}


def _painters(model: str, lora: list[str] | None, against: str | None, against_lora: list[str] | None) -> Any:
    from frolic.cli.label_draw import Painter
    from frolic.strength import strengths

    first = Painter(model, strengths(lora or ()))
    if against is None and against_lora is None:
        return first, first
    return first, Painter(against or model, strengths(against_lora or ()))


def _say(text: str, as_json: bool) -> None:
    from frolic.cli.lora import safe

    typer.echo(json.dumps({"event": "note", "message": text}) if as_json else safe(text), err=not as_json)
