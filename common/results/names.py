"""Writes what registration.py promises: the pictures of each view, the files for 3D Slicer and, last, ``parameters.pt``."""

from __future__ import annotations

from pathlib import Path

from common.results import slicer

PICTURES = ("gt.png", "init_image.png", "final_img.png")
PARAMETERS = "parameters.pt"


def names(view_count: int) -> list[str]:
    """What one result consists of: the pictures of the first view, those of further views with _view2 ..., the folder for 3D Slicer, the parameters."""
    further = [
        f"{Path(name).stem}_view{number}.png"
        for number in range(2, view_count + 1)
        for name in PICTURES
    ]
    return [*PICTURES, *further, slicer.FOLDER, PARAMETERS]
