"""PNG files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common import files

# of zlib: the usual 6 takes two to four times as long, for files a sixth smaller
LEVEL = 2


def write_png(path: Path, image: np.ndarray, text: Mapping[str, str] | None = None) -> None:
    """Write an image as PNG: (H, W) uint8 or uint16, or (H, W, 3) uint8 of red, green and blue.

    ``text`` becomes its text chunks. Raises as `files.atomic`.
    """
    from PIL import Image, PngImagePlugin

    chunks = PngImagePlugin.PngInfo()
    for name, value in (text or {}).items():
        chunks.add_text(name, value)
    with files.writing(path) as stream:
        Image.fromarray(image).save(stream, format="PNG", pnginfo=chunks, compress_level=LEVEL)
