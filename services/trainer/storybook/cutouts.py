"""Openly licensed cut-outs: fetched as pinned npm packages, rendered to transparent images.

Only sets whose licence allows a derived model to be shipped under this project's own licence are named
here; share-alike and GPL sets are left out on purpose.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import resvg_py
from PIL import Image

RENDER_PX = 256
"""Width of a rendered cut-out; hardly any subject of a 256 px scene is shown larger than this."""


class CutoutError(RuntimeError):
    """A package could not be fetched, its digest differs, or a cut-out is missing from it."""


@dataclass(frozen=True, slots=True)
class Package:
    """One pinned npm package in iconify form.

    Attributes:
        set_name: the name scenes use for the drawing set.
        integrity: npm's ``sha512-<base64>`` of the tarball.
        credit: the line the data card must carry.
    """

    set_name: str
    name: str
    version: str
    integrity: str
    licence: str
    credit: str

    @property
    def tarball(self) -> str:
        """File name that ``npm pack`` gives the tarball."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


PACKAGES = (
    Package(
        "noto",
        "@iconify-json/noto",
        "1.2.9",
        "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        "Apache-2.0",
        "Noto Emoji, Google Inc.",
    ),
    Package(
        "fluent-flat",
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        "MIT",
        "Fluent Emoji (flat), Microsoft Corporation",
    ),
    Package(
        "fluent",
        "@iconify-json/fluent-emoji",
        "1.2.7",
        "sha512-D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
        "MIT",
        "Fluent Emoji (colour), Microsoft Corporation",
    ),
)


class CutoutSource(Protocol):
    """Where a composer takes its cut-outs from."""

    def render(self, set_name: str, icon: str) -> Image.Image:
        """Return the cut-out as RGBA, cropped to what is drawn; raise ``CutoutError`` if there is none."""


def render_svg(svg: str, width_px: int = RENDER_PX) -> Image.Image:
    """Rasterise an SVG document to RGBA, cropped to what is drawn.

    Raises:
        CutoutError: if nothing at all is drawn.
    """
    image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=width_px)))).convert("RGBA")
    box = image.getbbox()
    if box is None:
        raise CutoutError("the drawing is empty")
    return image.crop(box)


def verify(tarball: Path, integrity: str) -> None:
    """Compare a tarball with npm's integrity string; raise ``CutoutError`` when they differ."""
    algorithm, _, expected = integrity.partition("-")
    digest = hashlib.new(algorithm, tarball.read_bytes()).digest()
    if base64.b64encode(digest).decode() != expected:
        raise CutoutError(f"{tarball.name}: digest differs from the pinned one; delete it and fetch again")


def fetch(work_dir: Path) -> dict[str, Path]:
    """Fetch, verify and unpack every package; return the icon file of each set.

    What is already there is verified and kept, so the second call needs no network.
    """
    folder = work_dir / "cutouts"
    folder.mkdir(parents=True, exist_ok=True)
    icon_files = {}
    for package in PACKAGES:
        tarball = folder / package.tarball
        if not tarball.exists():
            command = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
            try:
                subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
            except FileNotFoundError as error:
                raise CutoutError("npm is needed to fetch the cut-outs and is not installed") from error
            except subprocess.CalledProcessError as error:
                raise CutoutError(f"npm could not fetch {package.name}: {error.stderr.strip()}") from error
        verify(tarball, package.integrity)
        icon_files[package.set_name] = folder / f"{package.set_name}.json"
        if not icon_files[package.set_name].exists():
            with tarfile.open(tarball) as archive:
                member = archive.extractfile("package/icons.json")
                if member is None:
                    raise CutoutError(f"{package.tarball} holds no icons.json")
                icon_files[package.set_name].write_bytes(member.read())
    return icon_files


class CutoutLibrary:
    """Cut-outs of fetched packages, rendered on demand and kept in memory."""

    def __init__(self, icon_files: Mapping[str, Path]) -> None:
        self._icon_files = dict(icon_files)
        self._sets: dict[str, dict[str, Any]] = {}
        self._rendered = lru_cache(maxsize=4096)(self._render)

    def render(self, set_name: str, icon: str) -> Image.Image:
        """Return a cut-out of ``RENDER_PX`` width or less; callers must not write into it."""
        return self._rendered(set_name, icon)

    def _render(self, set_name: str, icon: str) -> Image.Image:
        if set_name not in self._sets:
            try:
                self._sets[set_name] = json.loads(self._icon_files[set_name].read_text(encoding="utf-8"))
            except (KeyError, OSError, ValueError) as error:
                raise CutoutError(f"no cut-out set {set_name!r}") from error
        icons = self._sets[set_name]
        alias = icons.get("aliases", {}).get(icon, {}).get("parent", icon)
        try:
            entry = icons["icons"][alias]
        except KeyError as error:
            raise CutoutError(f"the set {set_name!r} has no cut-out {icon!r}") from error
        width = entry.get("width", icons.get("width", 16))
        height = entry.get("height", icons.get("height", 16))
        return render_svg(
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">{entry["body"]}</svg>'
        )
