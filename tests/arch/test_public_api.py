"""What ``import frolic`` offers, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import frolic

SURFACE = {"Pipeline", "Request", "Result", "Strength", "__version__", "load"}
NOT_TO_DRAW = {"diffusers", "transformers", "pydantic", "typer", "rich", "yaml", "tensorboard", "huggingface_hub", "av"}


def test_the_public_surface():
    assert set(frolic.__all__) == SURFACE
    assert len(frolic.__all__) == len(SURFACE)
    assert {name for name in dir(frolic) if not name.startswith("_") or name == "__version__"} == SURFACE


@pytest.mark.parametrize("name", sorted(SURFACE))
def test_every_name_is_there(name):
    value = getattr(frolic, name)
    assert name == "__version__" or value.__doc__, f"frolic.{name} has no documentation"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'draw'"):
        _ = frolic.draw


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import frolic", NOT_TO_DRAW | {"torch", "numpy", "PIL"}),
        ("import frolic.cli.main", NOT_TO_DRAW | {"torch", "numpy", "PIL"}),
        ("from frolic import load, Pipeline, Request, Result", NOT_TO_DRAW | {"PIL"}),
    ],
)
def test_imports_are_lazy(statement, absent):
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not absent & loaded, f"{statement!r} imports too much"
