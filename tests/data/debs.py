"""Small Debian packages for tests."""

from __future__ import annotations

import lzma
import tarfile
from io import BytesIO
from pathlib import Path


def debian(path: Path, clips: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    """A package with ``clips`` where openclipart's has them; ``links`` are symbolic ones by name."""
    inner = BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as archive:
        for name, content in clips.items():
            member = tarfile.TarInfo(f"./usr/share/openclipart/svg/{name}")
            member.size = len(content)
            archive.addfile(member, BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(f"./usr/share/openclipart/svg/{name}")
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": lzma.compress(inner.getvalue())}
    content = b"!<arch>\n"
    for name, body in members.items():
        content += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(body):<10}`\n".encode() + body + b"\n" * (len(body) % 2)
        )
    path.write_bytes(content)
    return path
