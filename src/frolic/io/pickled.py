"""Turn a ``.pth`` into safetensors in a process of its own. A pickle can run any program when it is opened.

The guard against that is torch's own: the child reads tensors and plain containers only (``weights_only``). A process
of its own keeps a crash, and the memory that a damaged file asks for, away from the parent; it gets little of the
parent's environment, but it is no sandbox: it is the same user, who may read and write what that user may. It maps the
file instead of loading it, except one from before torch 1.6, and may hold and write no more than in proportion to the
file, where the system has such limits. What it leaves is a safetensors file, which the parent reads as strictly as any
other.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from frolic.errors import CheckpointError, ResourceError, UnsafeFileError, is_out_of_memory
from frolic.io.files import existing_file

STATES = ("state_dict", "state_dict_ema", "model", "module")
"""Under which name a training checkpoint keeps its tensors; the first that is there counts."""

# Isolated, so that neither the environment nor the working folder can put modules in the way; where ours lie is told.
_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from frolic.io.pickled import main; main(*sys.argv[2:])"
)
_PASSED_ON = ("LANG", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "PATH", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR")
_MARGIN = 64 * 1024 * 1024
_SPREAD = 16
"""How many times its own size a file's tensors may take when each is written: a checkpoint may give one several names,
but not this many."""


def unpickle(path: Path, target: Path) -> str:
    """Write the tensors of the pickle at ``path`` to ``target``, a safetensors file that must not exist yet. A tensor
    with several names is written under each. Returns what the user should know of it, or nothing.

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
    return what and f"{path} {what}."


def main(path: str, target: str) -> None:
    """The child: says what happened as one JSON object on standard output."""
    import torch

    torch.set_num_threads(1)
    _limit(Path(path).stat().st_size)
    try:
        kind, what = extract(Path(path), Path(target))
    except ResourceError as error:
        kind, what = "full", str(error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        kind, what = "broken", "it asks for more memory than a file of its size needs"
    sys.stdout.write(json.dumps({"kind": kind, "what": what[:500]}))


def extract(path: Path, target: Path) -> tuple[str, str]:
    """Read the pickle in this process and write its tensors. Returns what came of it, ``done``, ``code``, ``full`` or
    ``broken``, and words for it. Only for a process that has nothing to lose.

    Raises:
        ResourceError, FileError: ``target`` cannot be written.
    """
    import pickle
    import zipfile

    import torch

    from frolic.io.safetensors import DTYPES, save

    with path.open("rb") as file:
        archive = file.read(4) == b"PK\x03\x04"
    try:
        if archive and any(part.compress_type != zipfile.ZIP_STORED for part in zipfile.ZipFile(path).infolist()):
            return "broken", "it was compressed after it was written"
        # A file from before torch 1.6 is no archive and cannot be mapped.
        got = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except Exception as error:
        # Whatever its reader says of a damaged file.
        if is_out_of_memory(error):
            raise
        if isinstance(error, pickle.UnpicklingError):
            # Not in torch's words, which advise to read it without its guard.
            wish = _first_global(str(error))
            return ("code", wish) if wish else ("broken", "torch cannot read it as a checkpoint")
        first = (str(error).splitlines() or [""])[0]
        return "broken", f"torch cannot read it ({type(error).__name__}: {first[:200]})"
    state: Any = got
    note = ""
    if isinstance(got, Mapping):
        held = [name for name in STATES if isinstance(got.get(name), Mapping)]
        state = got[held[0]] if held else got
        if len(held) > 1:
            note = f"holds {' and '.join(held)}; {held[0]} is taken"
    if not isinstance(state, Mapping) or not state:
        return "broken", "it holds no tensors by name"
    strange = [str(name) for name, value in state.items() if not isinstance(name, str) or not _plain(value, DTYPES)]
    if strange:
        return "broken", f"it holds something besides tensors ({', '.join(strange[:3])})"
    size = path.stat().st_size
    hollow = [name for name, value in state.items() if _hollow(value, size)]
    if hollow:
        return "broken", f"it names more numbers than it holds ({', '.join(hollow[:3])})"
    total = sum(value.numel() * value.itemsize for value in state.values())
    if total > _SPREAD * size + _MARGIN:
        return "broken", f"its tensors would take {total:,} bytes, far more than the {size:,} of the file"
    free = shutil.disk_usage(target.parent).free
    if total + _MARGIN > free:
        return "full", f"The tensors of {path} need {total:,} bytes beside {target.parent}, which has {free:,} free."
    save(dict(state), target)
    return "done", note


def _hollow(value: Any, size: int) -> bool:
    """Whether a tensor repeats numbers to be larger than what is stored for it, or that is larger than the file."""
    stored = value.untyped_storage().nbytes()
    return bool(value.numel() * value.itemsize > stored or stored > size)


def _plain(value: Any, dtypes: Mapping[str, Any]) -> bool:
    import torch

    dense = isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_quantized
    return dense and value.device.type == "cpu" and value.dtype in dtypes.values()


def _first_global(text: str) -> str:
    """What the pickle asked for besides tensors, from the words of torch's refusal, or nothing."""
    # torch says how to allow it after naming it, once more by its name.
    for sign in ("GLOBAL ", "unsupported class ", "Unsupported class "):
        if found := text.partition(sign)[2].split():
            return found[0]
    return ""


def _limit(size: int) -> None:
    """Let this process hold and write no more than reading a file of ``size`` bytes takes, where the system has such
    limits."""
    try:
        import resource
    except ImportError:
        return

    def lower(kind: int, limit: int) -> None:
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))

    # The header of a safetensors file comes on top of its tensors.
    lower(resource.RLIMIT_FSIZE, _SPREAD * size + 2 * _MARGIN)
    lower(resource.RLIMIT_CORE, 0)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return
    # The file once as a map or in memory, and a tensor of it twice; the rest is for what Python and torch still load.
    lower(resource.RLIMIT_AS, pages * resource.getpagesize() + 3 * size + 8 * _MARGIN)
