"""Files that carry the request they were made from.

Two texts: ``parameters`` (the de facto text of A1111, Forge and SD.Next) and ``frolic`` (JSON, exact). In a PNG they
are chunks, uncompressed: readers refuse compressed ones above a megabyte. An MP4 has the first as its description and
the second as its comment; GIF (as a comment) and WebP (as XMP) have the second. Without torch, so that ``info`` is
quick.
"""

from __future__ import annotations

import io
import json
import re
import struct
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from frolic.errors import FileError, RequestError
from frolic.io import tags
from frolic.io.files import existing_file, reason, write_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_TEXT = tags.MAX_TEXT
MAX_PIXELS = 8192 * 8192
SCHEMA = 1
CARRIERS = (".png", ".mp4", ".m4v", ".mov", ".gif", ".webp")
"""How the names of files end that can carry a record."""
_SAMPLER_NAMES = {"dpmpp_2m": "DPM++ 2M", "dpmpp_3m": "DPM++ 3M", "euler": "Euler"}
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNK = 2**31 - 1


def save_png(image: Image, path: Path, record: Mapping[str, Any] | None = None, *, force: bool = False) -> None:
    """Write ``image`` whole or not at all; ``record`` (see ``frolic.pipeline.Result.record``) travels inside it.

    Raises:
        FileError, ResourceError: as ``frolic.io.files.whole_file``.
        RequestError: the record is longer than ``MAX_TEXT`` characters.
    """
    write_bytes(path, encode_png(image, record), force=force)


def encode_png(image: Image, record: Mapping[str, Any] | None = None) -> bytes:
    """The bytes that ``save_png`` writes."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, text in () if record is None else texts_of(record).items():
        info.add_text(key, text)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def load_image(path: Path) -> Image:
    """The picture at ``path`` (PNG, JPEG, WebP and what else PIL reads), upright, its pixels decoded.

    Raises:
        FileError: there is no such file, or it cannot be read as a picture of a size that frolic draws.
    """
    from PIL import Image as images
    from PIL import ImageOps

    existing_file(path)
    try:
        # Only formats that are pixels and nothing else: PIL starts other programs for some.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", images.DecompressionBombWarning)  # the limit here is ours
            image = images.open(path, formats=FORMATS)
        with image:
            if not 0 < image.width * image.height <= MAX_PIXELS:
                raise FileError(
                    f"{path} has {image.width}x{image.height} pixels, more than can be used; make it smaller."
                )
            image.load()
            return ImageOps.exif_transpose(image)
    except FileError:
        raise
    except images.DecompressionBombError as error:
        raise FileError(f"{path} has more pixels than can be used; make it smaller.") from error
    except Exception as error:  # PIL's readers raise what they like at a damaged file
        raise FileError(f"{path} cannot be read as a picture; give a whole PNG, JPEG or WebP file.") from error


def eight_bits(image: Image) -> Image:
    """Grey in 16 bits brought to 8, of which PIL itself would call all but the darkest 256 shades white; any other as
    it is."""
    import numpy as np

    if image.mode.startswith("I") and (image.mode != "I" or np.asarray(image).max() > 255):
        return image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    return image


def opaque(image: Image) -> Image:
    """In colours, and over white where it is see-through."""
    image = eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        from PIL import Image as images

        image = image.convert("RGBA")
        over = images.new("RGBA", image.size, "white")
        over.alpha_composite(image)
        image = over
    return image.convert("RGB")


def read_texts(path: Path) -> dict[str, str]:
    """The texts that a PNG, MP4, GIF or WebP carries, ``frolic`` and ``parameters`` among them, without decoding it.

    Raises:
        FileError: there is no such file, or it is not a whole one of these.
    """
    try:
        with existing_file(path).open("rb") as file:
            head = file.read(12)
            if head.startswith(_SIGNATURE):
                return _png_texts(file)
            if head.startswith((b"GIF87a", b"GIF89a")):
                return _named(tags.gif_comment(file))
            if head[:4] == b"RIFF" and head[8:] == b"WEBP":
                return _named(tags.webp_record(file))
            if head[4:8] == b"ftyp":
                texts = tags.mp4_texts(file)
                return _named(texts.get("comment", ""), texts.get("description", ""))
    except FileError:
        raise
    except (tags.Damaged, _Cut) as error:
        raise FileError(f"{path} is cut short or damaged; get the file again.") from error
    except OSError as error:
        raise FileError(f"{path} cannot be read ({reason(error)}); check its permissions.") from error
    raise FileError(f"{path} is not a PNG, MP4, GIF or WebP file; give one that frolic made.")


class _Cut(ValueError):
    """A PNG is not whole."""


def _png_texts(file: BinaryIO) -> dict[str, str]:
    """All uncompressed text chunks."""
    texts: dict[str, str] = {}
    file.seek(len(_SIGNATURE))
    while True:
        head = file.read(8)
        length, kind = struct.unpack(">I4s", head) if len(head) == 8 else (0, b"")
        if not kind or length > _MAX_CHUNK:
            raise _Cut
        if kind == b"IEND" and len(file.read(4)) == 4:
            return texts
        if kind not in (b"tEXt", b"iTXt") or length > 2 * MAX_TEXT:
            file.seek(length + 4, io.SEEK_CUR)
        else:
            data = file.read(length)
            if file.read(4) != struct.pack(">I", zlib.crc32(kind + data)):
                raise _Cut
            key, text = _text(kind, data)
            texts.setdefault(key, text)


def _named(record: str, parameters: str = "") -> dict[str, str]:
    """``record`` under its name if it looks like ours: others have comments and descriptions too."""
    if not (record.startswith("{") and '"schema"' in record):
        return {}
    return {"frolic": record, **({"parameters": parameters} if parameters else {})}


def read_record(path: Path) -> dict[str, Any]:
    """The record that a file made by frolic carries: a PNG, MP4, GIF or WebP.

    Raises:
        FileError: there is no such file, it is not whole, or frolic did not make it.
    """
    text = read_texts(path).get("frolic")
    if text is None:
        raise FileError(f"{path} does not say how it was made; give a file that frolic wrote without --no-metadata.")
    try:
        record = json.loads(text)
        schema = record["schema"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise FileError(f"The frolic record in {path} is damaged; get the file again.") from None
    if schema != SCHEMA:
        raise FileError(f"The frolic record in {path} is of version {schema}; install a frolic that knows it.")
    return dict(record)


def parameters(record: Mapping[str, Any]) -> str:
    """``record`` as A1111 writes it: prompt, negative prompt, then ``key: value`` pairs in Forge's order."""
    request, model = record["request"], record["model"]
    pairs = {
        "Steps": request["steps"],
        "Sampler": _SAMPLER_NAMES.get(request["sampler"], request["sampler"]),
        "Schedule type": f"Flow shift {record['shift']:g}",
        "CFG scale": f"{request['guidance_scale']:g}",
        "Seed": request["seed"],
        "Size": f"{request['width']}x{request['height']}",
        "Model hash": model["hash"][:10],
        "Model": model["name"],
        "Version": f"frolic {record['version']}",
    }
    lines = [request["prompt"]]
    if request["negative_prompt"]:
        lines.append(f"Negative prompt: {request['negative_prompt']}")
    lines.append(", ".join(f"{key}: {_quoted(str(value))}" for key, value in pairs.items()))
    return "\n".join(lines)


def texts_of(record: Mapping[str, Any]) -> dict[str, str]:
    """The two texts that a file carries.

    Raises:
        RequestError: one is longer than ``MAX_TEXT`` characters.
    """
    texts = {"parameters": parameters(record), "frolic": json.dumps(record, ensure_ascii=True, sort_keys=True)}
    if max(map(len, texts.values())) > MAX_TEXT:
        raise RequestError("The request is too long to be kept in the file; shorten it or use --no-metadata.")
    return texts


def _quoted(value: str) -> str:
    """Values with separators in them are JSON strings, which the readers of this text know."""
    return json.dumps(value, ensure_ascii=False) if re.search(r"[,:\n\"]", value) else value


def _text(kind: bytes, data: bytes) -> tuple[str, str]:
    """Keyword and text of a chunk; a compressed or damaged one has an empty text."""
    key, _, rest = data.partition(b"\0")
    if kind == b"tEXt":
        return key.decode("latin-1"), rest.decode("latin-1")
    if rest[:1] != b"\0":
        return key.decode("latin-1"), ""
    text = rest[2:].split(b"\0", 2)[-1]
    return key.decode("latin-1"), text.decode("utf-8", "replace")
