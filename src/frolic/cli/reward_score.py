"""``frolic reward score``: what rewards say of files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from frolic.errors import FileError, RequestError

if TYPE_CHECKING:
    from frolic.rewards import Reward, Wanted
    from frolic.rewards.combine import Combined
    from frolic.rewards.files import Clip

_KEPT = 1 << 30
"""Bytes of frames that are kept from the first reading, which looks for what cannot be read, to the second."""


def score(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Pictures, videos, or folders of a clip's frames.")
    ],
    reward: Annotated[
        list[str],
        typer.Option(
            "--reward",
            "-r",
            metavar="SPEC",
            help="NAME[=WEIGHTS][:WEIGHT], python:MODULE:FUNCTION or http://HOST/PATH; may be given several times.",
        ),
    ],
    prompt: Annotated[
        str | None, typer.Option(help="What they should show; by default what their own records say.")
    ] = None,
    frames: Annotated[int, typer.Option(min=1, max=4096, help="How many frames of a clip, evenly spaced.")] = 16,
    combine: Annotated[str | None, typer.Option(help="A column of all rewards together: sum, min or rank.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Score files: a table with a row for each file and a column for each reward."""
    import torch

    from frolic.plan.find import choose_device
    from frolic.rewards import make_rewards, parse_rewards

    wanted = parse_rewards(reward)
    if combine is None and any(each.weight != 1 for each in wanted):
        raise RequestError("A weight counts where rewards are put together; add --combine sum, or leave it out.")
    place = choose_device(device)
    rewards = make_rewards(wanted, place)
    together = None if combine is None else _together(rewards, wanted, combine)
    clips = _read(files, frames)
    prompts = {path: prompt if prompt is not None else clip.prompt for path, clip in clips.items()}
    _check(rewards, clips, prompts)

    from frolic.rewards.base import finite
    from frolic.rewards.files import read_clip

    columns = []
    with torch.inference_mode():
        for path, clip in clips.items():
            whole = clip if clip.frames.size else read_clip(path, frames)
            x, text = whole.tensor(place), [prompts[path] or ""]
            columns.append(torch.cat([finite(f"{e.name} ({path})", e.score(x, text)).float().cpu() for e in rewards]))
        scores_RB = torch.stack(columns, dim=1)
        if together is not None and len(rewards) > 1 and combine != "rank":
            together = together.measured(scores_RB)
        whole_B = None if together is None else together.together(scores_RB).tolist()
    names = labels(rewards, wanted)
    rows = scores_RB.T.tolist()
    if as_json:
        for number, (path, clip) in enumerate(clips.items()):
            facts = {
                "event": "score",
                "path": str(path),
                "prompt": prompts[path],
                "frames": len(clip.frames),
                "of": clip.total,
                "scores": dict(zip(names, rows[number], strict=True)),
                **({} if whole_B is None else {"together": whole_B[number]}),
            }
            typer.echo(json.dumps(facts))
        return
    head = ["file", *names, *([] if combine is None else [combine])]
    body = [
        [str(path), *(f"{value:.4f}" for value in (*row, *([] if whole_B is None else [whole_B[number]])))]
        for number, (path, row) in enumerate(zip(clips, rows, strict=True))
    ]
    typer.echo("\n".join(table([head, *body])))


def labels(rewards: Sequence[Reward], wanted: Sequence[Wanted]) -> list[str]:
    """What columns are called: the rewards' names, and where two have one, how they were spelled."""
    names = [reward.name for reward in rewards]
    spelled = [each.text if names.count(name) > 1 else name for name, each in zip(names, wanted, strict=True)]
    # Two may differ in nothing but what is not shown.
    number = [f" #{spelled[: k + 1].count(name)}" if spelled.count(name) > 1 else "" for k, name in enumerate(spelled)]
    return [name + said for name, said in zip(spelled, number, strict=True)]


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the first column to the left and the others to the right."""
    from frolic.cli.lora import safe

    rows = [[safe(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def _together(rewards: Sequence[Reward], wanted: Sequence[Wanted], mode: str) -> Combined:
    from frolic.rewards import Combined

    return Combined(rewards, [each.weight for each in wanted], mode, black_box=True)


def _read(files: Sequence[Path], frames: int) -> dict[Path, Clip]:
    """Every file's clip, without its frames where all would take too much memory. Raises FileError, listing all that
    cannot be read."""
    from dataclasses import replace

    from frolic.rewards.files import read_clip

    clips: dict[Path, Clip] = {}
    errors: list[FileError] = []
    kept = 0
    for path in files:
        if path in clips:
            continue
        try:
            clip = read_clip(path, frames)
        except FileError as error:
            errors.append(error)
            continue
        kept += clip.frames.nbytes
        clips[path] = clip if kept <= _KEPT else replace(clip, frames=clip.frames[:, :0])
    if len(errors) == 1:
        raise errors[0]
    if errors:
        listed = "\n".join(f"  {error}" for error in errors)
        raise FileError(
            f"{len(errors)} of {len(files)} files cannot be scored; leave them out, or mend them:\n{listed}"
        )
    return clips


def _check(rewards: Sequence[Reward], clips: dict[Path, Clip], prompts: dict[Path, str | None]) -> None:
    problems = []
    for each in rewards:
        short = [str(path) for path, clip in clips.items() if len(clip.frames) < each.least_frames]
        if short:
            problems.append(f"{each.name} needs {each.least_frames} frames, and there are fewer of {_some(short)}")
    if needing := [each.name for each in rewards if getattr(each, "reads_prompt", True)]:
        silent = [str(path) for path, prompt in prompts.items() if prompt is None]
        if silent:
            problems.append(
                f"{', '.join(needing)} reads the prompt, and none is recorded in {_some(silent)}; give it with --prompt"
            )
    said = {path: prompt for path, prompt in prompts.items() if prompt is not None}
    for each in rewards:
        refused = {path: why for path, prompt in said.items() if (why := _refusal(each, prompt))}
        if refused:
            problems.append(f"{_some([*map(str, refused)])}: {next(iter(refused.values())).rstrip('.')}")
    if problems:
        raise RequestError(f"These files cannot be scored so: {'; '.join(problems)}.")


def _refusal(reward: Reward, prompt: str) -> str:
    """Why a reward cannot be asked about a prompt, or nothing."""
    try:
        reward.check_prompts([prompt])
    except RequestError as error:
        return str(error)
    return ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
