"""From a recipe's name to a validated ``Recipe``.

The order is fixed: what it extends, the recipe itself, the overlay of the environment, ``key=value`` overrides, then
variables. Mappings are laid over each other key by key; lists and values replace. Every environment's overlay is
checked, whichever one is used.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Protocol

from frolic.config.recipe import Recipe
from frolic.config.tree import Entry, Problems, Where, children, merge, parse
from frolic.config.validate import Section, validate
from frolic.config.variables import Variables
from frolic.errors import ConfigError, nearest

ENVIRONMENTS = ("gpu", "cpu", "ci")
_COMMAND_LINE = "command line"
_SUFFIXES = (".yaml", ".yml")


class JobSchemas(Protocol):
    """What the loader asks of the jobs that exist."""

    def kinds(self) -> Collection[str]:
        """The values that ``job.kind`` may take."""
        ...

    def sections(self, kind: str) -> Mapping[str, type[Section]]:
        """Models of the free sections (``job`` without its kind, ``model``, ``data``) of that kind."""
        ...


def load_recipe(
    name_or_path: str | Path,
    overrides: Sequence[str] = (),
    environment: str | None = "auto",
    jobs: JobSchemas | None = None,
) -> Recipe:
    """Read, combine and check a recipe.

    Args:
        name_or_path: a shipped name (``starter/image``) or a file ending in .yaml.
        overrides: ``section.key=value`` with YAML values; a list's items go by their number.
        environment: the overlay to use; ``auto`` takes ``gpu`` where a CUDA device works, else ``cpu``, where the
            recipe has them; None uses none.
        jobs: checks the job's own sections as well.

    Raises:
        ConfigError: with every problem, its file and line, and the nearest known key.
    """
    problems = Problems()
    name = str(name_or_path)
    tree = _inherit(name, _find(name, None), problems, ())
    if name.endswith(_SUFFIXES):
        name = Path(name).stem
    top = dict(children(tree))
    overlays = children(top.pop("environments", None))
    for overlay in set(overlays) - set(ENVIRONMENTS):
        problems.add(overlays[overlay].where, f"unknown environment {overlay!r}{nearest(overlay, ENVIRONMENTS)}")
    chosen = _choose(environment, overlays, name)
    tree = Entry(top, tree.where)

    recipe: Recipe | None = None
    choices: list[str | None] = [chosen, *(other for other in overlays if other != chosen)]
    for choice in choices:
        layered = merge(tree, overlays[choice]) if choice is not None else tree
        # Overrides are meant for the overlay in use; another one need not make sense with them.
        checked = _finish(name, layered, overrides if choice == chosen else (), jobs, problems)
        recipe = checked if choice == chosen else recipe
    problems.check(f"Recipe {name}")
    assert recipe is not None
    return recipe


def list_recipes() -> dict[str, str]:
    """Shipped recipes that can be trained: name to description. Bases that others extend are left out."""
    found: dict[str, str] = {}

    def walk(folder: Traversable, prefix: str) -> None:
        for item in sorted(folder.iterdir(), key=lambda item: item.name):
            if item.is_dir():
                walk(item, f"{prefix}{item.name}/")
            elif item.name.endswith(".yaml") and item.name != "base.yaml":
                tree = parse(item.read_text("utf-8"), item.name, Problems())
                description = children(tree).get("description")
                found[prefix + item.name.removesuffix(".yaml")] = str(description.value) if description else ""

    walk(_shipped_folder(), "")
    return found


def _shipped_folder() -> Traversable:
    return files("frolic.config") / "recipes"


def _find(name: str, beside: Path | None) -> Traversable | Path:
    """The file of a shipped name, or of a path (relative to the folder ``beside``)."""
    if name.endswith(_SUFFIXES):
        path = Path(name).expanduser()
        return beside / path if beside is not None else path
    parts = name.split("/")
    shipped = _shipped_folder().joinpath(*parts[:-1], f"{parts[-1]}.yaml")
    if ".." in parts or not parts[-1] or not shipped.is_file():
        hint = nearest(name, [*list_recipes(), "base"])
        raise ConfigError(
            f"No shipped recipe is named {name!r}{hint}; give one of those that frolic train --list shows, or a file "
            "ending in .yaml."
        )
    return shipped


def _inherit(name: str, file: Traversable | Path, problems: Problems, above: tuple[str, ...]) -> Entry:
    key = str(file.resolve()) if isinstance(file, Path) else str(file)
    if key in above:
        raise ConfigError(f"Recipe {name} extends itself through other recipes; break the circle.")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"The recipe {name} cannot be read: {reason}; check the path.") from None
    source = name if name.endswith(_SUFFIXES) else f"{name}.yaml"
    tree = parse(text, source, problems)
    if not isinstance(tree.value, dict):
        raise ConfigError(f"{source} must hold keys and values at its top; see `frolic train --list` for examples.")
    own = dict(tree.value)
    parent = own.pop("extends", None)
    if parent is None:
        return Entry(own, tree.where)
    if not isinstance(parent.value, str):
        problems.add(parent.where, "extends must name one shipped recipe or file")
        return Entry(own, tree.where)
    if isinstance(file, Path) or not parent.value.endswith(_SUFFIXES):
        found = _find(parent.value, file.parent if isinstance(file, Path) else None)
        return merge(_inherit(parent.value, found, problems, (*above, key)), Entry(own, tree.where))
    problems.add(parent.where, "a shipped recipe extends shipped recipes only")
    return Entry(own, tree.where)


def _choose(environment: str | None, overlays: Mapping[str, Entry], name: str) -> str | None:
    if environment is None or not overlays:
        if environment in (None, "auto"):
            return None
        raise ConfigError(f"Recipe {name} has no environments; leave --env out.")
    if environment == "auto":
        import torch

        order = ("gpu", "cpu") if torch.cuda.is_available() else ("cpu",)
        return next((choice for choice in order if choice in overlays), None)
    if environment not in overlays:
        known = ", ".join(overlays)
        raise ConfigError(f"Recipe {name} has no environment {environment!r}; choose one of: {known}.")
    return environment


def _finish(
    name: str, tree: Entry, overrides: Sequence[str], jobs: JobSchemas | None, problems: Problems
) -> Recipe | None:
    for override in overrides:
        tree = _override(tree, override, problems)
    top = dict(children(tree))
    declared = {"name": Entry(name, Where("frolic")), **children(top.pop("vars", None))}
    tree = Variables(declared, problems).resolve(Entry(top, tree.where))
    recipe = validate(Recipe, tree, problems)
    if recipe is None:
        return None
    recipe.bind(name, tree)
    if jobs is not None:
        kind = recipe.job.kind
        if kind in jobs.kinds():
            for section, model in jobs.sections(kind).items():
                recipe.check_section(section, model, problems)
        else:
            known = ", ".join(sorted(jobs.kinds()))
            hint = nearest(kind, jobs.kinds())
            problems.add(children(tree.value["job"])["kind"].where, f"unknown job.kind {kind!r}{hint} (known: {known})")
    return recipe


def _override(tree: Entry, text: str, problems: Problems) -> Entry:
    key, equals, value = text.partition("=")
    path = key.strip().split(".")
    where = Where(_COMMAND_LINE)
    if not equals or not all(path):
        raise ConfigError(f"The override {text[:80]!r} is not of the form section.key=value.")
    if path[0] == "vars" and len(path) > 1 and path[1] not in children(children(tree).get("vars")):
        problems.add(where, f"unknown variable {key!r}{nearest(path[1], children(children(tree).get('vars')))}")
        return tree
    parsed = parse(value, f"{_COMMAND_LINE} {text[:60]!r}", problems, lines=False)
    return _set(tree, path, parsed.value, Where(f"{_COMMAND_LINE} {text[:60]!r}"), problems)


def _set(tree: Entry, path: Sequence[str], value: object, where: Where, problems: Problems) -> Entry:
    if not path:
        return merge(tree, Entry(value, where))
    head, rest = path[0], path[1:]
    if isinstance(tree.value, list):
        if not head.isdigit() or int(head) >= len(tree.value):
            problems.add(where, f"{head!r} is not the number of an item (0 to {len(tree.value) - 1})")
            return tree
        items = list(tree.value)
        items[int(head)] = _set(items[int(head)], rest, value, where, problems)
        return Entry(items, tree.where)
    below = dict(children(tree))
    below[head] = _set(below.get(head, Entry({}, where)), rest, value, where, problems)
    return Entry(below, tree.where)
