"""Every error a user can meet, as one tree.

    FrolicError                     exit code 1
    ├── RequestError (ValueError)   2   the request cannot be carried out as asked
    │   └── ConfigError             2   a recipe or a setting is wrong
    ├── ModelError                  3   a model cannot be used
    │   ├── ModelNotFoundError      3   nothing is at that name or path
    │   ├── AccessError             3   the model's owner gives it only after a login or accepted terms
    │   ├── CheckpointError         3   weights are truncated, missing, foreign, misshapen or not finite
    │   └── UnsafeFileError         3   a pickle was offered where only safetensors is read
    ├── FileError (OSError)         3   a file cannot be read or written
    ├── NumericsError               3   a computation stopped being finite
    ├── ResourceError               4   memory or disk ran out
    └── NetworkError                5   something could not be fetched

Each message is one sentence (a list may follow it) that says what to do. A broken promise between two parts of
frolic is an ``assert``, never one of these.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FrolicError(Exception):
    """Base of the tree; ``exit_code`` is what the command line returns."""

    exit_code = 1


class RequestError(FrolicError, ValueError):
    exit_code = 2


class ConfigError(RequestError):
    pass


class ModelError(FrolicError):
    exit_code = 3


class ModelNotFoundError(ModelError):
    pass


class AccessError(ModelError):
    pass


class CheckpointError(ModelError):
    pass


class UnsafeFileError(ModelError):
    pass


class FileError(FrolicError, OSError):
    exit_code = 3


class NumericsError(FrolicError):
    exit_code = 3


class ResourceError(FrolicError):
    exit_code = 4


class NetworkError(FrolicError):
    exit_code = 5


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out: Python's own, torch's for an accelerator, and what torch raises
    where it has no class for it (its CPU allocator, MPS). Asks names, so that nothing here needs torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)


_NO_MEMORY = (
    "DefaultCPUAllocator",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def nearest(word: str, known: Iterable[str]) -> str:
    """``", did you mean 'x'?"`` for the nearest of ``known``, or an empty string."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f", did you mean {match[0]!r}?" if match else ""
