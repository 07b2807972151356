"""Names of the files in a results folder."""

from __future__ import annotations

from pathlib import Path

XRAY_IMAGE, START_IMAGE, FINAL_IMAGE = "gt.png", "init_image.png", "final_img.png"
IMAGES = (XRAY_IMAGE, START_IMAGE, FINAL_IMAGE)
PARAMETERS = "parameters.pt"
SLICER_FOLDER = "slicer"
POSED_SURFACE = "posed.ply"  # the structure at its pose, in the rig
CHECK_IMAGE = "check.png"  # of a preflight check
DRR = "drr.png"  # of create_drr.py
DRR_NAMES = (DRR, "hq_drr.png")  # its usual names
EVALUATION = "evaluation.json"
EVALUATION_SCHEMA = "evaluation/1"  # identifies an evaluation under another name


def of_view(name: str, number: int) -> str:
    """Return the file name for view ``number`` (from 1): NAME.png, NAME_view2.png, ..."""
    return name if number == 1 else f"{Path(name).stem}_view{number}{Path(name).suffix}"


def result_names(view_count: int) -> list[str]:
    """Return the names of one result: images, folder for 3D Slicer, surface, parameters."""
    images = [of_view(name, number) for number in range(1, view_count + 1) for name in IMAGES]
    return [*images, SLICER_FOLDER, POSED_SURFACE, PARAMETERS]
