"""PNG files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common import files


def write_png(path: Path, image: np.ndarray) -> None:
    """Write an image as PNG: (H, W) uint8 or uint16, or (H, W, 3) uint8 of red, green and blue.

    Raises as `files.atomic`.
    """
    from PIL import Image

    with files.writing(path) as stream:
        Image.fromarray(image).save(stream, format="PNG")
