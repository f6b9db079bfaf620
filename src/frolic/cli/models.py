"""``frolic models``: what can be drawn with, and getting, checking and deleting it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frolic.errors import CheckpointError, ModelNotFoundError, RequestError, nearest

if TYPE_CHECKING:
    from frolic.io.hub_names import HubName
    from frolic.spec import Published

PLAIN = "plain"
_NAME = Annotated[str, typer.Argument(metavar="NAME", help="A short name (see list), org/name or org/name@revision.")]
_JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the ``models`` commands."""
    models = typer.Typer(no_args_is_help=True, help="List, get, check and delete models.")
    models.command("list")(list_)
    for command in (pull, verify, info):
        models.command()(command)
    models.command("rm")(remove)
    app.add_typer(models, name="models")


def list_(
    as_json: _JSON = False,
    all_: Annotated[bool, typer.Option("--all", help="Also what the cache holds for other programs.")] = False,
) -> None:
    """Show the models known by a short name, and what is on this machine."""
    from frolic.io.cache import CachedRepo, listing, size_text

    cache = {repo.repo: repo for repo in listing()}
    rows: list[dict[str, Any]] = [{"name": name, **_local(path)} for name, path in _shipped().items()]
    for entry in _published():
        rows.append({"name": entry.name, "repo": entry.repo, **_state(cache.pop(entry.repo, None))})
    classes = _pipelines()

    def drawable(repo: CachedRepo) -> bool:
        return any(snapshot.pipeline in classes for snapshot in repo.snapshots)

    rows += [{"name": "", "repo": name, **_state(repo)} for name, repo in cache.items() if all_ or drawable(repo)]
    if as_json:
        typer.echo(json.dumps({"models": rows}))
        return
    width = max(len(row["name"] or row["repo"]) for row in rows)
    for row in rows:
        size = size_text(row["size"]) if row["size"] else ""
        state = {"absent": "", "whole": "here", "partial": "in part; pull gets the rest", "shipped": "part of frolic"}
        repo = row["repo"] if row["name"] else ""
        line = f"{_safe(row['name'] or row['repo']):<{width}}  {size:>7}  {state[row['state']]:<14}  {_safe(repo)}"
        typer.echo(line.rstrip())


def pull(
    name: _NAME,
    variant: Annotated[
        str, typer.Option(help=f"Files of this kind, where there are: fp16, bf16, {PLAIN}. By default what suits it.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the files and sizes, fetch nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Get a model from the Hub, or bring it up to date; run it again to go on where it stopped."""
    from frolic.io import hub
    from frolic.io.cache import cached
    from frolic.io.hub_names import offline

    wanted, preferred = _named(name)
    kind = {"": preferred, PLAIN: ""}.get(variant, variant)
    if not dry_run and offline() and (here := cached(wanted, variant=kind if variant else None)):
        _say_pulled(str(wanted), here.commit, 0, here.path, as_json)
        return
    if variant not in ("", PLAIN) or dry_run:
        offer = hub.offer(wanted, variant=kind)
        if variant not in ("", PLAIN) and variant not in offer.variants:
            known = [PLAIN if kind == "" else kind for kind in sorted(offer.variants)]
            hint = nearest(variant, known) or "."
            raise RequestError(f"{wanted} has no {variant!r} files; give {' or '.join(known)}{hint}")
        if dry_run:
            _show_offer(offer, as_json)
            return
    from frolic.cli.downloads import shown

    with shown(as_json) as (notify, progress):
        got = hub.pull(wanted, variant=kind, classes=_pipelines(), notify=notify, progress=progress)
    _say_pulled(str(got.name), got.name.commit, got.fetched, got.path, as_json)


def verify(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A short name, org/name (@revision) or a folder.")],
    repair: Annotated[bool, typer.Option("--repair", help="Get what is damaged or missing again.")] = False,
    as_json: _JSON = False,
) -> None:
    """Compare every file with the hash that the Hub gave for it when it was fetched; needs no network.

    Of files that are not from the Hub no hash is known; of those the headers of the weights are read.
    """
    from frolic.cli.downloads import shown
    from frolic.io import verify as checks
    from frolic.io.cache import size_text

    folder, wanted = _folder(name)
    if repair and wanted is None:
        raise RequestError(f"{name} is not a name on the Hub, so nothing can be fetched; leave out --repair.")
    with shown(quiet=as_json) as (notify, progress):
        found = checks.verify(folder, progress)
        if found.problems and repair and wanted is not None:
            from frolic.io import hub
            from frolic.io.hub_names import HubName

            # That commit, and not what the name stands for by now.
            hub.repair(HubName(wanted.repo, folder.name), found, notify=notify, progress=progress)
            found = checks.verify(folder, progress)
    if as_json:
        told = {key: value for key, value in asdict(found).items() if key not in ("damaged", "missing")}
        facts = {"path": str(folder), **told}
        typer.echo(json.dumps(facts))
        raise typer.Exit(CheckpointError.exit_code if found.problems else 0)
    if found.problems:
        again = f"`frolic models verify --repair {name}` gets it again" if wanted else "get its files again"
        state = "not as it was published" if len(found.problems) > len(found.missing) else "here only in part"
        raise CheckpointError(f"{name} is {state} ({'; '.join(found.problems)}); {again}.")
    said = f"{name}: {found.files} files, {size_text(found.size)}, "
    if len(found.unchecked) == found.files:
        typer.echo(f"{said}whole as far as can be told: they are not from the Hub, so no hash of theirs is known.")
    elif found.unchecked:
        typer.echo(f"{said}as they were published, but {len(found.unchecked)} are unchecked: their hash is not known.")
    else:
        typer.echo(f"{said}as they were published.")


def info(name: _NAME, as_json: _JSON = False) -> None:
    """Say what is known of a model: parameters, dtypes, license, commit, room on the disk."""
    facts = _facts(name)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    from frolic.io.cache import size_text

    for key, value in facts.items():
        if isinstance(value, dict):
            typer.echo(f"{key.replace('_', ' ')}:")
            for part, said in value.items():
                if isinstance(said, dict):
                    said = [f"{said['parameters']:,} parameters", said["dtype"], size_text(said["size"])]
                typer.echo(f"  {_safe(part)}: {_safe(', '.join(said))}")
        elif value not in ("", None):
            typer.echo(f"{key.replace('_', ' ')}: {size_text(value) if key == 'size' else _safe(str(value))}")


def remove(
    name: _NAME,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: _JSON = False,
) -> None:
    """Delete a model from the cache; a folder that was given by path is never deleted."""
    from frolic.io import cache

    wanted, _ = _named(name)
    here = cache.look(wanted.folder())
    if here is None:
        raise ModelNotFoundError(f"{wanted} is not in the cache; `frolic models list` shows what is.")
    if not yes:
        if as_json:
            raise RequestError(f"This deletes {wanted} from {here.path}; pass --yes to do so.")
        whole = "" if wanted.revision else f", {cache.size_text(here.size)}"
        if not typer.confirm(f"Delete {wanted} from {here.path}{whole}?"):
            typer.echo("Nothing was deleted.")
            return
    freed = cache.remove(wanted)
    if as_json:
        typer.echo(json.dumps({"name": str(wanted), "freed": freed}))
    else:
        typer.echo(f"{wanted} is deleted; {cache.size_text(freed)} are free again.")


def _say_pulled(name: str, commit: str, fetched: int, path: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"event": "done", "name": name, "commit": commit, "fetched": fetched, "path": str(path)}))
    else:
        typer.echo(f"{name} is in {path}")


def _published() -> tuple[Published, ...]:
    from frolic.models.registry import families

    return tuple(entry for family in families().values() for entry in family.published)


def _pipelines() -> set[str]:
    from frolic.models.registry import families

    return {name for family in families().values() for name in family.pipeline_classes}


def _shipped() -> dict[str, Path]:
    from frolic.plan.find import ALIASES

    return {name: place() for name, place in ALIASES.items()}


def _named(name: str) -> tuple[HubName, str]:
    """The repository that ``name`` stands for and its preferred variant."""
    from frolic.io.hub_names import is_there, named

    published = _published()
    found = named(name, published)
    if found is None:
        if is_there(name) or name in _shipped():
            raise RequestError(f"{name} is not from the Hub; this command is for names such as org/name.")
        known = [entry.name for entry in published]
        hint = nearest(name, known) or "; give org/name, or a name that `frolic models list` shows."
        raise ModelNotFoundError(f"There is no model {name[:200]!r}{hint}")
    return found


def _folder(name: str) -> tuple[Path, HubName | None]:
    """Where ``name`` lies on this machine, and its name on the Hub if it is from there."""
    from frolic.io import cache
    from frolic.io.hub_names import is_there

    if name in (shipped := _shipped()):
        return shipped[name], None
    if is_there(name) and Path(name).expanduser().is_dir():
        return Path(name).expanduser(), None
    wanted, _ = _named(name)
    snapshot = cache.snapshot(wanted)
    if snapshot is None:
        raise ModelNotFoundError(f"{wanted} is not on this machine; `frolic models pull {name}` gets it.")
    return snapshot.path, wanted


def _local(path: Path) -> dict[str, Any]:
    from frolic.io.cache import files_in, size_of

    return {"repo": "", "state": "shipped", "size": size_of(files_in(path)), "commit": "", "path": str(path)}


def _state(repo: Any) -> dict[str, Any]:
    """What the cache holds of a repository, newest known ref first."""
    if repo is None:
        return {"state": "absent", "size": 0, "commit": "", "path": ""}
    whole = [snapshot for snapshot in repo.snapshots if not snapshot.missing]
    first = next((snapshot for snapshot in whole if "main" in snapshot.refs), whole[0] if whole else None)
    return {
        "state": "whole" if first else "partial",
        "size": repo.size,
        "commit": first.commit if first else "",
        "path": str(first.path if first else repo.path),
    }


def _show_offer(offer: Any, as_json: bool) -> None:
    from frolic.io.cache import size_text

    if as_json:
        files = [{"path": file.path, "size": file.size, "here": file.here} for file in offer.files]
        facts = {"name": str(offer.name), "commit": offer.name.commit, "license": offer.license, "gated": offer.gated}
        typer.echo(json.dumps({**facts, "size": offer.size, "to_fetch": offer.to_fetch, "files": files}))
        return
    for file in offer.files:
        here = "  here" if file.here == file.size else f"  {size_text(file.here)} here" if file.here else ""
        typer.echo(f"{size_text(file.size):>8}  {_safe(file.path)}{here}")
    left = f"{size_text(offer.to_fetch)} to download"
    typer.echo(f"{size_text(offer.size):>8}  {offer.name} at {offer.name.commit[:12]}; {left}")


def _facts(name: str) -> dict[str, Any]:
    """Everything about ``name`` that is known without the network."""
    from frolic.io.cache import files_in, origin, size_of
    from frolic.io.hub_names import is_there

    shipped = name in _shipped()
    local = shipped or (is_there(name) and Path(name).expanduser().is_dir())
    wanted = None if local else _named(name)[0]
    entry = next((entry for entry in _published() if wanted is not None and entry.repo == wanted.repo), None)
    facts: dict[str, Any] = {"name": entry.name if entry else name, "repo": wanted.repo if wanted else ""}
    try:
        path, _ = _folder(name)
    except ModelNotFoundError:
        if entry is None:
            raise
        path = None
    if entry is not None:
        facts.update({"image_size": f"{entry.size}x{entry.size}", "license": entry.license})
        facts.update({"safe_dtypes": {part: list(safe) for part, safe in entry.dtypes.items()}})
        facts["variant"] = entry.variant or PLAIN
    if path is None:
        return {**facts, "here": f"no; `frolic models pull {name}` gets it"}
    at = origin(path)
    facts["license"] = facts.get("license") or _license(path)
    facts["commit"] = at.commit if at else ""
    facts["path"] = str(path)
    facts["size"] = size_of(files_in(path))
    facts["components"] = _components(path)
    return facts


def _components(path: Path) -> dict[str, dict[str, Any]]:
    """Parameters, dtypes and bytes of every part's weights, in each variant that is here, from the files' headers."""
    from math import prod

    from frolic.io.hub_files import by_folder, weight_sets
    from frolic.io.safetensors import read_header

    parts: dict[str, dict[str, Any]] = {}
    paths = [file.relative_to(path).as_posix() for file in path.rglob("*.*") if file.is_file()]
    for folder, names in sorted(by_folder(paths).items()):
        for variant, files in weight_sets(names).items():
            weights = [path / folder / name for name in files if name.endswith(".safetensors")]
            kinds: Counter[str] = Counter()
            for tensor in (tensor for file in weights for tensor in read_header(file).entries.values()):
                kinds[str(tensor.dtype).removeprefix("torch.")] += prod(tensor.shape)
            parts[f"{folder or 'model'}{f' ({variant})' if variant else ''}"] = {
                "parameters": kinds.total(),
                "dtype": ", ".join(kind for kind, _ in kinds.most_common()),
                "size": sum(file.stat().st_size for file in weights),
            }
    return parts


def _license(path: Path) -> str:
    """What the model card's header says."""
    try:
        head = (path / "README.md").read_text("utf-8", errors="replace")[:20_000]
    except OSError:
        return ""
    lines = head.split("\n---", 1)[0].splitlines() if head.startswith("---") else []
    said = dict(line.split(":", 1) for line in lines if line.startswith(("license:", "license_name:")))
    return str(said.get("license_name") or said.get("license") or "").strip(" '\"")


def _safe(text: str) -> str:
    """What stands in a file from elsewhere must not steer the terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
