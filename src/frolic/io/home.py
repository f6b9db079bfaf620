"""Where frolic keeps what is not a model's: what it fetched or made, and the adapters that a user gave a name."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """``$FROLIC_HOME``, else ``~/.cache/frolic``."""
    return Path(os.environ.get("FROLIC_HOME") or "~/.cache/frolic").expanduser()
