"""PNG files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common import files


def write_png(path: Path, image: np.ndarray) -> None:
    from PIL import Image

    with files.writing(path) as stream:
        Image.fromarray(image).save(stream, format="PNG")
