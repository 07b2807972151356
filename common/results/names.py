"""Names of the files in a results folder."""

from __future__ import annotations

from pathlib import Path

XRAY_IMAGE, START_IMAGE, FINAL_IMAGE = "gt.png", "init_image.png", "final_img.png"
PICTURES = (XRAY_IMAGE, START_IMAGE, FINAL_IMAGE)
PARAMETERS = "parameters.pt"
DRR = "drr.png"  # of create_drr.py
DRR_NAMES = (DRR, "hq_drr.png")  # its usual names
EVALUATION = "evaluation.json"
EVALUATION_SCHEMA = "evaluation/1"  # identifies an evaluation under another name
SLICER_FOLDER = "slicer"


def of_view(name: str, number: int) -> str:
    """The file name of view ``number`` (from 1): NAME.png, NAME_view2.png, ..."""
    return name if number == 1 else f"{Path(name).stem}_view{number}{Path(name).suffix}"


def result_names(view_count: int) -> list[str]:
    """Everything that one result consists of: the images of each view, the folder for 3D Slicer, the parameters."""
    images = [of_view(name, number) for number in range(1, view_count + 1) for name in PICTURES]
    return [*images, SLICER_FOLDER, PARAMETERS]
