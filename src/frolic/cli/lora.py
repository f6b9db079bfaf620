"""``frolic lora``: look into adapters, write them for other programs, blend several into one."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frolic.errors import RequestError, nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch import Tensor

    from frolic.adapters import Target
    from frolic.lora.adapter import Loaded
    from frolic.lora.blend import Blend
    from frolic.spec import ComponentSpec

_FILES = Annotated[list[str], typer.Argument(metavar="FILE...", help="Adapters: files, folders or names.")]
_MODEL = typer.Option("--model", "-m", help="The model they are for: a name, a folder.")
_PARTIAL = Annotated[bool, typer.Option("--allow-partial", help="Pass over what is of no layer of the model.")]
_RANK = Annotated[int | None, typer.Option(min=1, max=4096, help="Cut to this rank; the error is printed.")]
_DTYPE = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
_FORCE = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
_JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Halves = dict[str, list[tuple["Loaded", float]]]
"""What is blended with which weights, of one expert each; of ``""`` alone where there are no two."""
METHODS = ("sum", "ties", "dare")
DTYPES = ("float32", "bfloat16", "float16")


def register(app: typer.Typer) -> None:
    """Add the ``lora`` commands."""
    lora = typer.Typer(no_args_is_help=True, help="Look into LoRAs, convert and blend them.")
    from frolic.cli import lora_shelf
    from frolic.cli.lora_explore import explore
    from frolic.cli.lora_merge import merge

    for command in (info, convert, blend, explore, merge):
        lora.command()(command)
    lora.command("list")(lora_shelf.show)
    lora.command("add")(lora_shelf.add)
    lora.command("remove")(lora_shelf.remove)
    app.add_typer(lora, name="lora")


def info(
    files: _FILES,
    model: Annotated[str | None, _MODEL] = None,
    layers: Annotated[bool, typer.Option("--layers", help="A line for every layer.")] = False,
    allow_partial: _PARTIAL = False,
    as_json: _JSON = False,
) -> None:
    """Say what adapters hold; with a model, how much they change it; of several, which will fight."""
    from frolic.adapters import load, resolve
    from frolic.adapters.own import own_target
    from frolic.lora import inspect
    from frolic.lora.experts import HIGH, part_of

    goal = own_target([resolve(file) for file in files]) if model is None else target_of(model)
    loaded = []
    for file in files:
        experts = _experts_in(file)
        for expert in experts or (HIGH,):
            one = load(file, goal, allow_partial=allow_partial, expert=expert)
            loaded.append(replace(one, name=f"{one.name} ({expert})", expert=expert) if experts else one)
    # What is for both experts is held against the first.
    parts = [part_of(each.expert or HIGH) for each in loaded]
    weights = {} if model is None else _weights_of(model, goal, {*parts})
    facts = [_facts(each, weights.get(part)) for each, part in zip(loaded, parts, strict=True)]
    pairs = []
    for number, one in enumerate(loaded):
        for other in loaded[number + 1 :]:
            if one.expert and other.expert and one.expert != other.expert:
                continue  # they never meet
            found = inspect.overlaps(one.adapter, other.adapter)
            pairs.append(
                {
                    "names": [one.name, other.name],
                    "verdict": inspect.verdict(found, (one.name, other.name)),
                    "layers": [
                        {"layer": o.linear, "cosine": o.cosine, "inputs": o.inputs, "outputs": o.outputs} for o in found
                    ],
                }
            )
    if as_json:
        typer.echo(json.dumps({"adapters": facts, "pairs": pairs}))
        return
    for fact in facts:
        _print(fact, layers)
    for pair in pairs:
        typer.echo(pair["verdict"])
        for layer in pair["layers"] if layers else ():
            assert isinstance(layer, dict)
            typer.echo(
                f"  {safe(layer['layer'])}: cosine {layer['cosine']:+.3f}, shared inputs {layer['inputs']:.0%}, "
                f"outputs {layer['outputs']:.0%}"
            )


def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="An adapter's file or folder, in any dialect.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The .safetensors file to write.")],
    to: Annotated[str, typer.Option(help="diffusers, comfy, kohya or original.")] = "diffusers",
    model: Annotated[str | None, _MODEL] = None,
    rank: _RANK = None,
    dtype: _DTYPE = "bfloat16",
    allow_partial: _PARTIAL = False,
    force: _FORCE = False,
    as_json: _JSON = False,
) -> None:
    """Write an adapter as another program reads it; it has the same strength there. One with a part for each of two
    experts stays one file in diffusers' format, and becomes two, OUT_high and OUT_low, in the others."""
    goal = target_of(model or _base_of([source]))
    files = _files([(source, 1.0)], target, goal, to, allow_partial, force)
    for path, halves in files:
        write_blend(halves, path, goal, to, "sum", rank, 1.0, 0, dtype, force, as_json)


def blend(
    sources: Annotated[list[str], typer.Argument(metavar="SRC[:WEIGHT]...", help="Adapters with their weights.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .safetensors file to write.")],
    to: Annotated[str, typer.Option(help="diffusers, comfy, kohya or original.")] = "diffusers",
    model: Annotated[str | None, _MODEL] = None,
    method: Annotated[str, typer.Option(help="sum (exact), ties or dare.")] = "sum",
    rank: _RANK = None,
    density: Annotated[float | None, typer.Option(help="For ties [0.2] and dare [0.5]: the share that stays.")] = None,
    seed: Annotated[int, typer.Option(help="For dare.")] = 0,
    dtype: _DTYPE = "bfloat16",
    allow_partial: _PARTIAL = False,
    force: _FORCE = False,
    as_json: _JSON = False,
) -> None:
    """Blend adapters into one file: exactly, or cut to a rank. With parts for each of two experts, other formats than
    diffusers' take two files, as with convert."""
    from frolic.strength import parse

    choose("method", method, METHODS)
    if method != "sum" and rank is None:
        raise RequestError(f"--method {method} makes changes of full rank; give the --rank to cut them to.")
    if method == "sum" and density is not None:
        raise RequestError("--density is for --method ties and dare.")
    parts = []
    for text in sources:
        source, strength = parse(text)
        if strength is not None and not strength.plain:
            raise RequestError(f"A file has one weight for all steps, branches and blocks; give {text!r} one weight.")
        parts.append((source, 1.0 if strength is None else strength.weight))
    goal = target_of(model or _base_of([source for source, _ in parts]))
    share = density if density is not None else {"ties": 0.2, "dare": 0.5}.get(method, 1.0)
    files = _files(parts, output, goal, to, allow_partial, force)
    for path, halves in files:
        write_blend(halves, path, goal, to, method, rank, share, seed, dtype, force, as_json)


def _base_of(sources: Sequence[str]) -> str:
    """The model that all these adapters say they are for, if it has a name here; else the starter."""
    from frolic.adapters import find, resolve
    from frolic.plan.find import ALIASES, published_names

    said = {find(resolve(source)).metadata().get("ss_base_model_version", "") for source in sources}
    return said.pop() if len(said) == 1 and said <= {*ALIASES, *published_names()} else "starter"


def _experts_in(source: str) -> tuple[str, ...]:
    """``high`` and ``low`` where the file holds adapters of both experts; else none. Raises as ``load``."""
    from frolic.adapters import find, resolve
    from frolic.lora.experts import inside

    return inside(find(resolve(source)).entries())


def _files(
    sources: list[tuple[str, float]], path: Path, goal: Target, form: str, allow_partial: bool, force: bool
) -> list[tuple[Path, Halves]]:
    """The files that a blend of ``sources`` becomes, each of which can be written, and what each is made of."""
    from frolic.adapters import FORMATS, load
    from frolic.io.files import check_writable
    from frolic.lora.experts import HIGH, LOW

    choose("format", form, FORMATS)
    if not any(_experts_in(source) for source, _ in sources):
        return [(path, {"": [(load(source, goal, allow_partial=allow_partial), weight) for source, weight in sources]})]
    halves: Halves = {}
    for expert in (HIGH, LOW):
        all_of_them = [
            (load(source, goal, allow_partial=allow_partial, expert=expert), weight) for source, weight in sources
        ]
        halves[expert] = [part for part in all_of_them if part[0].expert in ("", expert)]
    if form == "diffusers":
        return [(path, halves)]
    files: list[tuple[Path, Halves]] = []
    for expert, parts in halves.items():
        alone = [(replace(loaded, expert=expert), weight) for loaded, weight in parts]
        files.append((path.with_stem(f"{path.stem}_{expert}"), {"": alone}))
        check_writable(files[-1][0], force=force)
    return files


def write_blend(
    halves: Halves, path: Path, goal: Target, form: str, method: str, rank: int | None,
    density: float, seed: int, dtype: str, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Blend each of ``halves`` and write the file; say what it is and what was lost."""
    import torch

    from frolic.adapters import FORMATS, write, write_experts
    from frolic.adapters.shelf import carried
    from frolic.io.files import check_writable

    choose("format", form, FORMATS)
    choose("dtype", dtype, DTYPES)
    check_writable(path, force=force)
    made = {expert: _blended(parts, method, rank, density, seed) for expert, parts in halves.items()}
    parts = _made_of(halves)
    about = {"modelspec.title": path.stem, **carried(parts)}
    if len(parts) > 1:
        recipe: dict[str, Any] = {}
        for loaded, weight in parts:
            name, number = loaded.name, 1
            while name in recipe:  # two may be called alike
                number += 1
                name = f"{loaded.name} ({number})"
            recipe[name] = {"weight": weight, "sha256": loaded.hash}
        about["frolic.blend"] = json.dumps({"method": method, "adapters": recipe})
    kept: dict[str, Any] = {"metadata": about, "dtype": getattr(torch, dtype), "force": force}
    adapters = {expert: one.adapter for expert, one in made.items()}
    if len(adapters) == 1:
        write(next(iter(adapters.values())), path, goal, form, **kept)
    else:
        write_experts(adapters, path, goal, two=True, **kept)
    left_out = {
        loaded.name: list(loaded.adapter.left_out)
        for half in halves.values()
        for loaded, _ in half
        if loaded.adapter.left_out
    }
    for name, left in left_out.items():
        typer.echo(f"{len(left)} tensors of {safe(name)} were passed over: {safe(', '.join(left[:3]))}", err=True)
    facts: dict[str, Any] = {
        "event": "written",
        "path": str(path),
        "left_out": left_out,
        "format": form,
        "layers": sum(len(adapter.deltas) for adapter in adapters.values()),
        "ranks": sorted({rank for adapter in adapters.values() for rank in adapter.ranks}),
        "error": max(one.error for one in made.values()),
    }
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        error = facts["error"]
        lost = "exact but for rounding" if error == 0 else f"off by {error:.2%} of the change's length"
        typer.echo(f"{path}: {form}, {facts['layers']} layers, rank {_ranks(facts['ranks'])}, {lost}")


def _made_of(halves: Halves) -> list[tuple[Loaded, float]]:
    """The adapters of all halves, each once, with the sum of its weights."""
    found: dict[str, tuple[Loaded, float]] = {}
    for half in halves.values():
        own: dict[str, tuple[Loaded, float]] = {}
        for loaded, weight in half:
            own[loaded.hash] = loaded, weight + (own[loaded.hash][1] if loaded.hash in own else 0.0)
        found |= own
    return [*found.values()]


def _blended(parts: list[tuple[Loaded, float]], method: str, rank: int | None, density: float, seed: int) -> Blend:
    from frolic.lora import blend as blending

    weighted = [(loaded.adapter, weight) for loaded, weight in parts]
    if method == "ties":
        return blending.ties(weighted, rank or 1, density)
    if method == "dare":
        return blending.dare(weighted, rank or 1, density, seed)
    if len(parts) == 1 and rank is None and parts[0][1] == 1.0:
        return blending.Blend(parts[0][0].adapter, 0.0)
    if rank is None:
        return blending.Blend(blending.exact(weighted), 0.0)
    return blending.cut(weighted, rank)


def _facts(loaded: Loaded, weights: dict[str, Tensor] | None) -> dict[str, Any]:
    from frolic.lora.inspect import facts

    found = facts(loaded.adapter, weights)
    return {
        "name": loaded.name,
        "dialect": loaded.adapter.dialect,
        "sha256": loaded.hash,
        "layers": [{"layer": f.linear, "rank": f.rank, "norm": f.norm, "relative": f.relative} for f in found],
        "targets": dict(Counter(f.linear.rpartition(".")[2] for f in found)),
        "ranks": _ranks(loaded.adapter.ranks),
        "metadata": dict(loaded.adapter.metadata),
    }


def _print(fact: dict[str, Any], layers: bool) -> None:
    targets = ", ".join(f"{name} ({count})" for name, count in fact["targets"].items())
    kind = f"{fact['dialect']}, rank {fact['ranks']}, {len(fact['layers'])} layers"
    typer.echo(f"{safe(fact['name'])}: {kind}: {safe(targets)}")
    relative = [layer["relative"] for layer in fact["layers"] if layer["relative"] is not None]
    if relative:
        most = max(fact["layers"], key=lambda layer: layer["relative"])
        typer.echo(
            f"  changes weights by {sum(relative) / len(relative):.2%} on average, most {safe(most['layer'])}: "
            f"{most['relative']:.2%}"
        )
    for layer in fact["layers"] if layers else ():
        part = "" if layer["relative"] is None else f", {layer['relative']:.2%} of the weight"
        typer.echo(f"  {safe(layer['layer'])}: rank {layer['rank']}, length {layer['norm']:.4g}{part}")
    for key, value in fact["metadata"].items():
        if key != "format":
            typer.echo(f"  {safe(key)}: {safe(value if len(value) <= 100 else value[:97] + '...')}")


def _ranks(found: list[int]) -> str:
    ranks = [rank for rank in found if rank]
    return "full" if not ranks else str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"


def target_of(model: str) -> Target:
    """What adapters can change of a model's transformer, from its settings alone."""
    from frolic.adapters import target

    return target(*_transformer(model))


def _transformer(model: str) -> tuple[ComponentSpec, Any]:
    """Spec and config of a model's transformer."""
    from frolic.models.registry import families

    for family in families().values():
        for entry in family.published:
            if entry.name == model:
                return family.components["transformer"], entry.config
    part = _opened(model)["transformer"]
    return part.spec, part.config


def _opened(model: str) -> Mapping[str, Any]:
    """The parts of a model that is here."""
    from frolic.io.folder import open_folder
    from frolic.models.registry import families
    from frolic.plan import Watch
    from frolic.plan.find import find_model

    return open_folder(find_model(model, Watch(fetch=False)), families()).components


def _weights_of(model: str, goal: Target, parts: Collection[str]) -> dict[str, dict[str, Tensor]]:
    """The weights of the layers of those of a model's ``parts`` that it has; nothing where it is not here."""
    from frolic.errors import ModelNotFoundError, NetworkError
    from frolic.io.safetensors import load

    try:
        there = _opened(model)
    except (ModelNotFoundError, NetworkError):
        return {}
    found = {}
    for name in parts & there.keys():
        part = there[name]
        state = part.spec.keymap(part.config).load(load(next(iter(part.weights.values()))))
        found[name] = {linear: state[f"{linear}.weight"] for linear in goal.shapes}
    return found


def choose(what: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a ``value`` that is not ``known``. Raises RequestError."""
    if value not in known:
        raise RequestError(f"Choose a {what} of {', '.join(known)}: {value!r} is not known{nearest(value, known)}.")


def safe(text: str) -> str:
    """In a line for a terminal: what a file says must not steer it."""
    from frolic.cli.report import printable

    return printable(text).replace("\n", "?")
