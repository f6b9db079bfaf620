"""Turn a ``.pth`` into safetensors in a process of its own. A pickle can run any program when it is opened.

The child reads tensors and plain containers only (``weights_only``), maps the file instead of loading it, may write no
more than such a file can hold, and knows none of the parent's secrets. What it leaves is a safetensors file, which the
parent reads as strictly as any other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from frolic.errors import CheckpointError, ResourceError, UnsafeFileError
from frolic.io.files import existing_file

STATES = ("state_dict", "state_dict_ema", "model", "module")
"""Under which name a training checkpoint keeps its tensors; the first that is there counts."""

# Isolated, so that neither the environment nor the working folder can put modules in the way; where ours lie is told.
_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from frolic.io.pickled import main; main(*sys.argv[2:])"
)
_PASSED_ON = ("LANG", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "PATH", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR")
_MARGIN = 64 * 1024 * 1024


def unpickle(path: Path, target: Path) -> None:
    """Write the tensors of the pickle at ``path`` to ``target``, a safetensors file that must not exist yet.

    Raises:
        UnsafeFileError: it holds code.
        CheckpointError: it is no checkpoint, damaged, or holds something besides tensors.
        ResourceError: there is no room for its tensors.
        FileError: there is no such file.
    """
    places = json.dumps([place for place in sys.path if place])
    command = [sys.executable, "-I", "-c", _CHILD, places, str(existing_file(path).resolve()), str(target.resolve())]
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, check=False)
    try:
        said = json.loads(ended.stdout)
        kind, what = str(said["kind"]), str(said["what"])
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"Reading {path} ended without an answer (exit code {ended.returncode}); get the file again, or give the "
            "model as .safetensors."
        ) from None
    if kind == "code":
        raise UnsafeFileError(
            f"{path} is a pickle that would run code when it is opened ({what}); get the model as .safetensors instead."
        )
    if kind == "full":
        raise ResourceError(what)
    if kind != "done":
        raise CheckpointError(f"{path} cannot be used because {what}; get the file again, or as .safetensors.")


def main(path: str, target: str) -> None:
    """The child: says what happened as one JSON object on standard output."""
    _limit(2 * Path(path).stat().st_size + _MARGIN)
    try:
        kind, what = extract(Path(path), Path(target))
    except ResourceError as error:
        kind, what = "full", str(error)
    sys.stdout.write(json.dumps({"kind": kind, "what": what[:500]}))


def extract(path: Path, target: Path) -> tuple[str, str]:
    """Read the pickle in this process and write its tensors. Returns what came of it, ``done``, ``code`` or ``broken``,
    and words for the last two. Only for a process that has nothing to lose."""
    import pickle

    import torch

    from frolic.io.safetensors import DTYPES, save

    try:
        got = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        return "code", _first_global(str(error))
    except Exception as error:
        # Whatever its reader says of a damaged file; an old one is no archive and cannot be mapped.
        return "broken", f"torch cannot read it ({type(error).__name__}: {str(error).splitlines()[0][:200]})"
    state: Any = got
    if isinstance(got, Mapping):
        state = next((got[name] for name in STATES if isinstance(got.get(name), Mapping)), got)
    if not isinstance(state, Mapping) or not state:
        return "broken", "it holds no tensors by name"
    strange = [str(name) for name, value in state.items() if not isinstance(name, str) or not _plain(value, DTYPES)]
    if strange:
        return "broken", f"it holds something besides tensors ({', '.join(strange[:3])})"
    save(dict(state), target)
    return "done", ""


def _plain(value: Any, dtypes: Mapping[str, Any]) -> bool:
    import torch

    dense = isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_quantized
    return dense and value.device.type == "cpu" and value.dtype in dtypes.values()


def _first_global(text: str) -> str:
    """What the pickle asked for, from the words of torch's refusal."""
    found = text.partition("GLOBAL ")[2].split()
    return found[0] if found else "it asks for more than tensors"


def _limit(size: int) -> None:
    """Let this process write no file larger than ``size``, where the system has such limits."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
