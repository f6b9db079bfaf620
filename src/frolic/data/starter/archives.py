"""The encoded pictures inside the pinned packages, by collection: only wanted ones are read.

Each function yields ``(file, picture)`` in the archive's own order: a compressed archive has no index, so jumping
about would inflate it again and again.
"""

from __future__ import annotations

import base64
import lzma
import re
import tarfile
from collections.abc import Collection, Iterator
from io import BytesIO
from pathlib import Path

from frolic.errors import FileError

_ICONS = "package/dist/_/dynamic-color/"
_CLIPS = "./usr/share/openclipart/svg/"
_PNG = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")


def fluent_files(package: Path) -> dict[str, str]:
    """Picture name (no suffix) -> member of the Fluent 3D package."""
    with tarfile.open(package) as archive:
        return {Path(name).stem: name for name in archive.getnames() if name.endswith(".webp")}


def fluent(package: Path, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """WebP files of the Fluent 3D package by name without suffix."""
    with tarfile.open(package) as archive:
        for member in archive:
            name = Path(member.name).stem
            if member.name.endswith(".webp") and name in wanted:
                yield name, _read(archive, member)


def icons(package: Path, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """PNG files of the 3D icons by name ("Axe"); the package has each inside a script."""
    with tarfile.open(package) as archive:
        for member in archive:
            name = member.name.removeprefix(_ICONS).removesuffix(".js")
            if member.name == f"{_ICONS}{name}.js" and name in wanted:
                found = _PNG.search(_read(archive, member).decode())
                if found is None:
                    raise FileError(f"The 3D icon {name} holds no picture; the package is not the pinned one.")
                yield name, base64.b64decode(found.group(1))


def clips(package: Path, wanted: Collection[str]) -> Iterator[tuple[str, str]]:
    """SVG texts of the clip art by path within the collection ("animals/armadillo.svg")."""
    with tarfile.open(fileobj=_data(package)) as archive:
        for member in archive:
            name = member.name.removeprefix(_CLIPS)
            if name in wanted:  # a file, or a link to one in another folder
                yield name, _read(archive, member).decode("utf-8", "replace")


def _data(package: Path) -> BytesIO:
    """The inner archive of a Debian package, which is an ``ar`` file of 60-byte headers and even-sized members."""
    content = package.read_bytes()
    if content[:8] != b"!<arch>\n":
        raise FileError(f"{package} is not a Debian package; remove it and run the command again.")
    at = 8
    while at + 60 <= len(content):
        name, size = content[at : at + 16].decode("ascii", "replace").strip(" /"), int(content[at + 48 : at + 58])
        body = content[at + 60 : at + 60 + size]
        if name == "data.tar.xz":
            return BytesIO(lzma.decompress(body))
        if name in ("data.tar", "data.tar.gz", "data.tar.bz2"):
            return BytesIO(body)
        at += 60 + size + size % 2
    raise FileError(f"{package} holds no archive that can be read here; remove it and run the command again.")


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None, member.name
    return file.read()
