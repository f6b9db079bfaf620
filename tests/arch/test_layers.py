"""The structure of the package, read from its imports: the layer table of ARCHITECTURE.md, and what follows from it."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "src" / "frolic"
LAYERS = (
    ("errors", "types", "bins"),
    ("keymap", "nn", "sampling", "config", "strength"),
    ("spec",),
    ("models", "lora", "quant", "accel", "io", "request"),
    ("plan", "pipeline", "rewards", "data", "adapters"),
    ("assemble", "convert"),
    ("train", "eval", "serve", ""),
    ("cli",),
    ("__main__",),
)
"""From the bottom. A unit imports itself and lower layers, never its neighbours. ``""`` is ``frolic`` itself, the
public surface; its ``__version__`` is a constant that everyone may read."""

LEVEL = {unit: level for level, units in enumerate(LAYERS) for unit in units}
MAX_LINES = 400
FILES = sorted(ROOT.rglob("*.py"))


def unit_of(module: str) -> str:
    """``frolic.io.files`` -> ``io``; the package itself is ``""``."""
    return module.split(".")[1] if "." in module else ""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def exists(module: str) -> bool:
    place = ROOT.parent.joinpath(*module.split("."))
    return place.is_dir() or place.with_suffix(".py").is_file()


def imports(source: str, module: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything imported anywhere in ``source``: at the top, inside functions, relatively,
    under ``TYPE_CHECKING`` (a type is a dependency too), or by a string that names one of our modules.

    ``from frolic.x import y`` is ``frolic.x.y`` where that is a module. Of ``import frolic`` what counts is the use:
    ``frolic.load`` is the public surface, ``frolic.__version__`` nothing.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name != "frolic")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = module.split(".")[: None if is_package and node.level == 1 else -node.level + is_package]
                base = ".".join([*up, *([base] if base else [])])
            for alias in node.names:
                if (base, alias.name) != ("frolic", "__version__"):
                    full = f"{base}.{alias.name}"
                    yield node.lineno, full if base.startswith("frolic") and exists(full) else base
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "frolic":
            if node.attr != "__version__":
                full = f"frolic.{node.attr}"
                yield node.lineno, full if exists(full) else "frolic"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from [(node.lineno, node.value)] if _names_module(node.value) else []


def _names_module(text: str) -> bool:
    return re.fullmatch(r"frolic(\.\w+)+", text) is not None and exists(text)


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    return imports(path.read_text("utf-8"), module_of(path), path.name == "__init__.py")


def test_every_module_has_a_layer():
    unknown = {unit_of(module_of(path)) for path in FILES} - LEVEL.keys()
    assert not unknown, f"give {sorted(unknown)} a place in the table, here and in ARCHITECTURE.md"


def test_the_table_is_the_one_that_is_written_down():
    text = (ROOT.parents[1] / "ARCHITECTURE.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| (\d) \| ([^|]+) \|", text, re.MULTILINE))
    present = {unit_of(module_of(path)) for path in FILES}
    for level, units in enumerate(LAYERS):
        written = set(re.findall(r"`([\w]+)`", rows[str(level)]))
        assert written == {unit or "frolic" for unit in units if unit in present}, f"layer {level}"


def test_imports_point_downwards():
    wrong = []
    for path in FILES:
        own = unit_of(module_of(path))
        for line, name in imports_of(path):
            if name.split(".")[0] != "frolic":
                continue
            other = unit_of(name)
            if other != own and LEVEL[other] >= LEVEL[own]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", ["models", "nn", "sampling"])
def test_mathematics_needs_tensors_only(folder):
    """No files, devices, LoRA, quantization or process groups: torch (without its distributed part) and einops."""
    allowed = {"frolic", "torch", "einops"} | _standard_library()
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in (ROOT / folder).rglob("*.py")
        for line, name in imports_of(path)
        if name.split(".")[0] not in allowed
        or name.startswith("torch.distributed")
        or unit_of(name) in {"io", "lora", "quant", "accel"}
    ]
    assert not wrong, "\n".join(wrong)


def test_peers_are_not_needed_to_draw():
    """diffusers is a yardstick of tests and benchmarks; transformers serves one teacher while training, and gives the
    towers of published rewards."""
    homes = {"diffusers": set(), "transformers": {"data/starter/teacher.py", "rewards/towers.py"}}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in FILES
        for line, name in imports_of(path)
        if path.relative_to(ROOT).as_posix() not in homes.get(name.split(".")[0], {path.relative_to(ROOT).as_posix()})
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", ["models", "nn", "sampling"])
def test_the_caller_chooses_gradients(folder):
    switches = {"no_grad", "inference_mode", "enable_grad", "set_grad_enabled"}
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.attr}"
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in switches
    ]
    assert not wrong, "\n".join(wrong)


def test_files_are_short():
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text("utf-8").splitlines()) for path in FILES}
    long = {name: length for name, length in lengths.items() if length > MAX_LINES}
    assert not long, f"split these, {MAX_LINES} lines are enough for one idea: {long}"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f():\n    from frolic.io import files", ["frolic.io.files"]),
        ("if TYPE_CHECKING:\n    from frolic.pipeline import Pipeline", ["frolic.pipeline"]),
        ("from . import spec", ["frolic.models.sana.spec"]),
        ("from ...io.files import whole_file", ["frolic.io.files"]),
        ("import frolic\nfrolic.__version__", []),
        ("import frolic\nfrolic.load()", ["frolic"]),
        ("from frolic import Pipeline", ["frolic"]),
        ("import_module('frolic.cli.main')", ["frolic.cli.main"]),
        ("'frolic.is.not.a.module'", []),
    ],
)
def test_the_reader_of_imports(source, found):
    assert [name for _, name in imports(source, "frolic.models.sana.model")] == found


def test_relative_imports_of_a_package_start_at_itself():
    assert [name for _, name in imports("from .files import reason", "frolic.io", True)] == ["frolic.io.files"]
    assert [name for _, name in imports("from ..errors import nearest", "frolic.io", True)] == ["frolic.errors"]


def _standard_library() -> set[str]:
    return set(sys.stdlib_module_names) - {"socket", "multiprocessing", "pickle", "urllib", "http"}
